"""What a sync call comes to. `admit` decides before the store is asked, `answer` after; neither does any I/O.

Order of the checks, where several would refuse:
1. encoding (311): nothing else on a damaged call can be trusted;
2. redir, d_cb, d_uuid, d_mid and the customer IDs, all faults told at once (400): a broken tag looks the same to every
   visitor. Customer IDs are judged one by one, and the good ones among them go on;
3. a browser that has opted out (171), then consent (315): before any identity is looked at, so that a refused call
   neither mints, nor asks Audience Manager;
4. who asks: what a browser fetches for nobody yet, or a crawler, is answered and not stored;
5. identity.
Whether a customer or a device has opted out (171) only the store knows: of what is recorded it tells by itself, and
where nothing is to be recorded it is asked, see `Admitted.work`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from idsync import consent, identity, ids, redirect, reply, visitors
from idsync.call import Malformed, SyncCall
from idsync.declared import MAX_IDS, Declared, customers_named, declared
from idsync.outcomes import Fault, Outcome
from idsync.reply import Reply
from idsync.settings import Settings
from idsync.signals import Signals
from idsync.signature import Keys
from idsync.store.base import Check, Sync
from idsync.store.optouts import OptOut

RETRY_AFTER_SECONDS = 10
MID_DPID = 0
_CALLBACK = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*(\.[A-Za-z_$][A-Za-z0-9_$]*)*")
_MAX_CALLBACK = 128
_FAULTS_OF_A_KIND = MAX_IDS + 1  # dpid without dpuuid is none of the IDs
_NOT_KEPT = {
    Outcome.STORE_UNAVAILABLE: "nothing was stored: neither the store nor the spool takes it; try again",
    Outcome.OVERLOADED: "nothing was stored: too many calls wait for the store; try again",
    Outcome.FAILED: "nothing was stored: the endpoint failed; try again",
}
_OPTED_OUT = Fault(Outcome.OPTED_OUT, "not stored: opted out")


class Decided(NamedTuple):
    """`dpid`: the data source that the call names, known here or not; None where it names none.

    `reasons`: the rules that customer IDs on the call break, see `ids`. `denial`: the word of the verdict, see
    `consent`, where that is a no. `opt_out` must be kept before the reply leaves.
    """

    outcome: Outcome
    reply: Reply
    dpid: int | None = None
    reasons: tuple[str, ...] = ()
    denial: str = ""
    opt_out: OptOut | None = None


class Admitted(NamedTuple):
    """A call that may be stored: its IDs and its device for the store, the rest for `answer`.

    `uuid` is None where the device is not known; the store then takes the latest of these customers, else `fresh`, else
    (where that is "") stores nothing. With a `location` nothing is stored either: the visitor goes there first.
    """

    call: SyncCall
    signals: Signals
    declared: Sequence[Declared]
    faults: Sequence[Fault]
    uuid: str | None
    fresh: str
    now: int
    sets_cookie: bool
    location: str = ""

    @property
    def dpid(self) -> int | None:
        return self.declared[0].source.dpid if self.declared else None

    def work(self) -> tuple[Sync, ...] | Check | None:
        """What the store is to be asked: the syncs, all of one device; or only who has opted out; or nothing."""
        uuid, fresh, now = self.uuid, self.fresh, self.now
        if self.location:
            return Check(tuple(self._customers()), ())
        if len(self.declared) == 1 and not self.call.d_mid:  # as it nearly always is
            (each,) = self.declared
            return (Sync(each.source.dpid, each.customer_id, uuid, fresh, now),)
        syncs = tuple([Sync(dpid, customer_id, uuid, fresh, now) for dpid, customer_id in self._customers()])
        return syncs or (Check((), (uuid,)) if uuid else None)

    def _customers(self) -> list[tuple[int, str]]:
        """An ECID is kept as if it were an ID of data source 0, which no call can name: it leads back to the device
        when neither cookie nor UUID does.
        """
        named = [(each.source.dpid, each.customer_id) for each in self.declared]
        return [*named, (MID_DPID, self.call.d_mid)] if self.call.d_mid else named


def admit(
    call: SyncCall | Malformed,
    signals: Signals,
    settings: Settings,
    keys: Mapping[int, Keys],
    *,
    now: int,
    entropy: Callable[[int], bytes],
) -> Admitted | Decided:
    """`keys` that signatures are verified with, by DPID; `now` in milliseconds since the epoch; `entropy` gives so many
    random bytes, for the UUID of an unknown customer.
    """
    if isinstance(call, Malformed):
        return refuse([Fault(Outcome.WRONGLY_ENCODED, call.reason)])
    good, id_faults = declared(call, signals, settings, keys, now=now)
    mints = settings.endpoint.identity == "mint"
    if not good and not id_faults and not (call.asks_id and (mints or call.d_uuid)):
        nothing = "there is no customer ID on the call; give dpid and dpuuid, or d_cid"
        id_faults = [Fault(Outcome.NO_CUSTOMER_ID, nothing)]
    faults = call_faults(call, settings)
    if faults or (id_faults and not good):
        return refuse(faults + id_faults, _first_dpid(good, call))
    dpid = _first_dpid(good, call)
    uuid = call.d_uuid
    if uuid is None and mints:
        uuid = identity.from_cookie(signals.cookie, settings.endpoint)
    if identity.opted_out(signals.cookie, settings.endpoint):
        return told(Outcome.OPTED_OUT, call, "", [_OPTED_OUT], dpid)
    verdict = consent.verdict(call, signals.sec_gpc, settings.privacy)
    if not verdict.allowed:
        denied = Fault(Outcome.CONSENT_DENIED, f"not stored: {verdict.reason}")
        asked = opt_out_of(call, signals, settings, now=now) if settings.privacy.optout_on_denial else None
        # What a signal was that granted nothing is not for the next hop either: the macros of consent go with the UUID.
        unsaid = call._replace(gdpr=None, gdpr_consent=None)
        return told(denied.outcome, unsaid, "", [denied], dpid)._replace(denial=verdict.word, opt_out=asked)
    if nobody := _nobody(signals, settings):
        return told(nobody.outcome, call, uuid or "", [nobody, *id_faults], dpid)
    location = fresh = ""
    if uuid is None and mints:
        fresh = ids.uuid_from_bytes(entropy(ids.UUID_ENTROPY_BYTES))
    elif uuid is None and not call.asks_id:
        location = identity.ask_audience_manager(call, good, settings.endpoint.public_url)
    # A UUID that came in the URL is whoever's wrote the URL: it must not become this visitor's cookie.
    sets_cookie = mints and call.d_uuid is None
    return Admitted(call, signals, good, id_faults, uuid, fresh, now, sets_cookie, location)


def opt_out_of(call: SyncCall, signals: Signals, settings: Settings, *, now: int) -> OptOut | None:
    """Everybody whom a call names, by customer IDs, UUID, ECID or cookie; None where that is nobody. A UUID on the call
    stands for the device, in place of that of the cookie and of those linked to the customers.
    """
    customers, _ = customers_named(call, settings)
    if call.d_mid:
        customers.append((MID_DPID, call.d_mid))
    uuid = call.d_uuid or identity.from_cookie(signals.cookie, settings.endpoint)
    if not customers and not uuid:
        return None
    return OptOut(tuple(customers), (uuid,) if uuid else (), now, takes_devices=call.d_uuid is None)


def deny(admitted: Admitted, faults: Sequence[Fault | None]) -> Admitted | Decided:
    """Leave out the customer IDs that have a fault, which stand in the order of `admitted.declared`."""
    kept = [each for each, fault in zip(admitted.declared, faults, strict=True) if fault is None]
    told = [*admitted.faults, *dict.fromkeys(fault for fault in faults if fault is not None)]
    if not kept:
        return refuse(told, admitted.dpid)
    return admitted._replace(declared=kept, faults=told)


def answer(admitted: Admitted, outcome: Outcome, uuid: str, settings: Settings) -> Decided:
    """The reply to a call that was admitted, by what became of its syncs; `uuid` is what they were stored under.

    The cookie's life starts again, as the mapping's does.
    """
    call, dpid = admitted.call, admitted.dpid
    if outcome in _NOT_KEPT:
        return not_kept(outcome, dpid)
    if outcome is Outcome.OPTED_OUT:
        return told(outcome, call, "", [_OPTED_OUT, *admitted.faults], dpid)
    if admitted.location:
        asking = reply.redirect(admitted.location, error_header(admitted.faults))
        return Decided(Outcome.UUID_ASKED, asking, dpid, _reasons(admitted.faults))
    cookie = []
    if admitted.sets_cookie and uuid:
        cookie = [("Set-Cookie", identity.set_cookie(settings.endpoint, uuid, settings.store.mapping_ttl_days))]
    stored = len(admitted.declared) if uuid else 0
    if not stored:
        outcome = Outcome.UUID_TOLD
    return told(outcome, call, uuid, admitted.faults, dpid, stored=stored, extra=cookie)


def not_kept(outcome: Outcome, dpid: int | None = None) -> Decided:
    """The reply when the sync reached neither store nor spool, or a defect of ours kept the call from being decided."""
    return refuse([Fault(outcome, _NOT_KEPT[outcome])], dpid, [("Retry-After", str(RETRY_AFTER_SECONDS))])


def too_many(retry_after_seconds: int) -> Decided:
    """The reply to a client that calls too often."""
    fault = Fault(Outcome.RATE_LIMITED, "too many calls from this address; try again later")
    return refuse([fault], None, [("Retry-After", str(retry_after_seconds))])


# --- faults ----------------------------------------------------------------------------------------------------------


def call_faults(call: SyncCall, settings: Settings) -> list[Fault]:
    """What is wrong with a call whatever it names."""
    return _redirect_faults(call, settings) + _callback_faults(call) + _uuid_faults(call)


def _redirect_faults(call: SyncCall, settings: Settings) -> list[Fault]:
    if call.redir is None:
        return []
    reason = redirect.fault(call.redir, settings.endpoint.redirect_hosts)
    return [Fault(Outcome.REDIRECT_REFUSED, reason)] if reason else []


def _callback_faults(call: SyncCall) -> list[Fault]:
    if call.d_cb is None or (len(call.d_cb) <= _MAX_CALLBACK and _CALLBACK.fullmatch(call.d_cb)):
        return []
    return [Fault(Outcome.CALLBACK_INVALID, "d_cb must be the name of a function: letters, digits, _, $ and dots")]


def _uuid_faults(call: SyncCall) -> list[Fault]:
    faults = []
    if call.d_mid is not None and not ids.is_uuid(call.d_mid):
        faults.append(Fault(Outcome.ECID_INVALID, f"d_mid must be {ids.UUID_DIGITS} decimal digits"))
    if call.d_uuid is None and call.idsync_return is not None:
        faults.append(Fault(Outcome.UUID_INVALID, "the call came back from Audience Manager without d_uuid"))
    if call.d_uuid is not None and not ids.is_uuid(call.d_uuid):
        faults.append(Fault(Outcome.UUID_INVALID, f"d_uuid must be {ids.UUID_DIGITS} decimal digits"))
    return faults


def _nobody(signals: Signals, settings: Settings) -> Fault | None:
    """Why nobody looks at the page that this call is on, as far as the caller says so."""
    if visitors.prefetched(signals.sec_purpose, signals.purpose, signals.x_moz, signals.x_purpose):
        return Fault(
            Outcome.PREFETCHED, "not stored: the browser fetches ahead; the call counts when the page is shown"
        )
    if settings.abuse.ignore_bots and visitors.is_declared_bot(signals.user_agent):
        return Fault(Outcome.BOT, "not stored: User-Agent names a bot")
    return None


def _first_dpid(good: Sequence[Declared], call: SyncCall) -> int | None:
    return good[0].source.dpid if good else ids.parse_dpid(call.dpid or "")


# --- replies ---------------------------------------------------------------------------------------------------------


def refuse(faults: Sequence[Fault], dpid: int | None = None, extra: Sequence[tuple[str, str]] = ()) -> Decided:
    """JSON whatever the call asked for: an <img> shows nothing either way, and whoever looks wants to know why."""
    outcome = faults[0].outcome
    document = reply.document(outcome.status, _document("", 0, faults), [*error_header(faults), *extra])
    return Decided(outcome, document, dpid, _reasons(faults))


def told(
    outcome: Outcome,
    call: SyncCall,
    uuid: str,
    faults: Sequence[Fault],
    dpid: int | None,
    *,
    stored: int = 0,
    extra: Sequence[tuple[str, str]] = (),
) -> Decided:
    """The reply in the shape that the call asks for."""
    shaped = in_shape(call, uuid, _document(uuid, stored, faults), faults, extra)
    return Decided(outcome, shaped, dpid, _reasons(faults))


def in_shape(
    call: SyncCall, uuid: str, document: Mapping[str, object], faults: Sequence[Fault], extra: Sequence[tuple[str, str]]
) -> Reply:
    """A redirect if the call gives one, else JSON, by itself or in a script, if it asks for that, else a pixel."""
    headers = [*error_header(faults), *extra]
    if call.redir is not None:
        return reply.redirect(redirect.expand(call.redir, uuid, call.gdpr or "", call.gdpr_consent or ""), headers)
    if call.d_cb is not None:
        return reply.script(call.d_cb, document, headers)
    if call.d_rtbd == "json" or call.asks_id:
        return reply.document(200, document, headers)
    return reply.pixel(200, headers)


def _document(uuid: str, stored: int, faults: Sequence[Fault]) -> dict[str, object]:
    return {"uuid": uuid, "stored": stored, "errors": errors(faults)}


def errors(faults: Sequence[Fault]) -> list[dict[str, object]]:
    """Code 0 stands for what Audience Manager's table has no code for.

    A kind of fault is told so often that each ID within a call's limit has its own; of the rest only the number is
    told, because what is malformed has no limit, and a small call must not have a large reply.
    """
    told: list[dict[str, object]] = []
    counts: dict[tuple[Outcome, str], int] = {}
    for fault in faults:
        kind = fault.outcome, fault.reason
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] <= _FAULTS_OF_A_KIND:
            told.append({"code": fault.outcome.code or 0, "msg": fault.message})
    for (outcome, _), count in counts.items():
        if (more := count - _FAULTS_OF_A_KIND) > 0:
            told.append({"code": outcome.code or 0, "msg": f"and {more} more of this kind"})
    return told


def error_header(faults: Sequence[Fault]) -> list[tuple[str, str]]:
    if not faults:
        return []
    codes = dict.fromkeys(str(fault.outcome.code) for fault in faults if fault.outcome.code is not None)
    return [("X-Error", ",".join(codes))] if codes else []


def _reasons(faults: Sequence[Fault]) -> tuple[str, ...]:
    return tuple([fault.reason for fault in faults if fault.reason]) if faults else ()
