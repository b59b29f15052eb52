"""The way back from UUIDs to customers, in DuckDB. What does not fit the memory limit spills into the scratch folder.

A line's rows are rendered as one text by replacing the commas of its list, so that no list is taken apart, and the
value buffer of the Arrow column that comes out is the content of the file. Only customers with several devices take
another way: what their devices say is put together, and each segment said once.
"""

# ruff: noqa: S608  queries are built of our own column names and patterns only

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from idsync.store.optouts import OptedOutDevices
from reconcile.engine import halves
from reconcile.engine.duckdb import Guard
from reconcile.errors import RunRefused
from reconcile.screen import text_buffer
from reconcile.segments import lines
from reconcile.segments.names import Mode
from reconcile.segments.reading import SCHEMA

BATCH_ROWS = 100_000

# What becomes of a line; reasons for refusal follow, in the order of `lines.REASONS`.
UNSEEN, MATCHED, UNMATCHED, OPTED_OUT, REJECTED = range(5)

Codes = np.ndarray[tuple[int], np.dtype[np.uint8]]


class Sink(Protocol):
    """Takes whole rows of CSV as bytes."""

    def write(self, text: memoryview, /) -> object: ...


class SegmentEngine:
    """One join. Use as a context manager; `scratch` is a folder of its own."""

    def __init__(self, scratch: Path, memory_limit: str) -> None:
        self._con = duckdb.connect(config={"memory_limit": memory_limit, "temp_directory": str(scratch)})
        # Lines pass through, mappings are looked up: DuckDB can't know how many lines a stream has, and guesses.
        self._con.execute("SET disabled_optimizers = 'build_side_probe_side'")
        self._con.execute("CREATE TABLE shared (field VARCHAR, added VARCHAR, removed VARCHAR)")

    def __enter__(self) -> "SegmentEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self._con.close()

    def load_mappings(self, batches: Iterator[pa.RecordBatch]) -> int:
        """Take in a store's export of all devices; the number of mappings."""
        schema = halves.SCHEMA.append(pa.field("several", pa.bool_(), nullable=False))
        field = (
            "CASE WHEN contains(customer_id, ',') OR contains(customer_id, '\"')"
            " THEN concat('\"', replace(customer_id, '\"', '\"\"'), '\"') ELSE customer_id END"
        )
        query = f"CREATE TABLE mappings AS SELECT high, low, {field} AS field, several FROM source"
        with self._fed(schema, _marked(halves.halved(batches))) as con:
            con.execute(query)
        return int(self._con.execute("SELECT count(*) FROM mappings").fetchall()[0][0])

    def render(
        self,
        batches: Iterator[pa.RecordBatch],
        mode: Mode | None,
        devices: OptedOutDevices,
        sink: Sink,
        fates: "Fates",
    ) -> None:
        """Join the lines of one export and hand its rows to `sink`, those of customers with several devices last."""
        with self._fed(SCHEMA, batches) as con, self._con.cursor() as beside:
            for batch in con.sql(_query(mode, opted_out=bool(devices))).to_arrow_reader(BATCH_ROWS):
                _account(batch, devices, fates)
                _, text = text_buffer(batch.column("text"))
                if len(text):
                    sink.write(text)
                shared = batch.filter(batch.column("field").is_valid())
                if len(shared):
                    beside.register("more", pa.Table.from_batches([shared.select(["field", "added", "removed"])]))
                    beside.execute("INSERT INTO shared SELECT * FROM more")
                    beside.unregister("more")
        with _spill_errors():
            for batch in self._con.sql(_MERGED).to_arrow_reader(BATCH_ROWS):
                _, text = text_buffer(batch.column("text"))
                sink.write(text)
            self._con.execute("DELETE FROM shared")

    @contextmanager
    def _fed(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection with the batches as `source`; the error that they raise, rather than DuckDB's text of it."""
        guard = Guard(batches)
        with self._con.cursor() as con:
            con.register("source", pa.RecordBatchReader.from_batches(schema, guard))
            try:
                with _spill_errors():
                    yield con
            except duckdb.Error:
                if guard.error is not None:
                    raise guard.error from None
                raise
            finally:
                con.unregister("source")
                pa.default_memory_pool().release_unused()


class Fates:
    """The fate of each line, by its number."""

    def __init__(self) -> None:
        self._fates: Codes = np.zeros(BATCH_ROWS, np.uint8)

    def put(self, seqs: "np.ndarray[tuple[int], np.dtype[np.int64]]", fate: int) -> None:
        if not len(seqs):
            return
        if (last := int(seqs.max())) >= len(self._fates):
            grown = np.zeros(max(last + 1, 2 * len(self._fates)), np.uint8)
            grown[: len(self._fates)] = self._fates
            self._fates = grown
        self._fates[seqs] = fate

    def count(self, fate: int) -> int:
        return int(np.count_nonzero(self._fates == fate))

    def seqs(self, fate: int) -> list[int]:
        found: list[int] = np.flatnonzero(self._fates == fate).tolist()
        return found


def _marked(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """With a column that tells whose customers have several mappings; a customer's rows are adjacent."""
    held: pa.RecordBatch | None = None
    before = ""
    for batch in batches:
        if not len(batch):
            continue
        if held is not None:
            yield _mark(held, before, batch.column(0)[0].as_py())
            before = held.column(0)[-1].as_py()
        held = batch
    if held is not None:
        yield _mark(held, before, "")


def _mark(batch: pa.RecordBatch, before: str, after: str) -> pa.RecordBatch:
    """`before` and `after`: the customers on both sides of the batch."""
    ids = batch.column(0)
    several = np.zeros(len(ids) + 1, np.bool_)  # whether each is the same as the one before, and one more
    several[0], several[-1] = ids[0].as_py() == before, ids[-1].as_py() == after
    several[1:-1] = pc.equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    return batch.append_column("several", pa.array(several[1:] | several[:-1]))


def _query(mode: Mode | None, *, opted_out: bool) -> str:
    """Of an export. In full ones, removed segments say nothing.

    `lists` is what follows the UUID, and most have no second list: those are not taken apart.
    """
    lists = f"substring(line, {lines.LISTS_AT}, strlen(line) - {lines.LISTS_AT})"
    added, removed = "split_part(lists, ' ', 1)", "''" if mode == "full" else "split_part(lists, ' ', 2)"
    stranger = "CASE WHEN good AND m.field IS NULL THEN line[:38] END" if opted_out else "NULL::VARCHAR"
    return f"""
        WITH parsed AS (
            SELECT seq, line, regexp_full_match(line, '{lines.LINE}') AS good,
                CASE WHEN good THEN line[:19]::UBIGINT END AS high,
                CASE WHEN good THEN line[20:38]::UBIGINT END AS low,
                {lists} AS lists
            FROM source)
        SELECT seq, good, m.field IS NOT NULL AS matched,
            CASE WHEN several THEN NULL
                WHEN NOT contains(lists, ' ') THEN {_rows("lists", "add")}
                WHEN {removed} = '' THEN {_rows(added, "add")}
                ELSE concat({_rows(added, "add")}, {_rows(removed, "remove")}) END AS text,
            CASE WHEN several THEN m.field END AS field,
            CASE WHEN several THEN {added} END AS added, CASE WHEN several THEN {removed} END AS removed,
            {stranger} AS uuid, CASE WHEN NOT good THEN line END AS bad
        FROM parsed LEFT JOIN mappings m USING (high, low)"""


def _rows(segments: str, action: str) -> str:
    """The rows of a list of segments; nothing where there is no customer."""
    return f"m.field || ',' || replace({segments}, ',', concat(',{action}\n', m.field, ',')) || ',{action}\n'"


# Who is in a segment with one of his devices is in it.
_MERGED = """
    SELECT concat(field, ',', segment, CASE WHEN bool_or(is_in) THEN ',add\n' ELSE ',remove\n' END) AS text
    FROM (
        SELECT field, unnest(string_split(added, ',')) AS segment, true AS is_in FROM shared WHERE added <> ''
        UNION ALL
        SELECT field, unnest(string_split(removed, ',')), false FROM shared WHERE removed <> '')
    GROUP BY field, segment ORDER BY field, segment"""


def _account(batch: pa.RecordBatch, devices: OptedOutDevices, fates: Fates) -> None:
    seqs = batch.column("seq").to_numpy()
    good, matched = (batch.column(name).to_numpy(zero_copy_only=False) for name in ("good", "matched"))
    fates.put(seqs[matched], MATCHED)
    strangers = good & ~matched
    fates.put(seqs[strangers], UNMATCHED)
    if devices and strangers.any():
        out = devices.among(batch.column("uuid").drop_null())
        fates.put(seqs[strangers][out], OPTED_OUT)
    if not good.all():
        bad = batch.filter(pa.array(~good))
        codes = [REJECTED + lines.REASONS.index(lines.reason(line)) for line in bad.column("bad").to_pylist()]
        at = np.array(codes)
        for code in np.unique(at):
            fates.put(bad.column("seq").to_numpy()[at == code], int(code))


@contextmanager
def _spill_errors() -> Iterator[None]:
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise RunRefused(
            f"the join ran out of memory or of room to spill: {str(error).splitlines()[0]}",
            mend="raise reconcile.memory_limit, or free disk under $TMPDIR, and run again; nothing was written",
        ) from None
