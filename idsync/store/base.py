"""What a mapping store promises. Two keep the promise: `sqlite` (embedded) and `redis` (server or cluster).

A mapping is a fact: (DPID, customer ID, UUID, last seen). Times are integer milliseconds since the epoch, UTC, and are
always arguments: a store has no clock. `customer_id` is text that `ids.customer_id_fault` accepts; it is compared byte
for byte. `uuid` is 38 digits.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import pyarrow as pa

EXPORT_SCHEMA = pa.schema(
    [
        pa.field("customer_id", pa.string(), nullable=False),
        pa.field("uuid", pa.string(), nullable=False),
        pa.field("last_seen", pa.int64(), nullable=False),
    ]
)


class Sync(NamedTuple):
    """A pair to record. Where `uuid` is None the customer's latest visible device is taken, else `fresh`.

    With a `uuid`, `fresh` says nothing and may be "". With neither, a customer without a device stays without.
    """

    dpid: int
    customer_id: str
    uuid: str | None
    fresh: str
    seen: int


class Device(NamedTuple):
    uuid: str
    last_seen: int


class Count(NamedTuple):
    customers: int
    mappings: int


class MappingStore(Protocol):
    """Facts that merge by "latest wins".

    * Durable: when `record` returns, its mappings survive the death of every process of ours. (What a power cut may
      cost is the store's setting: SQLite commits with full sync, Redis follows its `appendfsync`.)
    * Idempotent and commutative: recording the same syncs again, in any order, from any number of processes, ends in
      the same mappings. Of two times for one pair the later is kept; of a customer's devices the `devices_per_customer`
      latest are kept, equal times ordered by UUID, so that every process agrees on who is latest.
    * Atomic: each sync is read and written as one step. Two processes that ask for the UUID of one unknown customer at
      once get the same answer.
    * A mapping lives for `mapping_ttl_days` after it was last seen. Past that it is invisible to every operation, swept
      or not; a sync brings the pair back.
    * Every operation raises StoreUnavailable when the store can't be reached or refuses, and then nothing was promised.
    """

    def record(self, syncs: Sequence[Sync]) -> list[str]:
        """Store the pairs durably; the UUID that each was stored under, in order; "" where there was none to take."""

    def devices(self, dpid: int, customer_id: str, now: int) -> list[Device]:
        """The visible devices of a customer, latest first."""

    def latest(self, customers: Sequence[tuple[int, str]], now: int) -> list[Device | None]:
        """The latest visible device of each customer (DPID, customer ID), in order; None where there is none."""

    def export(
        self, dpid: int, now: int, *, customer_ids: Sequence[str] | None = None, latest_only: bool = False
    ) -> Iterator[pa.RecordBatch]:
        """The visible mappings of a data source as batches of EXPORT_SCHEMA.

        `customer_ids` (without repeats) limits the export to these customers, at a cost in proportion to their number,
        not to the store's size. `latest_only` gives exactly one row a customer: the latest device. Otherwise a
        customer's rows are adjacent, latest first. The order of customers is the store's own. Mappings recorded while
        an export runs may or may not be in it; those recorded before it began are.
        """

    def sweep(self, now: int) -> int:
        """Remove what is past its lifetime, without holding up writers; the number of mappings removed."""

    def count(self, now: int) -> Mapping[int, Count]:
        """Visible customers and mappings for each DPID that has any."""

    def check(self) -> None:
        """Raise unless the store takes a durable write right now."""

    def close(self) -> None:
        """Release connections. The store is not used afterwards."""
