"""Records that wait for their customer ID to be synced: one Parquet file a feed.

Columns are `id`, `v0`, `v1`, … and `since`, in milliseconds; the file's metadata tell the DPID of the IDs and the names
of the columns. A feed may change its columns between runs: one that is no longer asked for is left behind, a signal
that the file lacks is empty. A record that lacks what decides on a trait is rejected: it says neither yes nor no.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from idsync.errors import ConfigError
from idsync.settings import DataSource, Feed
from reconcile.engine.duckdb import Reject
from reconcile.feed import Matching, OneOf, Plan, Present, RuleItem, Test, TraitsItem

SINCE = "since"
TOO_LONG, LACKING = "held-too-long", "held-without-column"
BATCH_ROWS = 100_000
_DAY = 86_400_000
_FILE = "idsync.held"


class Held:
    """The waiting records of a feed, numbered from 0. After `batches` was read, `left_out` and `since` are known.

    Raises ConfigError where they wait for IDs of another data source.
    """

    def __init__(self, path: Path, feed: Feed, source: DataSource, plan: Plan, schema: pa.Schema, *, now: int) -> None:
        self._path, self._plan, self._schema = path, plan, schema
        self._oldest = now - feed.held_days * _DAY
        self.count, self._lacking = 0, False
        self.left_out: list[Reject] = []
        self._since: list[pa.Array] = []
        if path.exists():
            file = parquet.read_metadata(path)
            told = json.loads((file.metadata or {})[_FILE.encode()])
            self.count, self._names = file.num_rows, told["columns"]
            if told["dpid"] != source.dpid:
                raise ConfigError("feeds.data_source", [_of_another(path, source, told["dpid"])])
            whole = feed.changes_only or feed.mode == "overwrite"
            lacking = [at for at, name in enumerate(plan.columns) if name not in self._names]
            self._lacking = any(_decides(plan, at, whole=whole) for at in lacking)

    @staticmethod
    def metadata(source: DataSource, plan: Plan) -> dict[str, str]:
        """What a file of held records tells of itself."""
        return {_FILE: json.dumps({"dpid": source.dpid, "columns": plan.columns})}

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Those that can still be sent."""
        if not self.count:
            return
        start = 0
        with parquet.ParquetFile(self._path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                seqs = np.arange(start, start + len(batch), dtype=np.int64)
                start += len(batch)
                old = batch.column(SINCE).to_numpy() < self._oldest
                out = old | self._lacking
                ids = batch.column("id").filter(pa.array(out)).to_pylist()
                self.left_out += [
                    Reject(int(seq), id_, TOO_LONG if late else LACKING)
                    for seq, id_, late in zip(seqs[out], ids, old[out], strict=True)
                ]
                self._since.append(batch.column(SINCE))
                columns = [batch.column("id"), *(self._values(batch, name) for name in self._plan.columns)]
                waiting = pa.RecordBatch.from_arrays([pa.array(seqs), *columns], schema=self._schema)
                yield waiting.filter(pa.array(~out))

    @property
    def since(self) -> pa.Table:
        """(seq, since) of every record taken from hold."""
        since = pa.chunked_array(self._since, pa.int64())
        return pa.table({"seq": pa.array(np.arange(len(since), dtype=np.int64)), "since": since})

    def _values(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        if name in self._names:
            return batch.column(f"v{self._names.index(name)}")
        return pa.array([""] * len(batch), pa.string())


def _of_another(path: Path, source: DataSource, dpid: int) -> str:
    return (
        f'"{source.name}": the records in {path} wait for IDs of {dpid}, not of {source.dpid}; name the feed otherwise,'
        " or remove that file and put its records into the inbox again"
    )


def _decides(plan: Plan, column: int, *, whole: bool) -> bool:
    """Whether an empty value in this column gives a trait, or takes one away; where a record says the `whole` of what
    is true of a user, all that it does not say is taken away.
    """
    rules = [item for item in plan.items if isinstance(item, RuleItem) and item.column == column]
    lists = [item for item in plan.items if isinstance(item, TraitsItem) and item.column == column]
    return bool(whole and (rules or lists)) or any(rule.removes or _takes_nothing(rule.test) for rule in rules)


def _takes_nothing(test: Test) -> bool:
    """Whether an empty value passes."""
    match test:
        case OneOf(values):
            return "" in values
        case Matching(pattern):
            return bool(pc.match_substring_regex(pa.scalar(""), f"^(?:{pattern})$").as_py())
        case Present(wanted):
            return not wanted
        case _:  # a number
            return False
