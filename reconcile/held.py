"""Records that wait for their customer ID to be synced: one Parquet file a feed.

Columns are those of the feed, under their own names, and `__held_since` in milliseconds. A feed may change its columns
between runs: one that the file lacks is empty, one that is no longer asked for is left behind.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from reconcile.engine.duckdb import Reject
from reconcile.feed import Plan

SINCE = "__held_since"
BATCH_ROWS = 100_000
_DAY = 86_400_000


class Held:
    """The waiting records of a feed, numbered from 0. After `batches` was read, `expired` and `since` are known."""

    def __init__(self, path: Path, plan: Plan, schema: pa.Schema, *, now: int, days: int) -> None:
        self._path, self._plan, self._schema = path, plan, schema
        self._oldest = now - days * _DAY
        self.count = parquet.read_metadata(path).num_rows if path.exists() else 0
        self.expired: list[Reject] = []
        self._since: list[pa.Array] = []

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Those that have not waited too long."""
        if not self.count:
            return
        start = 0
        with parquet.ParquetFile(self._path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                seqs = np.arange(start, start + len(batch), dtype=np.int64)
                start += len(batch)
                since = batch.column(SINCE).to_numpy()
                names = (self._plan.id_column, *self._plan.columns)
                columns = [_column(batch, name) for name in names]
                old = since < self._oldest
                ids = columns[0].filter(pa.array(old)).to_pylist()
                self.expired += [
                    Reject(int(seq), id_, "held-too-long") for seq, id_ in zip(seqs[old], ids, strict=True)
                ]
                self._since.append(batch.column(SINCE))
                waiting = pa.RecordBatch.from_arrays([pa.array(seqs), *columns], schema=self._schema)
                yield waiting.filter(pa.array(~old))

    @property
    def since(self) -> pa.Table:
        """(seq, since) of every record taken from hold."""
        since = pa.chunked_array(self._since, pa.int64())
        return pa.table({"seq": pa.array(np.arange(len(since), dtype=np.int64)), "since": since})


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    if name in batch.schema.names:
        return batch.column(name)
    return pa.array([""] * len(batch), pa.string())
