"""The join for feeds that send only what changed since the last delivered run.

What was sent is a Parquet file of (customer_id, high, low, mark, traits, seen), one row for each customer and user. The
user's UUID is in its two halves, or 0 in files keyed by customer ID; the ID of another data source is in `other_id`, in
place of them. `mark` is a hash over all of these and all items that were said, `traits` are those in force, `seen` is
the last time that a record said so, in milliseconds.

Nearly every record says what it said before, and the one question to ask of it is whether its mark is known: the marks
are 8 bytes a row, so that the question costs little. (That a changed record is taken for unchanged has a chance of one
in 10^12 with ten million rows.) What is new goes out as the plain join renders it, with the traits that are lost where
the same customer, and no other, said something of the user before. What touches a user of whom several rows speak is
settled by `reconcile.changes`, user by user.
"""

from collections.abc import Collection, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reconcile import changes, conflicts, lines
from reconcile.changes import User
from reconcile.engine import queries, sql
from reconcile.engine.duckdb import BATCH_ROWS, DuckEngine, fault
from reconcile.engine.outcome import Ints, Outcome, Reject, Sink, count_records, write_lines
from reconcile.feed import Plan

Bits = np.ndarray[tuple[int], np.dtype[np.bool_]]

_UUID_FIELDS = [(name, pa.uint64()) for name in ("high", "low")]
_PLACE = pa.field("place", pa.int64())  # of a row in what was sent


def sent_schema(plan: Plan) -> pa.Schema:
    user = [("other_id", pa.string())] if plan.other else _UUID_FIELDS
    fields = [("mark", pa.uint64()), ("traits", pa.string()), ("seen", pa.int64())]
    return pa.schema([("customer_id", pa.string()), *user, *fields])


VERSION = f"duckdb {duckdb.__version__}"  # another may hash in another way
_COMPRESSION = "COMPRESSION zstd, COMPRESSION_LEVEL 1"  # here as quick as snappy, and a fifth smaller
_SAID, _BEFORE, _KEPT, _GONE = range(4)
_IDS = "(SELECT id FROM records WHERE seq >= {})"


class ChangesEngine(DuckEngine):
    """See `DuckEngine`. `load_sent` comes before all methods of this class."""

    def __init__(self, plan: Plan, scratch: Path, memory_limit: str) -> None:
        super().__init__(plan, scratch, memory_limit)
        self._user, self._key = queries.user_columns(plan), queries.sent_key(plan)
        self._of_changed, self._of_apart = f"{self._key}, seq, mark, traits, text", f"seq, {queries.device(plan)}"
        self._schema = sent_schema(plan)
        self._con.register("outdated", pa.table({"seq": pa.array([], pa.int64())}))
        self._rows("SET scalar_subquery_error_on_multiple_rows = false")  # two marks are alike once in 10^5 runs
        self._refused: set[tuple[Any, ...]] = set()
        self._meant = 0  # records that are meant for anybody
        self._said = np.zeros(0, bool)  # whether single records say it again: of each place in what was sent

    def load_sent(self, path: Path | None, now: int, *, oldest: int, marked: bool) -> int:
        """Take what was sent, from `oldest` (milliseconds) on; the number of rows. `marked`: the marks are ours."""
        self._now = now
        if path is None:
            self._con.register("sent_file", self._schema.append(_PLACE).empty_table())
        else:
            rows = sql.reader("read_parquet", [str(path)], "file_row_number = true")
            self._rows(f"CREATE VIEW sent_file AS SELECT *, file_row_number AS place FROM {rows}")
        mark = "mark" if marked else "NULL::UBIGINT AS mark"
        self._rows(
            f"CREATE VIEW sent AS SELECT {self._key}, {mark}, traits, seen, place FROM sent_file WHERE seen >= {oldest}"
        )
        self._rows(f"CREATE TABLE gone AS SELECT {self._key}, traits, true AS told FROM sent LIMIT 0")
        return int(self._value("SELECT count(*) FROM sent"))

    def take_vanished(self, first: int) -> int:
        """Let go of customers without a record from number `first` on; the number of rows that go."""
        return self._take(f"customer_id NOT IN (FROM {_IDS.format(first)})", told=True)

    def take_opted_out_sent(self, dpid: int, customers: Collection[str], users: Collection[str], *, told: bool) -> int:
        """Let go of these customers and users (tokens, see `store.optouts`), `told` with their traits taken away.

        Users are devices, or customers of the other data source, as the file has them.
        """
        count = 0
        other = self._plan.other
        of_user = sql.opt_out_token(other.dpid, "other_id") if other else sql.OPT_OUT_OF_DEVICE
        for tokens, token in ((customers, sql.opt_out_token(dpid, "customer_id")), (users, of_user)):
            if tokens and (self._plan.by_uuid or other or tokens is customers):
                self._con.register("tokens", pa.table({"token": pa.array(tokens, pa.string())}))
                count += self._take(f"{token} IN (SELECT token FROM tokens)", told=told)
                self._con.unregister("tokens")
        return count

    def take_vanished_held(self, first: int) -> list[Reject]:
        """Remove the records below number `first` of customers without one from there on."""
        query = f"SELECT seq, id FROM records WHERE seq < {first} AND id NOT IN (FROM {_IDS.format(first)})"
        found = [Reject(seq, customer_id, "vanished") for seq, customer_id in self._rows(query)]
        self.drop(np.array([reject.seq for reject in found], dtype=np.int64))
        return found

    def pass_over_older(self, starts: list[int]) -> None:
        """Of a customer's records only those of the last file count, and are merged; files begin at these numbers."""
        if len(starts) < 2:  # noqa: PLR2004
            return
        self._con.register("starts", pa.table({"start": pa.array(sorted(starts), pa.int64())}))
        self._rows(
            "CREATE TABLE filed AS SELECT seq, id, start FROM records ASOF JOIN starts ON records.seq >= starts.start"
        )
        self._con.unregister("outdated")
        self._rows(
            "CREATE TABLE outdated AS SELECT seq FROM filed JOIN"
            " (SELECT id, max(start) AS latest FROM filed GROUP BY id HAVING min(start) < max(start)) USING (id)"
            " WHERE start < latest"
        )
        self._rows("DROP TABLE filed")

    def render(self, sink: Sink) -> Outcome:
        outcome = Outcome()
        staged = self.count()
        repeats = self.repeated_ids()
        self._con.register("repeated_ids", pa.table({"h": repeats}))
        self._compare(queries.said(self._plan, repeats=bool(len(repeats))), outcome)
        if outcome.records != staged:
            raise fault(f"the join returned {outcome.records} of {staged} records")
        self._mark_several()
        self._find_changed()
        self._count_records(outcome)
        for batch in self._stream(queries.new_lines(self._plan)):
            outcome.lines += write_lines(batch, sink)
        self._weave(sink, outcome)
        return outcome

    def write_sent(self, metadata: Mapping[str, str], path: Path | None) -> int:
        """Write what is sent once this run is delivered, if to a path; the number of rows."""
        names, user = self._key, self._user
        refused = pa.schema([self._schema.field(name) for name in names.split(", ")])
        self._con.register("refused", _table(self._refused, refused))
        replaced = f"SELECT place FROM before ANTI JOIN refused USING ({names})"
        self._rows(f"CREATE TABLE replaced AS {replaced} UNION SELECT place FROM near SEMI JOIN gone USING ({names})")
        new = f"FROM changed ANTI JOIN woven USING ({user})"
        query = (
            f"SELECT {names}, mark, traits, {self._seen()} AS seen FROM sent ANTI JOIN replaced USING (place)"
            f" UNION ALL SELECT {names}, mark, traits, {self._now} {new} UNION ALL FROM woven_rows"
        )
        added = f"(SELECT count(*) {new}) + (SELECT count(*) FROM woven_rows)"
        kept = "(SELECT count(*) FROM sent) - (SELECT count(*) FROM replaced)"
        expected = int(self._value(f"SELECT {kept} + {added}"))
        if path is None:
            return expected
        options = f"FORMAT parquet, PARQUET_VERSION v2, {_COMPRESSION}, {sql.told_by(metadata)}"
        written = int(self._value(f"COPY ({query}) TO {sql.literal(str(path))} ({options})"))
        if written != expected:
            raise fault(f"{written} rows of what was sent were written, not {expected}")
        return written

    # --- within ----------------------------------------------------------------------------------------------------

    def _take(self, which: str, *, told: bool) -> int:
        rows = f"SELECT {self._key}, traits, {told} FROM sent WHERE {which}"
        (count,) = self._rows(f"INSERT INTO gone FROM ({rows}) ANTI JOIN gone USING ({self._key})")[0]
        return int(count)

    def _seen(self) -> str:
        """When a row that stays was last said: now, or before. Told by the places of those of which there are fewer."""
        said = self._said | self._places("marks")
        unsaid = self._places("sent") & ~said
        fewer_said = np.count_nonzero(said) < np.count_nonzero(unsaid)
        few, of_few, of_others = (said, self._now, "seen") if fewer_said else (unsaid, "seen", self._now)
        self._con.register("few", pa.table({"place": np.flatnonzero(few)}))
        return f"CASE WHEN place IN (FROM few) THEN {of_few} ELSE {of_others} END"

    def _places(self, table: str) -> Bits:
        """Of each place in what was sent, whether the table has it."""
        found = np.zeros(len(self._said), bool)
        for batch in self._stream(f"SELECT place FROM {table}"):
            found[_known(batch)] = True
        return found

    def _compare(self, query: str, outcome: Outcome) -> None:
        """Which single records say what was sent before, and the tables of all others that are due: `changed`, and
        `apart` for those that are not single. Most records leave nothing but their figures behind.
        """
        for table, columns in (("changed", self._of_changed), ("apart", self._of_apart)):
            self._rows(f"CREATE TABLE {table} AS SELECT {columns} FROM ({query}) LIMIT 0")
        self._said = np.zeros(int(self._value("SELECT coalesce(max(place) + 1, 0) FROM sent")), bool)
        waiting: list[pa.RecordBatch] = []
        for batch in self._stream(query):
            count_records(batch, outcome)
            self._meant += pc.and_(batch.column("counted"), batch.column("meant")).true_count
            self._said[_known(batch)] = True
            waiting.append(batch.filter(batch.column("open")))
            if sum(map(len, waiting)) >= BATCH_ROWS:
                self._keep_open(waiting)
                waiting = []
        self._keep_open(waiting)

    def _keep_open(self, batches: list[pa.RecordBatch]) -> None:
        if not batches:
            return
        rows = pa.Table.from_batches(batches)
        changed = f"INSERT INTO changed SELECT {self._of_changed} FROM rows WHERE single"
        apart = f"INSERT INTO apart SELECT {self._of_apart} FROM rows WHERE NOT single"
        with self._beside(rows=rows) as con:
            kept = sum(con.execute(statement).fetchall()[0][0] for statement in (changed, apart))
        if kept != len(rows):
            raise fault(f"of {len(rows)} records that say something new, {kept} were kept")

    def _mark_several(self) -> None:
        """One mark for all records of a customer."""
        self._rows(f"CREATE TABLE several AS {queries.several(self._plan)}")
        self._con.register("no_rows", self._schema.empty_table())
        self._rows(f"CREATE TABLE marked AS SELECT {self._key}, mark FROM no_rows")
        expected = int(self._value("SELECT count(*) FROM apart"))
        for users in self._by_user("several", self._key, expected):
            with self._beside(users=users) as con:
                con.execute(f"INSERT INTO marked {queries.marks_of_users(self._plan)}")
        none = " LIMIT 0" * (not expected)  # else all that was sent would be got ready for nothing
        self._rows(f"CREATE TABLE marks AS {queries.placed('marked')}{none}")

    def _find_changed(self) -> None:
        """The rest of `changed`, and the tables `near` (what was sent to their users, and to those of `gone`), `before`
        (what was sent for them), `mute` records, `woven` users."""
        key, user = self._key, self._user
        self._rows(f"INSERT INTO changed SELECT {key}, NULL, mark, '', '' FROM marks WHERE place IS NULL")
        users = f"SELECT {user} FROM changed UNION ALL SELECT {user} FROM gone"
        self._rows(f"CREATE TABLE near AS SELECT {key}, traits, place FROM sent SEMI JOIN ({users}) USING ({user})")
        self._rows(f"CREATE TABLE before AS FROM near SEMI JOIN changed USING ({key})")
        # nothing to say now, and nothing said before
        mute = f"SELECT {key}, seq FROM changed ANTI JOIN before USING ({key}) WHERE mark IS NULL"
        self._rows(f"CREATE TABLE mute AS {mute}")
        same = " AND ".join(f"changed.{name} = mute.{name}" for name in key.split(", "))
        self._rows(f"DELETE FROM changed USING mute WHERE {same}")
        self._rows(f"CREATE TABLE woven AS {queries.woven(self._plan)}")

    def _count_records(self, outcome: Outcome) -> None:
        """Each is one that says something new to any device, or else silent, or unchanged, if meant for anybody."""
        changed, mute = self._records_of("changed"), self._records_of("mute")
        outcome.silent = int(self._value(f"SELECT count(*) FROM ({mute}) ANTI JOIN ({changed}) USING (seq)"))
        outcome.unchanged = self._meant - int(self._value(f"SELECT count(*) FROM ({changed})")) - outcome.silent

    def _records_of(self, table: str) -> str:
        several = f"SELECT seq FROM several SEMI JOIN {table} USING ({self._key})"
        return f"SELECT seq FROM {table} WHERE seq IS NOT NULL UNION {several}"

    def _weave(self, sink: Sink, outcome: Outcome) -> None:
        """What is to be sent to users of whom several rows speak, a block of lines at a time."""
        self._rows("CREATE TABLE woven_rows AS FROM no_rows")
        block: list[str] = []
        kept: list[tuple[Any, ...]] = []
        for user_id, rows in self._users():
            user, said = _gathered(rows)
            items, traits, dropped = changes.news(user, self._plan.policy)
            packed = lines.pack(user_id, items)
            if len(packed) > lines.MAX_LINES_PER_USER:
                outcome.rejects += [Reject(row.seq, row.customer_id, "too-many-lines") for row in said]
                self._refused |= {(row.customer_id, *row.device) for row in said}
                continue
            if dropped:
                outcome.drop(dropped, min((row.seq for row in said), default=0))
            marks = {row.customer_id: row for row in said if row.mark is not None}
            kept += [(name, *row.device, row.mark, traits[name], self._now) for name, row in marks.items()]
            block += packed
            if len(block) + len(kept) >= BATCH_ROWS:
                outcome.lines += self._pass_on(block, kept, sink)
                block, kept = [], []
        outcome.lines += self._pass_on(block, kept, sink)

    def _pass_on(self, block: list[str], kept: Collection[tuple[Any, ...]], sink: Sink) -> int:
        """Lines to the sink, and what they say to the table: neither is held in memory. The number of lines."""
        if block:
            sink.write(memoryview("".join(block).encode()), len(block))
        if kept:
            with self._beside(kept=_table(kept, self._schema)) as con:
                con.execute("INSERT INTO woven_rows FROM kept")
        return len(block)

    def _users(self) -> Iterator[tuple[str, Iterator["_Row"]]]:
        """The rows of each user in `woven`, kind by kind, records in order."""
        query = queries.rows_of_users(self._plan)
        columns = self._key.count(",")  # of the device
        rows = (
            _Row._make((*row[:2], row[2 : 2 + columns], *row[2 + columns :]))
            for batch in self._stream(query)
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)
        )
        by_customer = self._user == "customer_id"
        for user, of_user in groupby(rows, lambda row: row.customer_id if by_customer else row.device):
            if self._plan.by_uuid:
                high, low = user
                yield f"{high:019}{low:019}", of_user
            else:
                yield user if by_customer else user[0], of_user


class _Row(NamedTuple):
    """As `queries.rows_of_users` gives them; `device` is the key but for the customer."""

    kind: int
    customer_id: str
    device: tuple[Any, ...]
    seq: int
    mark: int | None
    text: str
    traits: str
    told: bool


def _known(batch: pa.RecordBatch) -> Ints:
    """The places that are known."""
    places: Ints = batch.column("place").drop_null().to_numpy()
    return places


def _gathered(rows: Iterator[_Row]) -> tuple[User, list[_Row]]:
    """One user, and the rows of what is said now."""
    user, said = User(), []
    for row in rows:
        if row.kind == _SAID:
            user.said.append((row.customer_id, conflicts.split(row.text)))
            said.append(row)
        elif row.kind == _BEFORE:
            user.before |= changes.parse_traits(row.traits)
        elif row.kind == _KEPT:
            user.kept |= changes.parse_traits(row.traits)
        elif row.told:
            user.taken |= changes.parse_traits(row.traits)
    return user, said


def _table(rows: Collection[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [[] for _ in schema]
    return pa.table([pa.array(list(column), field.type) for column, field in zip(columns, schema, strict=True)], schema)
