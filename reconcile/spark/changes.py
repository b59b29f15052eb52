"""Feeds that send only changes. What was sent before goes with the customers, and then with the users.

The customers' shares tell what of it goes: of whom opted out, by either ID, and whose customer has no record any more.
The users' shares compare, and write what is sent once the run is delivered.
"""

# ruff: noqa: S608  as in reconcile.engine

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from reconcile.engine.changes import ChangesEngine, sent_schema
from reconcile.engine.outcome import Ints, Outcome
from reconcile.feed import Plan
from reconcile.optouts import OptOuts
from reconcile.sent import SEEN
from reconcile.spark.engine import ShareEngine
from reconcile.spark.parcels import Shares
from reconcile.spark.work import FILE_BITS, Before, Lost

_MARK = "mark"


class ChangesShare(ShareEngine, ChangesEngine):
    """See `ShareEngine`. Of a feed for all devices no record is silent or changed in the outcome: `mute` and `changed`
    are their numbers, as several shares may have them.
    """

    def __init__(self, plan: Plan, scratch: Path, memory_limit: str, threads: int) -> None:
        super().__init__(plan, scratch, memory_limit, threads)
        self.mute: Ints = np.empty(0, np.int64)
        self.changed: Ints = np.empty(0, np.int64)

    def load_before(self, batches: Iterator[pa.RecordBatch], now: int) -> None:
        """Take in what `recalled`, or `routed_sent`, gives, in place of `load_sent`."""
        self._now = now
        self._insert("CREATE TABLE sent_rows AS FROM source", _schema(self._plan), batches)
        self._rows(f"CREATE VIEW sent AS SELECT {', '.join(self._schema.names)}, rowid AS place FROM sent_rows")
        self._rows(f"CREATE TABLE gone AS SELECT {self._key}, traits, told FROM sent_rows WHERE told IS NOT NULL")

    def lose(self, before: Before, opt_outs: OptOuts, *, told: bool) -> Lost:
        """In the order of `reconcile.join`."""
        known, first = int(self._value("SELECT count(*) FROM sent")), 1 << FILE_BITS
        forgotten = self.take_opted_out_sent(opt_outs.dpid, opt_outs.tokens, before.users, told=told)
        if not before.complete:
            return Lost(known, forgotten, 0, [])
        vanished = self.take_vanished(first)
        return Lost(known, forgotten, vanished, self.take_vanished_held(first))

    def routed_sent(self, shares: int) -> Iterator[tuple[pa.Table, Shares]]:
        columns = ", ".join(_schema(self._plan).names)
        gone = f"SELECT {self._key}, told FROM gone"
        return self._routed(
            f"SELECT {columns}, {self._user_share(shares)} FROM sent LEFT JOIN ({gone}) USING ({self._key})"
        )

    def _count_records(self, outcome: Outcome) -> None:
        super()._count_records(outcome)
        if self._plan.every_device:
            self.changed, self.mute = (
                self._con.sql(self._records_of(table)).fetchnumpy()["seq"] for table in ("changed", "mute")
            )
            outcome.unchanged += len(self.changed) + outcome.silent
            outcome.silent = 0


def recalled(before: Before, plan: Plan, at: int) -> Iterator[pa.RecordBatch]:
    """A part of what was sent before; of none of it is told yet that it goes."""
    schema = _schema(plan)
    with parquet.ParquetFile(before.path) as file:
        groups = list(range(at, file.num_row_groups, before.parts))
        for batch in file.iter_batches(row_groups=groups, columns=sent_schema(plan).names):
            kept = batch.filter(pc.greater_equal(batch.column(SEEN), before.oldest))
            missing = {"told"} if before.marked else {"told", _MARK}
            yield pa.RecordBatch.from_arrays(
                [
                    pa.nulls(len(kept), field.type) if field.name in missing else kept.column(field.name)
                    for field in schema
                ],
                schema=schema,
            )


def _schema(plan: Plan) -> pa.Schema:
    """`told` is null unless the row goes."""
    return sent_schema(plan).append(pa.field("told", pa.bool_()))
