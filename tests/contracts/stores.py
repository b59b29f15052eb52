"""What the tests of stores work with: a way to open a store of each kind, and short names for facts."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from idsync import settings as configuration
from idsync.store import DAY, open_store
from idsync.store.base import EXPORT_SCHEMA, MappingStore, Sync

NOW = 1_790_000_000_000
LIFETIME = 120 * DAY
DPID = 12345


def uuid(number: int) -> str:
    return str(number).zfill(38)


@dataclass(frozen=True)
class Kind:
    """A way to open stores onto the same, at first empty, data."""

    url: str
    buckets: int = 64  # few, so that customers share them

    def settings(self, **changes: object) -> configuration.Store:
        store = configuration.Store(url=self.url, buckets=self.buckets, devices_per_customer=5)
        return store.model_copy(update=changes)

    def open(self, *, patient: bool = True, **changes: object) -> MappingStore:
        return open_store(self.settings(**changes), patient=patient)


def sync(customer: str, device: int | None, seen: int = NOW, *, dpid: int = DPID, fresh: int = 99) -> Sync:
    return Sync(dpid, customer, None if device is None else uuid(device), uuid(fresh), seen)


def rows(
    store: MappingStore, *, customer_ids: Sequence[str] | None = None, latest_only: bool = False
) -> list[tuple[str, str, int]]:
    found = []
    for batch in store.export(DPID, NOW, customer_ids=customer_ids, latest_only=latest_only):
        assert batch.schema == EXPORT_SCHEMA
        batch.validate(full=True)
        found += list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    return found


OPERATIONS: dict[str, Callable[[MappingStore], object]] = {
    "record": lambda store: store.record([sync("c1", 1)]),
    "devices": lambda store: store.devices(DPID, "c1", NOW),
    "latest": lambda store: store.latest([(DPID, "c1")], NOW),
    "export": lambda store: list(store.export(DPID, NOW)),
    "subset": lambda store: list(store.export(DPID, NOW, customer_ids=["c1"])),
    "sweep": lambda store: store.sweep(NOW),
    "count": lambda store: store.count(NOW),
    "check": lambda store: store.check(),
}


def elsewhere(kind: Kind, statement: str) -> str:
    """What another process prints, that opens `store`, runs `statement` and closes it."""
    program = (
        "import sys\n"
        "from idsync.settings import Store\n"
        "from idsync.store import open_store\n"
        "from idsync.store.base import Sync\n"
        "store = open_store(Store(url=sys.argv[1], buckets=64, devices_per_customer=5))\n"
        f"{statement}\n"
        "store.close()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program, kind.url], check=True, timeout=60, capture_output=True, text=True
    ).stdout


def customers_elsewhere(kind: Kind) -> set[str]:
    found = elsewhere(kind, f"for batch in store.export({DPID}, {NOW}): print(*batch.column(0).to_pylist())")
    return set(found.split())
