"""The customer IDs that a call declares: which of them count, and what is wrong with the others.

    dpid=<DPID>&dpuuid=<ID>
    d_cid=<DPID>\\x01<ID>[\\x01<authentication state>]
    d_cid_ic=<integration code>\\x01<ID>[\\x01<authentication state>]

Each ID is judged by itself, so that a bad one among good ones costs nothing but itself. A call may carry 10 IDs, and 3
of one data source; those in excess, the later ones, are dropped. The authentication state (0 unknown, 1 authenticated,
2 logged out) is checked and no more: IDs are synced in all three.
"""

from collections.abc import Mapping
from typing import NamedTuple

from idsync import ids, signature
from idsync.call import SyncCall
from idsync.outcomes import Fault, Outcome
from idsync.settings import DataSource, Settings
from idsync.signals import Signals
from idsync.signature import Keys
from idsync.visitors import allowed_origin

MAX_IDS = 10
MAX_IDS_PER_DATA_SOURCE = 3
SEPARATOR = "\x01"
_AUTHENTICATION_STATES = frozenset({"", "0", "1", "2"})


class Declared(NamedTuple):
    """A customer ID that may be stored. `place` names the parameter for messages."""

    place: str
    source: DataSource
    customer_id: str


class _Given(NamedTuple):
    place: str
    dpid: str | None
    code: str | None
    customer_id: str


def declared(
    call: SyncCall, signals: Signals, settings: Settings, keys: Mapping[int, Keys], *, now: int
) -> tuple[list[Declared], list[Fault]]:
    """The IDs that count, in the order of the call, without repeats; and a fault for each that does not.

    `keys` by DPID; `now` in milliseconds since the epoch, for signatures that expire.
    """
    given, faults = _given(call)
    if len(given) == 1 and not faults:  # as it nearly always is
        judged = _judge(given[0], call, signals, settings, keys=keys, now=now)
        return ([], judged) if isinstance(judged, list) else ([judged], [])
    excess = given[MAX_IDS:]
    good: dict[tuple[int, str], Declared] = {}
    dropped: list[str] = []
    held: dict[int, int] = {}
    for each in given[:MAX_IDS]:
        judged = _judge(each, call, signals, settings, keys=keys, now=now)
        if isinstance(judged, list):
            faults += judged
            continue
        key = judged.source.dpid, judged.customer_id
        if key in good:
            continue
        held[key[0]] = held.get(key[0], 0) + 1
        if held[key[0]] > MAX_IDS_PER_DATA_SOURCE:
            dropped.append(each.place)
        else:
            good[key] = judged
    if excess:
        faults.append(Fault(Outcome.TOO_MANY_IDS, f"there are more than {MAX_IDS} customer IDs on the call"))
    if dropped:
        limit = f"there are more than {MAX_IDS_PER_DATA_SOURCE} customer IDs of one data source on the call"
        faults.append(Fault(Outcome.NAMESPACE_FULL, limit))
    dropped += [each.place for each in excess]
    faults += [Fault(Outcome.ID_DROPPED, f"{place} is dropped for the limit") for place in dropped]
    if not good and len(given) > 1:
        faults.append(Fault(Outcome.NO_CUSTOMER_ID, "none of the customer IDs on the call can be stored"))
    return list(good.values()), faults


def customers_named(call: SyncCall, settings: Settings) -> tuple[list[tuple[int, str]], list[Fault]]:
    """All customers (DPID, customer ID) that an opt-out names, and a fault for each ID that can be nobody's.

    Whoever asks must prove nothing, and no limit applies: to store less is never an abuse of the person.
    """
    given, faults = _given(call)
    customers: dict[tuple[int, str], None] = {}
    for each in given:
        source, ill = _known(each, settings)
        faults += ill
        if source is not None and not ill:
            customers[source.dpid, each.customer_id] = None
    return list(customers), faults


def _given(call: SyncCall) -> tuple[list[_Given], list[Fault]]:
    given = []
    faults = []
    if call.dpuuid is not None:
        given.append(_Given("dpuuid", call.dpid, None, call.dpuuid))
    elif call.dpid is not None:
        faults.append(Fault(Outcome.CUSTOMER_ID_INVALID, "dpid is given without dpuuid"))
        if ids.parse_dpid(call.dpid) is None:
            faults.append(Fault(Outcome.DATA_SOURCE_UNKNOWN, "dpid must be a decimal number"))
    for number, (name, value) in enumerate(call.cids, start=1):
        place = f"{name} {number}" if len(call.cids) > 1 else name
        namespace, separator, rest = value.partition(SEPARATOR)
        customer_id, _, state = rest.partition(SEPARATOR)
        if not separator:
            message = f"{place} must be a data source and a customer ID with %01 between them"
            faults.append(Fault(Outcome.CUSTOMER_ID_INVALID, message))
        elif state not in _AUTHENTICATION_STATES:
            message = f"{place}: the authentication state must be 0, 1 or 2"
            faults.append(Fault(Outcome.CUSTOMER_ID_INVALID, message))
        elif name == "d_cid":
            given.append(_Given(place, namespace, None, customer_id))
        else:
            given.append(_Given(place, None, namespace, customer_id))
    return given, faults


def _judge(
    given: _Given, call: SyncCall, signals: Signals, settings: Settings, *, keys: Mapping[int, Keys], now: int
) -> Declared | list[Fault]:
    source, faults = _known(given, settings)
    if source is not None and source.denied:
        faults.append(Fault(Outcome.DATA_SOURCE_DENIED, f"{given.place}: its data source takes no sync calls"))
    if source is None or faults:
        return faults
    named = Declared(given.place, source, given.customer_id)
    if not source.referers and source.signature == "off":
        return named
    return _unproven(named, call, signals, settings, keys=keys, now=now) or named


def _known(given: _Given, settings: Settings) -> tuple[DataSource | None, list[Fault]]:
    """The data source, and what is wrong with the ID by itself."""
    faults = []
    source, unknown = _source(given, settings)
    reason = ids.customer_id_fault(given.customer_id, source.id_rules if source else None)
    if reason:
        outcome = Outcome.DEVICE_ID_INVALID if reason == ids.DEVICE_ID_SHAPE else Outcome.CUSTOMER_ID_INVALID
        faults.append(Fault(outcome, f"{given.place}: {ids.EXPLANATIONS[reason]}", reason))
    if source is None:
        faults.append(Fault(Outcome.DATA_SOURCE_UNKNOWN, unknown))
    return source, faults


def _unproven(
    named: Declared, call: SyncCall, signals: Signals, settings: Settings, *, keys: Mapping[int, Keys], now: int
) -> list[Fault] | None:
    """What keeps this call from naming this ID: the page that it comes from, or its signature. None if nothing does."""
    source = named.source
    if not allowed_origin(signals.origin, signals.referer, source.referers):
        return [Fault(Outcome.REFERER_REFUSED, f"{named.place}: this page may not sync IDs of its data source")]
    if source.signature == "off" or (source.signature == "optional" and not call.d_sig):
        return None
    # What comes back from Audience Manager was signed before anybody knew the UUID.
    came_back = call.idsync_return is not None and settings.endpoint.identity == "audience-manager"
    uuid = "" if came_back else call.d_uuid or ""
    reason = signature.verify(keys[source.dpid], call.d_sig, source.dpid, named.customer_id, uuid, now // 1000)
    return [Fault(Outcome.SIGNATURE_INVALID, f"{named.place}: {reason.explanation}")] if reason else None


def _source(given: _Given, settings: Settings) -> tuple[DataSource | None, str]:
    """The data source, or why there is none."""
    if given.code is not None:
        found = settings.sources_by_code.get(given.code)
        return found, f"{given.place}: there is no data source of this endpoint with this integration code"
    if given.dpid is None:
        return None, "dpuuid is given without dpid"
    dpid = ids.parse_dpid(given.dpid)
    if dpid is None:
        return None, "dpid must be a decimal number" if given.place == "dpuuid" else f"{given.place}: no DPID"
    where = "dpid" if given.place == "dpuuid" else given.place
    return settings.sources_by_dpid.get(dpid), f"{where} is no data source of this endpoint"
