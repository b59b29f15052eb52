"""The join in DuckDB. Whatever does not fit `memory_limit` spills into the scratch folder.

Lines are rendered inside the engine, each with its newline, so that the value buffer of the Arrow column that comes out
is the content of the file: from there to the compressor no row is touched in Python.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from idsync import ids
from idsync.errors import IdsyncError
from idsync.ids import IdRules
from reconcile import conflicts, lines
from reconcile.engine import halves, queries, sql
from reconcile.engine.outcome import SAMPLES, Ints, LeftOut, Outcome, Reject, Sink, account, count_records
from reconcile.engine.repeats import Hashes, repeated
from reconcile.engine.users import by_user
from reconcile.errors import RunRefused
from reconcile.feed import Plan
from reconcile.screen import doubtful_ids, text_buffer
from reconcile.why.customers import Compared

__all__ = ["BATCH_ROWS", "SAMPLES", "DuckEngine", "Guard", "Ints", "LeftOut", "Outcome", "Reject", "Sink"]

BATCH_ROWS = 100_000
HASH_SHARE_ROWS = 8_000_000

_OF_USER = ("user_id", "seqs", "text")


class DuckEngine:
    """One run's join. Use as a context manager; `scratch` must exist and be private to the run."""

    def __init__(self, plan: Plan, scratch: Path, memory_limit: str) -> None:
        self._plan = plan
        self._con = duckdb.connect(config={"memory_limit": memory_limit, "temp_directory": str(scratch)})
        columns = ", ".join(f"{name} {'BIGINT' if name == 'seq' else 'VARCHAR'}" for name in sql.record_columns(plan))
        self._con.execute(f"CREATE TABLE records ({columns})")
        self._repeated_ids: Hashes | None = None
        self._repeated_users: Hashes | None = None

    def __enter__(self) -> "DuckEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self._con.close()

    @property
    def schema(self) -> pa.Schema:
        """What `stage` takes."""
        return records_schema(self._plan)

    def stage(self, batches: Iterator[pa.RecordBatch]) -> int:
        """Take in records; the number of them that the table holds now."""
        self._repeated_ids = None
        self._insert("INSERT INTO records SELECT * FROM source", self.schema, batches)
        return self.count()

    def count(self) -> int:
        return int(self._value("SELECT count(*) FROM records"))

    def take_faults(self, suspects: Sequence[tuple[int, int]]) -> list[Reject]:
        """Remove the records that break a rule of IDs or values, and return them.

        Only the records in `suspects` (ranges of seq, both ends included) are looked at. Without any, all are clean.
        """
        if not suspects:
            self._plan = replace(self._plan, clean=True)
            return []
        ranges = " OR ".join(f"seq BETWEEN {first} AND {last}" for first, last in suspects)
        found = list(self._id_faults(ranges))
        self.drop(np.array([reject.seq for reject in found], dtype=np.int64))
        judged = f"SELECT seq, id, {sql.value_fault(self._plan)} AS reason FROM records WHERE {ranges}"
        values = [Reject(*row) for row in self._rows(f"SELECT * FROM ({judged}) WHERE reason IS NOT NULL")]
        self.drop(np.array([reject.seq for reject in values], dtype=np.int64))
        large = list(self._too_large(ranges))
        self.drop(np.array([reject.seq for reject in large], dtype=np.int64))
        return sorted(found + values + large, key=lambda reject: reject.seq)

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
        return self._take_opted_out(dpid, tokens, "id")

    def _take_opted_out(self, dpid: int, tokens: Collection[str], column: str) -> Ints:
        if not tokens:
            return np.empty(0, np.int64)
        self._con.register("opt_outs", pa.table({"token": pa.array(tokens, pa.string())}))
        query = f"SELECT seq FROM records WHERE {sql.opt_out_token(dpid, column)} IN (SELECT token FROM opt_outs)"
        found: Ints = self._con.sql(query).fetchnumpy()["seq"]
        self._con.unregister("opt_outs")
        self.drop(found)
        return found

    def drop(self, seqs: Ints) -> None:
        if len(seqs):
            self._repeated_ids = None
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

    def repeated_ids(self) -> Hashes:
        """The hashes of customer IDs that may stand on several records. They are kept until a record comes or goes; may
        be asked for while `load_mappings` is at work in another thread.
        """
        if self._repeated_ids is None:
            self._repeated_ids = self._repeated("records", "id")
        return self._repeated_ids

    def repeated_users(self) -> Hashes:
        """The hashes of users to whom several mappings may lead; may be asked for while `stage` is at work."""
        if self._repeated_users is None:
            shared = self._plan.by_uuid or self._plan.other
            columns = queries.user_columns(self._plan)
            self._repeated_users = self._repeated("mappings", columns) if shared else np.empty(0, np.uint64)
        return self._repeated_users

    def load_mappings(self, batches: Iterator[pa.RecordBatch]) -> int:
        """Take in a store's export, also while `stage` is at work in another thread; the number of mappings."""
        self._repeated_users = None
        order = "PARTITION BY customer_id ORDER BY last_seen DESC, high DESC, low DESC"
        latest = f", row_number() OVER ({order}) = 1 AS latest" if self._plan.every_device else ""
        statement = f"CREATE TABLE mappings AS SELECT customer_id, high, low{latest} FROM source"
        self._insert(statement, halves.SCHEMA, halves.halved(batches))
        with self._con.cursor() as con:
            (count,) = con.execute("SELECT count(*) FROM mappings").fetchall()[0]
        return int(count)

    def load_others(self, batches: Iterator[pa.RecordBatch]) -> dict[str, int]:
        """Take in the mappings of the plan's other data source, all of them, after `load_mappings`; how many can't be
        sent, by reason.

        The customers are then mapped to its IDs: of each device to the latest that can be sent.
        """
        self._repeated_users = None
        faults: Counter[str] = Counter()
        rules = self._plan.other.rules if self._plan.other else self._plan.id_rules
        statement = (
            "CREATE TABLE others AS SELECT high, low, max({'seen': last_seen, 'id': customer_id})['id'] AS other_id"
            " FROM source SEMI JOIN mappings USING (high, low) GROUP BY high, low"
        )
        judged = halves.halved(sendable(batch, rules, faults) for batch in batches)
        self._insert(statement, halves.SCHEMA, judged)
        for _ in judged:  # where there is nothing to join with, the statement may end early
            pass
        with self._con.cursor() as con:  # records may come in at the same time
            con.execute(f"CREATE TABLE reached AS {queries.reached(self._plan)}")
            con.execute("DROP TABLE mappings; DROP TABLE others; ALTER TABLE reached RENAME TO mappings")
        return dict(faults.most_common())

    def render(self, sink: Sink) -> Outcome:
        """Join, render, hand the lines to `sink`. Raises RunRefused if a record got lost on the way."""
        outcome = Outcome()
        staged = self.count()
        repeats = self._find_repeats()
        self._rows(f"CREATE TABLE repeats AS {queries.rows_of_several(self._plan)}")
        merging = 0
        for batch in self._stream("SELECT seq, matched, meant, counted FROM repeats"):
            count_records(batch, outcome)
            merging += batch.column("meant").true_count
        apart = 0
        for batch in self._stream(queries.lines_of(self._plan, repeats)):
            account(batch, sink, outcome)
            apart += batch.column("repeated").true_count
        if outcome.records != staged:
            raise fault(f"the join returned {outcome.records} of {staged} records")
        if apart:
            self._rows(f"INSERT INTO repeats {queries.rows_left_out(self._plan, repeats)}")
        self._merge(sink, outcome, merging + apart)
        return outcome

    def ids_of(self, seqs: Ints, most: int) -> pa.Table:
        """The customer IDs of these records, and on how many each stands: (id, records). Where there are many, a sample
        of `most` or more, drawn by their hash.
        """
        self._con.register("asked", pa.table({"seq": seqs}))
        share = 1.1 * most / max(len(seqs), 1)
        while True:
            drawn = f"hash(id) <= {int(share * (2**64 - 1))}" if share < 1 else "true"
            query = f"SELECT id, count(*) AS records FROM records SEMI JOIN asked USING (seq) WHERE {drawn} GROUP BY id"
            with _spill_errors():
                found = self._con.sql(query).to_arrow_table()
            if len(found) >= most or share >= 1:
                break
            share *= 2 * most / max(len(found), 1)  # several records have one ID
        self._con.unregister("asked")
        return found

    def let_records_go(self) -> None:
        """To make room for what comes after the join; nothing that asks for a record may follow."""
        self._con.execute("DROP TABLE records")

    def customers(self) -> Compared:
        """Those of the mappings that were taken in."""
        return Compared(self._con, "mappings", "customer_id", "latest" if self._plan.every_device else "true")

    def write_held(self, seqs: Ints, since: pa.Table, now: int, path: Path | None, metadata: Mapping[str, str]) -> int:
        """Write the latest record of each of these customers to a Parquet file, if one is named; the number of them.

        `since` (seq, since) has the time in milliseconds since when a record taken from hold has waited.
        """
        self._con.register("unmatched", pa.table({"seq": seqs}))
        self._con.register("waiting", since)
        columns = ", ".join(sql.record_columns(self._plan)[1:])
        query = (
            f"SELECT {columns}, coalesce(since, {now}) AS since FROM records SEMI JOIN unmatched USING (seq)"
            " LEFT JOIN waiting USING (seq) QUALIFY row_number() OVER (PARTITION BY id ORDER BY seq DESC) = 1"
        )
        if path is None:
            return int(self._value(f"SELECT count(*) FROM ({query})"))
        options = f"FORMAT parquet, COMPRESSION zstd, {sql.told_by(metadata)}"
        return int(self._value(f"COPY ({query}) TO {sql.literal(str(path))} ({options})"))

    # --- within ----------------------------------------------------------------------------------------------------

    def _id_faults(self, ranges: str) -> Iterator[Reject]:
        """By the function that judges IDs on the endpoint, so that no ID is good for one and bad for the other."""
        rules = self._plan.id_rules
        for batch in self._stream(f"SELECT seq, id FROM records WHERE {ranges}"):
            doubtful = batch.filter(pa.array(doubtful_ids(batch.column("id"), rules)))
            for seq, customer_id in zip(*(column.to_pylist() for column in doubtful.columns), strict=True):
                if reason := ids.customer_id_fault(customer_id, rules):
                    yield Reject(seq, customer_id, reason)

    def _too_large(self, ranges: str) -> Iterator[Reject]:
        """Records that need too many lines by themselves."""
        if not self._plan.items:
            return
        user = "x" * sql.longest_user(self._plan)
        for seq, customer_id, text in self._rows(f"{sql.long_records(self._plan)} AND ({ranges})"):
            items, _ = self._settled(text)
            if len(lines.pack(user, items)) > lines.MAX_LINES_PER_USER:
                yield Reject(seq, customer_id, "too-many-lines")

    def _find_repeats(self) -> queries.Repeats:
        """Those who may stand on several records: tables of their hashes. A collision only costs time."""
        ids, users = self.repeated_ids(), self.repeated_users()
        self._con.register("repeated_ids", pa.table({"h": ids}))
        self._con.register("repeated_users", pa.table({"h": users}))
        return queries.Repeats(len(ids) > 0, len(users) > 0)

    def _repeated(self, table: str, columns: str) -> Hashes:
        """The hashes of values that stand in the table more than once; a share of them at a time, to save memory."""
        found = []
        with self._con.cursor() as con:  # of its own: mappings may come in at the same time
            ((rows,),) = con.execute(f"SELECT count(*) FROM {table}").fetchall()
            shares = int(rows) // HASH_SHARE_ROWS + 1
            for share in range(shares):
                chosen = f" WHERE hash({columns}) % {shares} = {share}" if shares > 1 else ""
                found.append(repeated(con.sql(f"SELECT hash({columns}) AS h FROM {table}{chosen}").fetchnumpy()["h"]))
        return np.concatenate(found)

    def _merge(self, sink: Sink, outcome: Outcome, expected: int) -> None:
        """One user, several records: their items in the order of the records, each once, on as few lines as fit."""
        mute = "FROM repeats WHERE meant AND text = ''"
        silent, others = self._rows(f"SELECT count(*) FILTER (counted), count(*) FILTER (NOT counted) {mute}")[0]
        outcome.silent += silent
        if self._plan.withholds:
            mute = f"FROM repeats WHERE meant AND counted AND text <> '' AND {queries.only_removes()}"
            outcome.silent += int(self._value(f"SELECT count(*) {mute}"))
        refused: list[int] = []
        table = "(FROM repeats WHERE meant AND text <> '')"
        for users in self._by_user(table, queries.user_columns(self._plan), expected - silent - others):
            with self._beside(users=users) as con:
                for batch in con.sql(queries.merged_lines(self._plan)).to_arrow_reader(BATCH_ROWS):
                    self._hand_on(batch, sink, outcome, refused)
        self._rows("DROP TABLE repeats")
        if refused:
            self._con.register("refused", pa.table({"seq": refused}))
            found = self._rows("SELECT seq, id FROM records SEMI JOIN refused USING (seq)")
            outcome.rejects += [Reject(seq, customer_id, "too-many-lines") for seq, customer_id in found]

    def _hand_on(self, users: pa.RecordBatch, sink: Sink, outcome: Outcome, refused: list[int]) -> None:
        """The lines of users, as `queries.merged_lines` has them, to the sink."""
        lengths, text = text_buffer(users.column("line"))
        if done := int(np.count_nonzero(lengths)):
            sink.write(text, done)
        dropped = users.column("dropped").to_numpy()
        firsts = users.column("seqs").filter(pa.array(dropped > 0))[:SAMPLES].to_pylist()
        outcome.drop(int(dropped.sum()), *(seqs[0] for seqs in firsts))
        packed = self._decide(users.filter(pc.is_valid(users.column("text"))), outcome, refused)
        if packed:
            sink.write(memoryview("".join(packed).encode()), len(packed))
        outcome.lines += done + len(packed)

    def _decide(self, users: pa.RecordBatch, outcome: Outcome, refused: list[int]) -> list[str]:
        """The lines of users whose items may contradict each other, or need more than one line; those who need too many
        have their records `refused`.
        """
        found: list[str] = []
        for user, seqs, text in zip(*(users.column(name).to_pylist() for name in _OF_USER), strict=True):
            items, dropped = self._settled(text)
            packed = lines.pack(user, items)
            if len(packed) > lines.MAX_LINES_PER_USER:
                refused += seqs
                continue
            found += packed
            if dropped:
                outcome.drop(dropped, seqs[0])
        return found

    def _settled(self, text: str) -> conflicts.Resolved:
        """The items to send of those that were said."""
        items, dropped = conflicts.resolve(conflicts.split(text), self._plan.policy)
        return conflicts.Resolved(conflicts.without_removals(items) if self._plan.withholds else items, dropped)

    def _by_user(self, table: str, user: str, expected: int) -> Iterator[pa.Table]:
        """The rows of a table, each user's together (see `engine.users`). Raises RunRefused if any got lost."""
        rows = self._stream(f"SELECT {user}, seq, text FROM {table} ORDER BY {user}, seq")
        count = 0
        for users in by_user(rows, user.split(", ")):
            count += pc.sum(pc.list_value_length(users.column("seqs"))).as_py()
            yield users
        if count != expected:
            raise fault(f"{count} of {expected} records were merged")

    @contextmanager
    def _beside(self, **tables: pa.Table) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection with these tables, too, while the engine's own is busy with a result that is being read."""
        with self._con.cursor() as con, _spill_errors():
            for name, table in tables.items():
                con.register(name, table)
            yield con

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


def records_schema(plan: Plan) -> pa.Schema:
    """Of records: seq (int64), id and values (string), no nulls."""
    return pa.schema([(name, pa.int64() if name == "seq" else pa.string()) for name in sql.record_columns(plan)])


def fault(problem: str) -> RunRefused:
    """What can't be, unless DuckDB is at fault."""
    return RunRefused(
        problem, mend="this is a fault of the join engine; nothing was delivered; please report it with its version"
    )


def sendable(batch: pa.RecordBatch, rules: IdRules, faults: Counter[str]) -> pa.RecordBatch:
    """The mappings whose customer ID keeps to the rules, which may have changed since it was stored."""
    customers = batch.column("customer_id")
    keep = np.ones(len(batch), bool)
    for row in np.flatnonzero(doubtful_ids(customers, rules)):
        if reason := ids.customer_id_fault(customers[int(row)].as_py(), rules):
            keep[row] = False
            faults[reason] += 1
    return batch if keep.all() else batch.filter(pa.array(keep))


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
