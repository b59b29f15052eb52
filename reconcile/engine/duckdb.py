"""The join in DuckDB. Whatever does not fit `memory_limit` spills into the scratch folder.

Lines are rendered inside the engine, each with its newline, so that the value buffer of the Arrow column that comes out
is the content of the file: from there to the compressor no row is touched in Python.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import duckdb
import numpy as np
import pyarrow as pa

from idsync import ids
from idsync.errors import IdsyncError
from idsync.store.base import EXPORT_SCHEMA
from reconcile import lines
from reconcile.engine import sql
from reconcile.errors import RunRefused
from reconcile.feed import Plan
from reconcile.screen import doubtful_ids, text_buffer

BATCH_ROWS = 100_000
SAMPLES = 3  # of the records with items left out
HASH_SHARE_ROWS = 5_000_000
MERGE_PART_ROWS = 500_000  # string_agg does not spill: merge as many records at a time as surely fit

Ints = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Reject:
    """A record left out: its sequence number in the run, its ID or what was made out of it, the reason."""

    seq: int
    customer_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Items of a column that can't be sent, left out of records that are: how many, and the first such records."""

    column: str
    reason: str
    items: int
    seqs: tuple[int, ...]


class Sink(Protocol):
    """Takes whole lines as bytes, with their number."""

    def write(self, text: memoryview, count: int) -> None: ...


@dataclass(slots=True)
class Outcome:
    """What became of the staged records. `records` = `matched` + the unmatched; `silent` matched but had no items,
    `unchanged` had all of theirs sent before.
    """

    records: int = 0
    matched: int = 0
    silent: int = 0
    unchanged: int = 0
    lines: int = 0
    unmatched: list[Ints] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


class DuckEngine:
    """One run's join. Use as a context manager; `scratch` must exist and be private to the run."""

    def __init__(self, plan: Plan, scratch: Path, memory_limit: str) -> None:
        self._plan = plan
        self._con = duckdb.connect(config={"memory_limit": memory_limit, "temp_directory": str(scratch)})
        columns = ", ".join(f"{name} {'BIGINT' if name == 'seq' else 'VARCHAR'}" for name in sql.record_columns(plan))
        self._con.execute(f"CREATE TABLE records ({columns})")

    def __enter__(self) -> "DuckEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self._con.close()

    @property
    def schema(self) -> pa.Schema:
        """What `stage` takes: seq (int64), id and values (string), no nulls."""
        names = sql.record_columns(self._plan)
        return pa.schema([(name, pa.int64() if name == "seq" else pa.string()) for name in names])

    def stage(self, batches: Iterator[pa.RecordBatch]) -> int:
        """Take in records; the number of them that the table holds now."""
        self._insert("INSERT INTO records SELECT * FROM source", self.schema, batches)
        return self.count()

    def count(self) -> int:
        return int(self._value("SELECT count(*) FROM records"))

    def take_faults(self, suspects: Sequence[tuple[int, int]]) -> list[Reject]:
        """Remove the records that break a rule of IDs or values, and return them.

        Only the records in `suspects` (ranges of seq, both ends included) are looked at.
        """
        if not suspects:
            return []
        ranges = " OR ".join(f"seq BETWEEN {first} AND {last}" for first, last in suspects)
        found = list(self._id_faults(ranges))
        self.drop(np.array([reject.seq for reject in found], dtype=np.int64))
        judged = f"SELECT seq, id, {sql.value_fault(self._plan)} AS reason FROM records WHERE {ranges}"
        values = [Reject(*row) for row in self._rows(f"SELECT * FROM ({judged}) WHERE reason IS NOT NULL")]
        self.drop(np.array([reject.seq for reject in values], dtype=np.int64))
        return sorted(found + values, key=lambda reject: reject.seq)

    def items_left_out(self, suspects: Sequence[tuple[int, int]]) -> list[LeftOut]:
        """What `render` will leave out, where the plan spares records; to be asked after `take_faults`."""
        if not suspects:
            return []
        ranges = " OR ".join(f"seq BETWEEN {first} AND {last}" for first, last in suspects)
        found = []
        for index, reason, count in sql.item_faults(self._plan):
            judged = f"SELECT seq, {count} AS items FROM records WHERE {ranges}"
            figures = f"SELECT sum(items), min(seq, {SAMPLES}) FROM ({judged}) WHERE items > 0"
            items, seqs = self._rows(figures)[0]
            if items:
                found.append(LeftOut(self._plan.columns[index], reason, int(items), tuple(seqs)))
        return found

    def take_opted_out(self, dpid: int, tokens: Collection[str]) -> Ints:
        """Remove the records of the customers with these tokens (see `idsync.store.optouts`); their numbers."""
        if not tokens:
            return np.empty(0, np.int64)
        self._con.register("opt_outs", pa.table({"token": pa.array(tokens, pa.string())}))
        query = f"SELECT seq FROM records WHERE {sql.opt_out_token(dpid)} IN (SELECT token FROM opt_outs)"
        found: Ints = self._con.sql(query).fetchnumpy()["seq"]
        self._con.unregister("opt_outs")
        self.drop(found)
        return found

    def drop(self, seqs: Ints) -> None:
        if len(seqs):
            self._con.register("dropped", pa.table({"seq": seqs}))
            self._con.execute("DELETE FROM records WHERE seq IN (SELECT seq FROM dropped)")
            self._con.unregister("dropped")

    def superseded(self, before: int) -> Ints:
        """Records with seq < `before` whose customer has a later record from `before` on."""
        found: Ints = self._con.sql(
            f"SELECT seq FROM records WHERE seq < {before} AND id IN (SELECT id FROM records WHERE seq >= {before})"
        ).fetchnumpy()["seq"]
        return found

    def customer_ids(self) -> list[str]:
        """The distinct customer IDs that are staged."""
        return [row[0] for row in self._rows("SELECT DISTINCT id FROM records")]

    def load_mappings(self, batches: Iterator[pa.RecordBatch]) -> int:
        """Take in a store's export, also while `stage` is at work in another thread; the number of mappings."""
        latest = ", row_number() OVER (PARTITION BY customer_id ORDER BY last_seen DESC, uuid DESC) = 1 AS latest"
        columns = f"customer_id, {sql.UUID_HALVES}{latest if self._plan.every_device else ''}"
        self._insert(f"CREATE TABLE mappings AS SELECT {columns} FROM source", EXPORT_SCHEMA, batches)
        with self._con.cursor() as con:
            (count,) = con.execute("SELECT count(*) FROM mappings").fetchall()[0]
        return int(count)

    def render(self, sink: Sink) -> Outcome:
        """Join, render, hand the lines to `sink`. Raises RunRefused if a record got lost on the way."""
        outcome = Outcome()
        staged = self.count()
        repeats = self._find_repeats()
        for batch in self._stream(sql.lines_of(self._plan, repeats=repeats)):
            _account(batch, sink, outcome)
        if outcome.records != staged:
            raise RunRefused(
                f"the join returned {outcome.records} of {staged} records",
                mend="this is a fault of the join engine; nothing was delivered; please report it with its version",
            )
        if repeats:
            self._merge(sink, outcome)
        return outcome

    def write_held(self, seqs: Ints, since: pa.Table, now: int, path: Path | None) -> int:
        """Write the latest record of each of these customers to a Parquet file, if one is named; the number of them.

        `since` (seq, since) has the time in milliseconds since when a record taken from hold has waited.
        """
        self._con.register("unmatched", pa.table({"seq": seqs}))
        self._con.register("waiting", since)
        names = [self._plan.id_column, *self._plan.columns]
        quoted = [f'"{name.replace(chr(34), chr(34) * 2)}"' for name in names]
        columns = ", ".join(
            f"{own} AS {name}" for own, name in zip(sql.record_columns(self._plan)[1:], quoted, strict=True)
        )
        query = (
            f"SELECT {columns}, coalesce(since, {now}) AS __held_since FROM records SEMI JOIN unmatched USING (seq)"
            " LEFT JOIN waiting USING (seq) QUALIFY row_number() OVER (PARTITION BY id ORDER BY seq DESC) = 1"
        )
        if path is None:
            return int(self._value(f"SELECT count(*) FROM ({query})"))
        return int(self._value(f"COPY ({query}) TO {sql.literal(str(path))} (FORMAT parquet, COMPRESSION zstd)"))

    # --- within ----------------------------------------------------------------------------------------------------

    def _id_faults(self, ranges: str) -> Iterator[Reject]:
        """By the function that judges IDs on the endpoint, so that no ID is good for one and bad for the other."""
        rules = self._plan.id_rules
        for batch in self._stream(f"SELECT seq, id FROM records WHERE {ranges}"):
            doubtful = batch.filter(pa.array(doubtful_ids(batch.column("id"), rules)))
            for seq, customer_id in zip(*(column.to_pylist() for column in doubtful.columns), strict=True):
                if reason := ids.customer_id_fault(customer_id, rules):
                    yield Reject(seq, customer_id, reason)

    def _find_repeats(self) -> bool:
        """Whether a user may stand on several records; if so, whose hash that is (a collision only costs time)."""
        hashes = {
            "repeated_ids": self._repeated("records", "id"),
            "repeated_uuids": self._repeated("mappings", "high, low") if self._plan.by_uuid else np.empty(0, np.uint64),
        }
        for name, values in hashes.items():
            self._con.register(name, pa.table({"h": values}))
        return any(len(values) for values in hashes.values())

    def _repeated(self, table: str, columns: str) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
        """The hashes of values that stand in the table more than once; a share of them at a time, to save memory."""
        shares = int(self._value(f"SELECT count(*) FROM {table}")) // HASH_SHARE_ROWS + 1
        found = []
        for share in range(shares):
            query = f"SELECT hash({columns}) AS h FROM {table} WHERE hash({columns}) % {shares} = {share}"
            hashes = self._con.sql(query).fetchnumpy()["h"]
            hashes.sort()
            found.append(np.unique(hashes[1:][hashes[1:] == hashes[:-1]]))
        return np.concatenate(found)

    def _merge(self, sink: Sink, outcome: Outcome) -> None:
        """One user, several records: their items in the order of the records, each once, on as few lines as fit."""
        parts = outcome.records // MERGE_PART_ROWS + 1
        self._con.execute(f"CREATE TABLE repeats AS {sql.repeated_records(self._plan, parts)}")
        outcome.silent += int(self._value("SELECT count(DISTINCT seq) FROM repeats WHERE len(items) = 0"))
        for part in range(parts):
            for batch in self._stream(sql.MERGED_LINES.replace("?", str(part))):
                column = batch.column("line")
                lengths, text = text_buffer(column)
                count = len(lengths)
                if count and int(lengths.max()) > lines.MAX_LINE_BYTES:
                    count, text = self._repack_merged(column.to_pylist(), outcome)
                if count:
                    sink.write(text, count)
                outcome.lines += count

    def _repack_merged(self, texts: list[str], outcome: Outcome) -> tuple[int, memoryview]:
        pieces: list[str] = []
        for text in texts:
            packed = _packed(text)
            if len(packed) <= lines.MAX_LINES_PER_USER:
                pieces += packed
                continue
            with self._con.cursor() as beside:  # the connection itself is busy with the result that is being read
                found = beside.execute(
                    "SELECT DISTINCT seq, id FROM repeats WHERE user_id = ?", [text.partition("\t")[0]]
                ).fetchall()
            outcome.rejects += [Reject(seq, customer_id, "too-many-lines") for seq, customer_id in found]
        return len(pieces), memoryview("".join(pieces).encode())

    def _insert(self, statement: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        guard = Guard(batches)
        with self._con.cursor() as con:  # of its own: records and mappings may come in side by side
            con.register("source", pa.RecordBatchReader.from_batches(schema, guard))
            try:
                with _spill_errors():
                    con.execute(statement)
            except duckdb.Error:
                if guard.error is not None:
                    raise guard.error from None
                raise
            finally:
                con.unregister("source")
                pa.default_memory_pool().release_unused()

    def _stream(self, query: str) -> Iterator[pa.RecordBatch]:
        with _spill_errors():
            yield from self._con.sql(query).to_arrow_reader(BATCH_ROWS)

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        with _spill_errors():
            return self._con.execute(query).fetchall()

    def _value(self, query: str) -> Any:
        return self._rows(query)[0][0]


class Guard:
    """Iterates, keeping the error that its source raised: DuckDB hands on only the text of it."""

    def __init__(self, source: Iterator[pa.RecordBatch]) -> None:
        self._source = source
        self.error: IdsyncError | None = None

    def __iter__(self) -> "Guard":
        return self

    def __next__(self) -> pa.RecordBatch:
        try:
            return next(self._source)
        except IdsyncError as error:
            self.error = error
            raise


@contextmanager
def _spill_errors() -> Iterator[None]:
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise RunRefused(
            f"the join ran out of memory or of room to spill: {str(error).splitlines()[0]}",
            mend="raise reconcile.memory_limit, or free disk under reconcile.state_dir, and run again",
        ) from None


def _account(batch: pa.RecordBatch, sink: Sink, outcome: Outcome) -> None:
    matched = batch.column("matched").to_numpy(zero_copy_only=False)
    counted = batch.column("counted").to_numpy(zero_copy_only=False)
    outcome.records += int(np.count_nonzero(counted))
    outcome.matched += int(np.count_nonzero(matched & counted))
    if not matched.all():
        outcome.unmatched.append(batch.column("seq").to_numpy()[~matched])
    lengths, _ = text_buffer(batch.column("line"))
    due = batch.column("sent").to_numpy(zero_copy_only=False)
    outcome.silent += int(np.count_nonzero(counted & due & (lengths == 0)))
    outcome.lines += write_lines(batch, sink)


def write_lines(batch: pa.RecordBatch, sink: Sink) -> int:
    """Hand the column `line`, with nulls where there is none, to the sink; how many lines that makes."""
    lengths, text = text_buffer(batch.column("line"))
    sent = int(np.count_nonzero(lengths))
    if len(lengths) and int(lengths.max()) > lines.MAX_LINE_BYTES:
        sent, text = _repack(batch, lengths)
    if sent:
        sink.write(text, sent)
    return sent


def _repack(batch: pa.RecordBatch, lengths: Ints) -> tuple[int, memoryview]:
    """The batch's lines, each that is too long as several, and their number."""
    short = pa.array(lengths <= lines.MAX_LINE_BYTES)
    pieces = [text for text in batch.column("line").filter(short).to_pylist() if text]
    for row in batch.filter(pa.array(lengths > lines.MAX_LINE_BYTES)).to_pylist():
        pieces += _packed(row["line"])
    return len(pieces), memoryview("".join(pieces).encode())


def _packed(line: str) -> list[str]:
    """A line as few that fit. No item is too long for one: such records have been rejected."""
    user, _, rest = line.rstrip("\n").partition("\t")
    return lines.pack(user, list(lines.split_items(rest)))
