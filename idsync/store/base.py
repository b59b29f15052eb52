"""What a mapping store promises. Two keep the promise: `sqlite` (embedded) and `redis` (server or cluster).

A mapping is a fact: (DPID, customer ID, UUID, last seen). Times are integer milliseconds since the epoch, UTC, and are
always arguments: a store has no clock. `customer_id` is text that `ids.customer_id_fault` accepts; it is compared byte
for byte. `uuid` is 38 digits.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import pyarrow as pa

from idsync.store.optouts import OptOut, Token

OPTED_OUT = "opted-out"  # in place of a UUID
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


class Check(NamedTuple):
    """In place of syncs, where nothing is to be stored: who must not have opted out, customers (DPID, customer ID) and
    UUIDs.
    """

    customers: tuple[tuple[int, str], ...]
    uuids: tuple[str, ...]


class Device(NamedTuple):
    uuid: str
    last_seen: int


class Count(NamedTuple):
    customers: int
    mappings: int


class Pair(NamedTuple):
    """A mapping, wherever it is held; it may be past its lifetime, or of an opted-out device."""

    dpid: int
    customer_id: str
    uuid: str


class Part(NamedTuple):
    """Some customers of a data source, in the store's own terms: from `first` on, up to `end`, which is not among them.

    An empty `end` stands for all that is left.
    """

    first: str
    end: str


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
    * From the moment `opt_out` returns, `record` stores nothing for these customers and devices, on any worker, and
      every operation leaves out their mappings; those of the customers are removed with it, those of the devices when
      they are swept. That ends with `opt_in` alone: an opt-out has no lifetime, and is never evicted.
    * Every operation raises StoreUnavailable when the store can't be reached or refuses, and then nothing was promised.
    """

    def record(self, syncs: Sequence[Sync]) -> list[str]:
        """Store the pairs durably; the UUID that each was stored under, in order; "" where there was none to take,
        OPTED_OUT where customer or device is.
        """

    def devices(self, dpid: int, customer_id: str, now: int) -> list[Device]:
        """The visible devices of a customer, latest first."""

    def latest(self, customers: Sequence[tuple[int, str]], now: int) -> list[Device | None]:
        """The latest visible device of each customer (DPID, customer ID), in order; None where there is none."""

    def export(
        self,
        dpid: int,
        now: int,
        *,
        customer_ids: Sequence[str] | None = None,
        latest_only: bool = False,
        part: Part | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The visible mappings of a data source, or of a `part` of it, as batches of EXPORT_SCHEMA.

        `customer_ids` (without repeats) limits the export to these customers, at a cost in proportion to their number,
        not to the store's size. `latest_only` gives exactly one row a customer: the latest device. Otherwise a
        customer's rows are adjacent, latest first. The order of customers is the store's own. Mappings recorded while
        an export runs may or may not be in it; those recorded before it began are.
        """

    def parts(self, dpid: int, most: int) -> list[Part]:
        """A data source in up to `most` parts of about one size, for exports side by side: every customer, whenever it
        is recorded, is in exactly one of them.
        """

    def sample(self, dpid: int, now: int, most: int) -> list[str]:
        """Up to `most` customers of a data source who have visible mappings, from all over it. What it costs does not
        depend on how many there are.
        """

    def sweep(self, now: int) -> int:
        """Remove what is past its lifetime or of an opted-out device, without holding up writers; the number of
        mappings removed.
        """

    def opt_out(self, asked: OptOut) -> int:
        """See above; the number of mappings removed. Can be repeated: the first time stays the time of it."""

    def opt_in(self, customers: Sequence[tuple[int, str]], uuids: Sequence[str]) -> int:
        """Reverse opt-outs; how many there were. A device that went along with a customer comes back with it, unless it
        was opted out on its own account too. What was removed is not brought back.
        """

    def opted_out(self, customers: Sequence[tuple[int, str]], uuids: Sequence[str]) -> list[int | None]:
        """Since when each is opted out, customers first; None for those that are not."""

    def opt_outs(self) -> Mapping[str, int]:
        """The names of all tokens, see `optouts`, and since when. Costs in proportion to their number."""

    def tokens(self) -> Mapping[Token, int]:
        """The same, whole: what `adopt` takes."""

    def adopt(self, tokens: Mapping[Token, int]) -> None:
        """Take over the opt-outs of another store. What is here of these customers is not removed by it."""

    def find(self, uuids: Sequence[str]) -> list[Pair]:
        """Every mapping of these devices, at the cost of a look at the whole store."""

    def remove(self, pairs: Sequence[Pair]) -> int:
        """Remove mappings; how many there were. Nothing keeps them from being recorded again."""

    def count(self, now: int) -> Mapping[int, Count]:
        """Visible customers and mappings for each DPID that has any."""

    def scrub(self) -> bool:
        """Let nothing of what was removed stay behind in the store's files; False where that is not in our hands."""

    def check(self) -> None:
        """Raise unless the store takes a durable write right now."""

    def close(self) -> None:
        """Release connections. The store is not used afterwards."""
