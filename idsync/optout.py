"""An opt-out over HTTP: /demoptout, or /demoptout.jpg as an image on a page. Pure.

It names whom as a sync call does: by d_cid, d_cid_ic, dpid and dpuuid, d_mid, d_uuid; else by the cookie. A browser
that has no cookie of ours yet gets one that says no more than "opted out".
"""

from typing import NamedTuple

from idsync import decision, identity, reply
from idsync.call import Malformed, SyncCall
from idsync.decision import Decided
from idsync.declared import customers_named
from idsync.outcomes import Fault, Outcome
from idsync.settings import Settings
from idsync.signals import Signals
from idsync.store.optouts import OptOut

_DONE = "You are opted out: nothing more is stored about you here.\n"


class Asked(NamedTuple):
    """`opt_out` is None where the cookie alone can keep it."""

    call: SyncCall
    opt_out: OptOut | None
    cookie: str | None
    faults: tuple[Fault, ...]


def ask(call: SyncCall | Malformed, signals: Signals, settings: Settings, *, now: int) -> Asked | Decided:
    """Whom to opt out, or why nobody. IDs that can be nobody's are told, and the others go on."""
    if isinstance(call, Malformed):
        return decision.refuse([Fault(Outcome.WRONGLY_ENCODED, call.reason)])
    _, id_faults = customers_named(call, settings)
    faults = decision.call_faults(call, settings)
    opt_out = decision.opt_out_of(call, signals, settings, now=now)
    if faults or (id_faults and opt_out is None):
        return decision.refuse(faults + id_faults)
    known = identity.from_cookie(signals.cookie, settings.endpoint)
    cookie = None
    if opt_out is None or opt_out.uuids == (known,):
        cookie = identity.opt_out_cookie(settings.endpoint, known)
    return Asked(call, opt_out, cookie, tuple(id_faults))


def answer(asked: Asked) -> Decided:
    """The reply once the opt-out is kept: as of a sync call, but a sentence for whoever followed a link."""
    call, faults = asked.call, asked.faults
    number = len(asked.opt_out.customers) + len(asked.opt_out.uuids) if asked.opt_out else 0
    document = {"opted_out": number, "errors": decision.errors(faults)}
    headers = [("Set-Cookie", asked.cookie)] if asked.cookie else []
    dpid = asked.opt_out.customers[0][0] if asked.opt_out and asked.opt_out.customers else None
    if call.is_image or call.redir is not None or call.d_cb is not None or call.d_rtbd == "json":
        return Decided(Outcome.OPT_OUT, decision.in_shape(call, "", document, faults, headers), dpid)
    return Decided(Outcome.OPT_OUT, reply.text(200, _DONE, [*decision.error_header(faults), *headers]), dpid)
