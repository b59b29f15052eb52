"""What a sync call comes to. `admit` decides before the store is asked, `answer` after; neither does any I/O.

Order of the checks, where several would refuse:
1. encoding (311): nothing else on a damaged call can be trusted;
2. redir, d_uuid, dpid and dpuuid, all faults told at once (400): a broken tag looks the same to every visitor;
3. consent (315): before any identity is looked at, so that a refused call neither mints, nor asks Audience Manager;
4. identity.
"""

from collections.abc import Sequence
from typing import NamedTuple

from idsync import consent, identity, ids, redirect, reply
from idsync.call import Malformed, SyncCall
from idsync.outcomes import Fault, Outcome
from idsync.reply import Reply
from idsync.settings import Settings
from idsync.store.base import Sync

RETRY_AFTER_SECONDS = 10
_NOT_KEPT = {
    Outcome.STORE_UNAVAILABLE: "nothing was stored: neither the store nor the spool takes it; try again",
    Outcome.OVERLOADED: "nothing was stored: too many calls wait for the store; try again",
    Outcome.FAILED: "nothing was stored: the endpoint failed; try again",
}
CUSTOMER_ID_EXPLANATIONS = {rule.reason: rule.explanation for rule in ids.CUSTOMER_ID_RULES} | {
    ids.ID_TOO_LONG: f"the customer ID is longer than {ids.MAX_CUSTOMER_ID_BYTES} bytes"
}


class Signals(NamedTuple):
    """The headers that bear on a call: Cookie and Sec-GPC, "" where there is none."""

    cookie: str = ""
    sec_gpc: str = ""


class Decided(NamedTuple):
    """`dpid`: the data source that the call names, known here or not; None where it names none."""

    outcome: Outcome
    reply: Reply
    dpid: int | None = None


class Admitted(NamedTuple):
    """A call that may be stored: `sync` for the store, the rest for `answer`."""

    sync: Sync
    call: SyncCall
    sets_cookie: bool


def admit(
    call: SyncCall | Malformed, signals: Signals, settings: Settings, *, now: int, entropy: bytes
) -> Admitted | Decided:
    """`now` in milliseconds since the epoch; `entropy`: ids.UUID_ENTROPY_BYTES for the UUID of an unknown customer."""
    if isinstance(call, Malformed):
        return _refuse([Fault(Outcome.WRONGLY_ENCODED, call.reason)])
    dpid = ids.parse_dpid(call.dpid or "")
    faults = _redirect_faults(call, settings) + _uuid_faults(call) + _customer_id_faults(call, dpid, settings)
    if faults or dpid is None or call.dpuuid is None:
        return _refuse(faults, dpid)
    verdict = consent.verdict(call, signals.sec_gpc, settings.privacy.gdpr_default)
    if not verdict.allowed:
        denied = Fault(Outcome.CONSENT_DENIED, f"not stored: {verdict.reason}")
        return Decided(Outcome.CONSENT_DENIED, _reply(call, "", faults=[denied]), dpid)
    uuid = call.d_uuid
    mints = settings.endpoint.identity == "mint"
    if uuid is None and mints:
        uuid = identity.from_cookie(signals.cookie, settings.endpoint.cookie_name)
    elif uuid is None:
        location = identity.ask_audience_manager(call, settings.endpoint.public_url)
        return Decided(Outcome.UUID_ASKED, reply.redirect(location), dpid)
    sync = Sync(dpid, call.dpuuid, uuid, "" if uuid else ids.uuid_from_bytes(entropy), now)
    # A UUID that came in the URL is whoever's wrote the URL: it must not become this visitor's cookie.
    return Admitted(sync, call, sets_cookie=mints and call.d_uuid is None)


def answer(admitted: Admitted, outcome: Outcome, uuid: str, settings: Settings) -> Decided:
    """The reply to a call that was admitted, by what became of its sync; `uuid` is what it was stored under.

    The cookie's life starts again, as the mapping's does.
    """
    if outcome in _NOT_KEPT:
        return not_kept(outcome, admitted.sync.dpid)
    cookie = []
    if admitted.sets_cookie:
        days = settings.store.mapping_ttl_days
        cookie = [("Set-Cookie", identity.set_cookie(settings.endpoint.cookie_name, uuid, days))]
    return Decided(outcome, _reply(admitted.call, uuid, stored=1, extra=cookie), admitted.sync.dpid)


def not_kept(outcome: Outcome, dpid: int | None = None) -> Decided:
    """The reply when the sync reached neither store nor spool, or a defect of ours kept the call from being decided."""
    return _refuse([Fault(outcome, _NOT_KEPT[outcome])], dpid, [("Retry-After", str(RETRY_AFTER_SECONDS))])


# --- faults ----------------------------------------------------------------------------------------------------------


def _redirect_faults(call: SyncCall, settings: Settings) -> list[Fault]:
    if call.redir is None:
        return []
    reason = redirect.fault(call.redir, settings.endpoint.redirect_hosts)
    return [Fault(Outcome.REDIRECT_REFUSED, reason)] if reason else []


def _uuid_faults(call: SyncCall) -> list[Fault]:
    if call.d_uuid is None and call.idsync_return is not None:
        return [Fault(Outcome.UUID_INVALID, "the call came back from Audience Manager without d_uuid")]
    if call.d_uuid is not None and not ids.is_uuid(call.d_uuid):
        return [Fault(Outcome.UUID_INVALID, f"d_uuid must be {ids.UUID_DIGITS} decimal digits")]
    return []


def _customer_id_faults(call: SyncCall, dpid: int | None, settings: Settings) -> list[Fault]:
    if call.dpid is None and call.dpuuid is None:
        return [Fault(Outcome.NO_CUSTOMER_ID, "there is no customer ID on the call; give dpid and dpuuid")]
    faults = []
    if call.dpuuid is None:
        faults.append(Fault(Outcome.CUSTOMER_ID_INVALID, "dpid is given without dpuuid"))
    elif reason := ids.customer_id_fault(call.dpuuid):
        faults.append(Fault(Outcome.CUSTOMER_ID_INVALID, f"dpuuid: {CUSTOMER_ID_EXPLANATIONS[reason]}"))
    if dpid is None:
        given = "dpuuid is given without dpid" if call.dpid is None else "dpid must be a decimal number"
        faults.append(Fault(Outcome.DATA_SOURCE_UNKNOWN, given))
    elif dpid not in settings.dpids:
        faults.append(Fault(Outcome.DATA_SOURCE_UNKNOWN, "dpid is no data source of this endpoint"))
    return faults


# --- replies ---------------------------------------------------------------------------------------------------------


def _refuse(faults: list[Fault], dpid: int | None = None, extra: Sequence[tuple[str, str]] = ()) -> Decided:
    """JSON whatever the call asked for: an <img> shows nothing either way, and whoever looks wants to know why."""
    outcome = faults[0].outcome
    document = reply.document(outcome.status, _document("", 0, faults), [*_error_header(faults), *extra])
    return Decided(outcome, document, dpid)


def _reply(
    call: SyncCall, uuid: str, *, stored: int = 0, faults: Sequence[Fault] = (), extra: Sequence[tuple[str, str]] = ()
) -> Reply:
    """The reply in the shape that the call asks for: redirect, else JSON, else pixel."""
    headers = [*_error_header(faults), *extra]
    if call.redir is not None:
        return reply.redirect(redirect.expand(call.redir, uuid), headers)
    if call.d_rtbd == "json":
        return reply.document(200, _document(uuid, stored, faults), headers)
    return reply.pixel(200, headers)


def _document(uuid: str, stored: int, faults: Sequence[Fault]) -> dict[str, object]:
    """Code 0 stands for what Audience Manager's table has no code for."""
    errors = [{"code": fault.outcome.code or 0, "msg": fault.message} for fault in faults]
    return {"uuid": uuid, "stored": stored, "errors": errors}


def _error_header(faults: Sequence[Fault]) -> list[tuple[str, str]]:
    codes = [str(fault.outcome.code) for fault in faults if fault.outcome.code is not None]
    return [("X-Error", ",".join(codes))] if codes else []
