"""What store and spool hold of people, and its end: access, opt-out and erasure."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from idsync.persons import Person, all_customers, all_uuids
from idsync.settings import Settings
from idsync.store.base import Device, MappingStore, Pair
from idsync.store.optouts import OptOut
from idsync.store.spool import Spool

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def find(
    settings: Settings, store: MappingStore, spool: Spool | None, people: Sequence[Person], now: int
) -> list[dict[str, object]]:
    """Of each person the mappings (a customer's devices, latest first; a device's customers), how many wait in the
    spool, and since when the opt-out holds.
    """
    names: dict[int, str] = {source.dpid: source.name for source in settings.data_sources}
    customers_of: dict[str, list[Pair]] = defaultdict(list)
    uuids = all_uuids(people)
    for pair in store.find(uuids) if uuids else ():
        customers_of[pair.uuid].append(pair)
    found = []
    for person in people:
        (since,) = store.opted_out(person.customers, person.uuids)
        if person.source is not None:
            devices = store.devices(person.source.dpid, person.customer_id, now)
            held: dict[str, object] = {"devices": [_device(device) for device in devices]}
            spooled = len(spool.devices(person.source.dpid, person.customer_id, now)) if spool else 0
        else:
            held = {"customers": [_customer(pair, names) for pair in sorted(customers_of[person.uuid])]}
            spooled = len(spool.find([person.uuid])) if spool else 0
        state = {"opted_out": None if since is None else _time(since), "spooled": spooled}
        found.append({**person.as_dict(), **held, **state})
    return found


def opt_out(store: MappingStore, people: Sequence[Person], now: int) -> int:
    """Opt out and remove the mappings; how many. Those of devices cost a look at the whole store."""
    uuids = all_uuids(people)
    removed = store.opt_out(OptOut(all_customers(people), uuids, now, takes_devices=True))
    return removed + (store.remove(store.find(uuids)) if uuids else 0)


def erase(
    store: MappingStore, spool: Spool | None, people: Sequence[Person], now: int
) -> tuple[list[dict[str, object]], bool]:
    """Opt out, remove, and let nothing stay behind in the files; what was removed of each person, and whether the
    store let us see to its files.

    The opt-outs come first, so that nothing is stored anew meanwhile.
    """
    uuids = all_uuids(people)
    store.opt_out(OptOut((), uuids, now, takes_devices=False))
    linked: dict[str, list[Pair]] = defaultdict(list)
    for pair in store.find(uuids) if uuids else ():
        linked[pair.uuid].append(pair)
    removed = []
    for person in people:
        if person.source is not None:
            mappings = store.opt_out(OptOut(person.customers, (), now, takes_devices=True))
        else:
            mappings = store.remove(linked[person.uuid])
        spooled = spool.erase(person.customers, person.uuids) if spool else 0
        removed.append(
            {**person.as_dict(), "mappings_removed": mappings, "spooled_removed": spooled, "opted_out": True}
        )
    if spool:
        spool.scrub()
    return removed, store.scrub()


def _device(device: Device) -> dict[str, str]:
    return {"uuid": device.uuid, "last_seen": _time(device.last_seen)}


def _customer(pair: Pair, names: dict[int, str]) -> dict[str, object]:
    """A data source that the settings do not know has no name; 0 is that of ECIDs."""
    return {"data_source": names.get(pair.dpid), "dpid": pair.dpid, "customer_id": pair.customer_id}


def _time(milliseconds: int) -> str:
    time = _EPOCH + timedelta(milliseconds=milliseconds)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
