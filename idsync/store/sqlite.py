"""The embedded store: one SQLite file in WAL mode, shared by any number of processes on one machine.

SQLite keeps its hold on the file by POSIX locks, which belong to a process, not to a connection. Hence two rules, each
of which has cost acknowledged mappings when broken (https://www.sqlite.org/howtocorrupt.html, 2.2 and 2.6):

* One SQLite library a process. Another that opens and closes the file (Arrow's ADBC driver brings its own, for one)
  drops the locks of the first; the next process to close then takes itself for the last and deletes the log in use.
* No connection is open while the process forks.
"""

import json
import os
import sqlite3
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from idsync.errors import StoreMisconfigured, StoreUnavailable
from idsync.ids import UUID_DIGITS
from idsync.store import optouts
from idsync.store.ahead import ahead
from idsync.store.base import EXPORT_SCHEMA, OPTED_OUT, Count, Device, Pair, Part, Sync
from idsync.store.batches import by_customer, texts, texts_of
from idsync.store.optouts import OptedOutDevices, OptOut, Token
from idsync.store.spread import spread

_VERSION = 2
KEYED = "WITHOUT ROWID, STRICT" if sqlite3.sqlite_version_info >= (3, 37) else "WITHOUT ROWID"
_SCHEMA: tuple[str, ...] = (
    f"""CREATE TABLE IF NOT EXISTS mappings (
        dpid INTEGER NOT NULL, customer_id TEXT NOT NULL, uuid TEXT NOT NULL, seen INTEGER NOT NULL,
        PRIMARY KEY (dpid, customer_id, uuid)) {KEYED}""",
    f"""CREATE TABLE IF NOT EXISTS opt_outs (
        token TEXT PRIMARY KEY, tail TEXT NOT NULL, owner TEXT NOT NULL, since INTEGER NOT NULL) {KEYED}""",
    "CREATE TABLE IF NOT EXISTS checks (one INTEGER PRIMARY KEY CHECK (one = 1), count INTEGER NOT NULL)",
)
_UPSERT = """
    INSERT INTO mappings VALUES (?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET seen = max(seen, excluded.seen)
"""
_DEVICES = """
    SELECT uuid, seen FROM mappings WHERE dpid = ? AND customer_id = ? AND seen > ? ORDER BY seen DESC, uuid DESC
"""
_EVICT = """
    DELETE FROM mappings WHERE dpid = ?1 AND customer_id = ?2 AND uuid NOT IN (
        SELECT uuid FROM mappings WHERE dpid = ?1 AND customer_id = ?2 ORDER BY seen DESC, uuid DESC LIMIT ?3)
"""
_OPT_OUT = """
    INSERT INTO opt_outs VALUES (?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET owner = '' WHERE excluded.owner = ''
"""
_OPTED_OUT = "SELECT since FROM opt_outs WHERE token = ?"
_ANY_OPT_OUT = "SELECT EXISTS (SELECT 1 FROM opt_outs)"
# what may be of an opted-out device, by the tail of the UUID: to be looked at one by one
_SUSPECTS = f"""
    SELECT dpid, customer_id, uuid, seen FROM mappings
    WHERE substr(uuid, -{optouts.TAIL_DIGITS}) IN (SELECT tail FROM opt_outs)
"""  # noqa: S608
_REMOVE = "DELETE FROM mappings WHERE dpid = ? AND customer_id = ? AND uuid = ?"
# Rows as three texts: SQLite joins them in C, and Python makes three objects where rows would be 200,000. They come in
# the order of the key, asked for by the name that SQLite gives its index. With ORDER BY or LIMIT each row would pass
# through a subquery, and char(10) would be copied for each: that takes twice the time.
_EXPORT = """
    SELECT CAST(group_concat(customer_id, '\n') AS BLOB), CAST(group_concat(uuid, '') AS BLOB), group_concat(seen, ' ')
    FROM mappings INDEXED BY sqlite_autoindex_mappings_1 WHERE dpid = ? AND seen > ? AND {which}
"""
_RANGE = _EXPORT.format(which="customer_id >= ? AND customer_id < ?")
_REST = _EXPORT.format(which="customer_id >= ?")
_WANTED = _EXPORT.format(which="customer_id IN (SELECT value FROM json_each(?))")
_BEHIND = "SELECT customer_id FROM mappings WHERE dpid = ? AND customer_id > ? ORDER BY customer_id LIMIT 1 OFFSET ?"
# two queries, since only one of min() and max() can be read off the key
_FIRST, _LAST = (f"SELECT {which}(customer_id) FROM mappings WHERE dpid = ?" for which in ("min", "max"))  # noqa: S608
_AFTER = "SELECT customer_id FROM mappings WHERE dpid = ? AND customer_id >= ? ORDER BY customer_id LIMIT 1"
_NAMES = "SELECT DISTINCT customer_id FROM mappings WHERE dpid = ? AND customer_id >= ? ORDER BY customer_id LIMIT ?"
_SAMPLE_PLACES = 16
_BUSY_SECONDS = 5.0
_POLL_SECONDS = 0.001
_BATCH_ROWS = 32_768
_SUBSET_CUSTOMERS = 1_000
_SWEEP_ROWS = 5_000
_SWEEP_PAUSE_SECONDS = 0.01  # several polls: whoever waits gets the writer's place


class SqliteStore:
    """See `base.MappingStore`. Every commit is synced to disk; a write of one process waits for that of another."""

    _schema = _SCHEMA

    def __init__(self, path: str, lifetime: int, devices_per_customer: int) -> None:
        self._path = Path(path)
        self._lifetime, self._cap = lifetime, devices_per_customer
        self._lock = threading.Lock()
        self._opened: sqlite3.Connection | None = None
        _stores.add(self)

    def record(self, syncs: Sequence[Sync]) -> list[str]:
        with self._writing() as db:
            (watchful,) = db.execute(_ANY_OPT_OUT).fetchone()
            return [self._record(db, sync, watchful=watchful) for sync in syncs]

    def devices(self, dpid: int, customer_id: str, now: int) -> list[Device]:
        with self._using() as db:
            return list(self._visible(db, dpid, customer_id, now))

    def latest(self, customers: Sequence[tuple[int, str]], now: int) -> list[Device | None]:
        with self._using() as db:
            return [next(self._visible(db, *customer, now), None) for customer in customers]

    def export(
        self,
        dpid: int,
        now: int,
        *,
        customer_ids: Sequence[str] | None = None,
        latest_only: bool = False,
        part: Part | None = None,
    ) -> Iterator[pa.RecordBatch]:
        with self._using() as db:
            out = _opted_out_devices(db)
        if customer_ids is not None:
            found = self._some(dpid, now, customer_ids)
        elif part is not None:
            found = self._ranges(dpid, now, part)
        else:
            found = ahead(self._apart(dpid, now))
        batches = (optouts.without(self._batch(rows), out) for rows in found)
        return by_customer(batches, latest_only=latest_only)

    def parts(self, dpid: int, most: int) -> list[Part]:
        """Ranges of customer IDs."""
        bounds = [""]
        with self._using() as db:
            (count,) = _wait(db, "SELECT count(*) FROM mappings WHERE dpid = ?", (dpid,)).fetchone()
            while len(bounds) < most and (row := _wait(db, _BEHIND, (dpid, bounds[-1], count // most)).fetchone()):
                bounds.append(row[0])
        return [Part(first, end) for first, end in pairwise([*bounds, ""])]

    def sample(self, dpid: int, now: int, most: int) -> list[str]:
        places = min(most, _SAMPLE_PLACES)
        with self._using() as db:
            first, last = (_wait(db, query, (dpid,)).fetchone()[0] for query in (_FIRST, _LAST))
            if first is None or last is None:
                return []

            def after(text: str) -> str:
                row = _wait(db, _AFTER, (dpid, text)).fetchone()
                return str(row[0] if row else last)  # others remove rows at the same time

            starts = spread(first, last, after, places)
            named = [row[0] for start in starts for row in _wait(db, _NAMES, (dpid, start, most // places))]
        exported = self.export(dpid, now, customer_ids=list(dict.fromkeys(named)), latest_only=True)
        return [name for batch in exported for name in batch.column(0).to_pylist()]

    def sweep(self, now: int) -> int:
        removed = 0
        border: tuple[int, str, str] | None = (0, "", "")
        while border is not None:
            with self._writing() as db:
                following = db.execute(
                    "SELECT dpid, customer_id, uuid FROM mappings WHERE (dpid, customer_id, uuid) > (?, ?, ?)"
                    " ORDER BY dpid, customer_id, uuid LIMIT 1 OFFSET ?",
                    (*border, _SWEEP_ROWS),
                ).fetchone()
                upper = "AND (dpid, customer_id, uuid) <= (?, ?, ?)" if following else ""
                removed += db.execute(
                    f"DELETE FROM mappings WHERE seen <= ? AND (dpid, customer_id, uuid) > (?, ?, ?) {upper}",  # noqa: S608
                    (now - self._lifetime, *border, *(following or ())),
                ).rowcount
            border = following
            time.sleep(_SWEEP_PAUSE_SECONDS)
        with self._using() as db:
            out = _opted_out_devices(db)
            suspects = [Pair(*row[:3]) for row in _wait(db, _SUSPECTS)] if out else []
        return removed + self.remove([pair for pair in suspects if out.holds(pair.uuid)])

    def count(self, now: int) -> Mapping[int, Count]:
        query = "SELECT dpid, count(DISTINCT customer_id), count(*) FROM mappings WHERE seen > ? GROUP BY dpid"
        with self._using() as db:
            counts = {dpid: Count(*counts) for dpid, *counts in _wait(db, query, (now - self._lifetime,))}
            out = _opted_out_devices(db)
            suspects = _wait(db, f"{_SUSPECTS} AND seen > ?", (now - self._lifetime,)).fetchall() if out else []
            hidden = Counter((dpid, customer_id) for dpid, customer_id, uuid, _ in suspects if out.holds(uuid))
            for (dpid, customer_id), mappings in hidden.items():
                gone = next(self._visible(db, dpid, customer_id, now), None) is None
                counts[dpid] = Count(counts[dpid].customers - gone, counts[dpid].mappings - mappings)
        return {dpid: count for dpid, count in counts.items() if count.mappings}

    def opt_out(self, opt_out: OptOut) -> int:
        with self._writing() as db:
            return self._opt_out(db, opt_out)

    def opt_in(self, customers: Sequence[tuple[int, str]], uuids: Sequence[str]) -> int:
        query = "DELETE FROM opt_outs WHERE ?1 IN (token, owner)"
        with self._writing() as db:
            return sum(db.execute(query, (token.name,)).rowcount for token in optouts.tokens_of(customers, uuids))

    def opted_out(self, customers: Sequence[tuple[int, str]], uuids: Sequence[str]) -> list[int | None]:
        with self._using() as db:
            found = [_wait(db, _OPTED_OUT, (token.name,)).fetchone() for token in optouts.tokens_of(customers, uuids)]
        return [row[0] if row else None for row in found]

    def opt_outs(self) -> Mapping[str, int]:
        with self._using() as db:
            return dict(_wait(db, "SELECT token, since FROM opt_outs").fetchall())

    def tokens(self) -> Mapping[Token, int]:
        with self._using() as db:
            return {Token(*row[:3]): row[3] for row in _wait(db, "SELECT token, tail, owner, since FROM opt_outs")}

    def adopt(self, tokens: Mapping[Token, int]) -> None:
        with self._writing() as db:
            db.executemany(_OPT_OUT, [(*token, since) for token, since in tokens.items()])

    def find(self, uuids: Sequence[str]) -> list[Pair]:
        query = "SELECT dpid, customer_id, uuid FROM mappings WHERE uuid IN (SELECT value FROM json_each(?))"
        with self._using() as db:
            return [Pair(*row) for row in _wait(db, query, (json.dumps(uuids),))]

    def remove(self, pairs: Sequence[Pair]) -> int:
        with self._writing() as db:
            return sum(db.execute(_REMOVE, pair).rowcount for pair in pairs)

    def scrub(self) -> bool:
        """Deleted rows are overwritten as they go (`secure_delete`); the log still has them until it is emptied."""
        end = time.monotonic() + _BUSY_SECONDS
        with self._using() as db:
            while _wait(db, "PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                if time.monotonic() > end:
                    raise StoreUnavailable(f"store {self._path}: its log is in use", mend="try again in a moment")
                time.sleep(_POLL_SECONDS)
        return True

    def check(self) -> None:
        with self._writing() as db:
            db.execute("INSERT INTO checks VALUES (1, 1) ON CONFLICT DO UPDATE SET count = count + 1")

    def close(self) -> None:
        with self._lock:
            self._disconnect()

    # --- within ----------------------------------------------------------------------------------------------------

    def _record(self, db: sqlite3.Connection, sync: Sync, *, watchful: bool) -> str:
        """`watchful`: there are opt-outs."""
        customer = (sync.dpid, sync.customer_id)
        uuid = sync.uuid
        if watchful and _is_out(db, optouts.customer_token(*customer)):
            return OPTED_OUT
        if watchful and uuid and _is_out(db, optouts.device_token(uuid)):
            return OPTED_OUT
        if uuid is None:
            latest = next(self._visible(db, *customer, sync.seen), None)
            uuid = latest.uuid if latest else sync.fresh
            if not uuid:
                return ""
        db.execute(_UPSERT, (*customer, uuid, sync.seen))
        (held,) = db.execute("SELECT count(*) FROM mappings WHERE dpid = ? AND customer_id = ?", customer).fetchone()
        if held > self._cap:
            db.execute(_EVICT, (*customer, self._cap))
        return uuid

    def _opt_out(self, db: sqlite3.Connection, opt_out: OptOut) -> int:
        tokens = optouts.tokens_of(opt_out.customers, opt_out.uuids)
        if opt_out.takes_devices:
            owned = zip(tokens, self._last_linked(db, opt_out), strict=False)
            tokens += [optouts.device_token(uuid, owner.name) for owner, uuid in owned if uuid]
        db.executemany(_OPT_OUT, [(*token, opt_out.at) for token in tokens])
        query = "DELETE FROM mappings WHERE dpid = ? AND customer_id = ?"
        return sum(db.execute(query, customer).rowcount for customer in opt_out.customers)

    def _last_linked(self, db: sqlite3.Connection, opt_out: OptOut) -> list[str]:
        """The latest device of each customer, opted out or not; "" where there is none."""
        horizon = opt_out.at - self._lifetime
        found = [db.execute(f"{_DEVICES} LIMIT 1", (*customer, horizon)).fetchone() for customer in opt_out.customers]
        return [row[0] if row else "" for row in found]

    def _visible(self, db: sqlite3.Connection, dpid: int, customer_id: str, now: int) -> Iterator[Device]:
        """The devices of a customer, latest first."""
        rows = _wait(db, _DEVICES, (dpid, customer_id, now - self._lifetime))
        return (Device(*row) for row in rows if not _is_out(db, optouts.device_token(row[0])))

    def _apart(self, dpid: int, now: int) -> Iterator["_Joined"]:
        """All, by a connection of its own, which no other thread waits for."""
        with closing(SqliteStore(str(self._path), self._lifetime, self._cap)) as store:
            yield from store._ranges(dpid, now, Part("", ""))

    def _ranges(self, dpid: int, now: int, part: Part) -> Iterator["_Joined"]:
        """Range after range, each with a look of its own: no long read keeps the log from being cut back."""
        first, left = part.first, True
        while left:
            with self._using() as db:
                row = _wait(db, _BEHIND, (dpid, first, _BATCH_ROWS)).fetchone()
            left = row is not None and not (part.end and row[0] >= part.end)
            end = row[0] if left else part.end
            query, upper = (_RANGE, (end,)) if end else (_REST, ())
            yield from self._joined(query, dpid, now - self._lifetime, first, *upper)
            first = end

    def _some(self, dpid: int, now: int, customer_ids: Sequence[str]) -> Iterator["_Joined"]:
        ordered = iter(sorted(customer_ids))
        while chunk := list(islice(ordered, _SUBSET_CUSTOMERS)):
            yield from self._joined(_WANTED, dpid, now - self._lifetime, json.dumps(chunk))

    def _joined(self, query: str, *arguments: object) -> Iterator["_Joined"]:
        """Those that a query finds, if any."""
        with self._using() as db:
            found = _Joined._make(_wait(db, query, arguments).fetchone())
        if found.ids is not None:
            yield found

    def _batch(self, rows: "_Joined") -> pa.RecordBatch:
        times = np.fromstring(rows.seen, dtype=np.int64, sep=" ")
        names = texts(rows.ids + b"\n")
        if not len(names) * UUID_DIGITS == len(times) * UUID_DIGITS == len(rows.uuids):
            raise StoreMisconfigured(
                f"store {self._path}: holds mappings that this program did not write",
                mend="drop the rows whose uuid is not 38 digits or whose customer_id holds a line break",
            )
        uuids = texts_of(rows.uuids, UUID_DIGITS)
        return pa.RecordBatch.from_arrays([names, uuids, pa.array(times)], schema=EXPORT_SCHEMA)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, which has the writer's place from its start: no other process reads what it will change."""
        with self._using() as db:
            _wait(db, "BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # a full disk has ended it already
                    db.execute("ROLLBACK")
                raise

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """This process's connection, for one thread at a time; errors of SQLite become the store's."""
        with self._lock:
            try:
                yield self._connection()
            except sqlite3.OperationalError as error:
                raise StoreUnavailable(f"store {self._path}: {error}", mend=_MEND) from None
            except sqlite3.DatabaseError as error:
                raise StoreMisconfigured(
                    f"store {self._path}: {error}",
                    mend="point store.url at an idsync database, or restore it from a backup",
                ) from None
            except OSError as error:
                raise StoreUnavailable(f"store {self._path}: {error.strerror}", mend=_MEND) from None

    def _connection(self) -> sqlite3.Connection:
        if self._opened is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
            try:
                _wait(db, "PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
                db.execute("PRAGMA secure_delete = ON")
                self._upgrade(db)
            except BaseException:
                db.close()
                raise
            self._opened = db
        return self._opened

    def _disconnect(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _upgrade(self, db: sqlite3.Connection) -> None:
        (version,) = _wait(db, "PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise StoreMisconfigured(f"store {self._path}: written by a newer version", mend="upgrade this program")
        if version < _VERSION:
            _wait(db, "BEGIN IMMEDIATE")
            for statement in self._schema:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {_VERSION}")
            db.execute("COMMIT")


class _Joined(NamedTuple):
    """Rows as SQLite joins them: IDs with line breaks between them, UUIDs without, times with blanks."""

    ids: bytes
    uuids: bytes
    seen: str


def _is_out(db: sqlite3.Connection, token: Token) -> bool:
    return _wait(db, _OPTED_OUT, (token.name,)).fetchone() is not None


def _opted_out_devices(db: sqlite3.Connection) -> OptedOutDevices:
    return OptedOutDevices(Token(*row) for row in _wait(db, "SELECT token, tail FROM opt_outs WHERE tail <> ''"))


def _wait(db: sqlite3.Connection, statement: str, arguments: Sequence[Any] = ()) -> sqlite3.Cursor:
    """Execute; where another process is in the way, ask again every millisecond, for a bounded time.

    SQLite's own `busy_timeout` comes to ask every 100 ms only, and beside one busy writer was still waiting after 5 s.
    """
    end = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            return db.execute(statement, arguments)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
        time.sleep(_POLL_SECONDS)


# --- forks -----------------------------------------------------------------------------------------------------------

_stores: "weakref.WeakSet[SqliteStore]" = weakref.WeakSet()
_paused: "list[SqliteStore]" = []


def _before_fork() -> None:
    """Every store at rest and closed; both sides open it again when they next use it."""
    for store in list(_stores):
        store._lock.acquire()
        _paused.append(store)
        store._disconnect()


def _after_fork() -> None:
    while _paused:
        _paused.pop()._lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)

_MEND = "free space, mend the rights of the file and its folder, or wait for the other writer; then try again"
