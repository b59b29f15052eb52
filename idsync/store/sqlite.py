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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from idsync.errors import StoreMisconfigured, StoreUnavailable
from idsync.ids import UUID_DIGITS
from idsync.store.base import EXPORT_SCHEMA, Count, Device, Sync
from idsync.store.batches import by_customer, texts, texts_of

_VERSION = 1
_STRICT = sqlite3.sqlite_version_info >= (3, 37)
_SCHEMA: tuple[str, ...] = (
    f"""CREATE TABLE IF NOT EXISTS mappings (
        dpid INTEGER NOT NULL, customer_id TEXT NOT NULL, uuid TEXT NOT NULL, seen INTEGER NOT NULL,
        PRIMARY KEY (dpid, customer_id, uuid)) WITHOUT ROWID{", STRICT" if _STRICT else ""}""",
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
# A chunk of rows as three texts: SQLite joins them in C, and Python makes three objects where rows would be 200,000.
_EXPORT = """
    SELECT CAST(group_concat(customer_id, char(10)) AS BLOB), CAST(group_concat(uuid, '') AS BLOB),
        group_concat(seen, ' ')
    FROM (SELECT customer_id, uuid, seen FROM mappings WHERE dpid = ? AND seen > ? AND {which}
        ORDER BY customer_id, uuid {limit})
"""
_FOLLOWING = _EXPORT.format(which="(customer_id, uuid) > (?, ?)", limit="LIMIT ?")
_WANTED = _EXPORT.format(which="customer_id IN (SELECT value FROM json_each(?))", limit="")
_BUSY_SECONDS = 5.0
_POLL_SECONDS = 0.001
_BATCH_ROWS = 65_536
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
            return [self._record(db, sync) for sync in syncs]

    def devices(self, dpid: int, customer_id: str, now: int) -> list[Device]:
        with self._using() as db:
            return [Device(*row) for row in _wait(db, _DEVICES, (dpid, customer_id, now - self._lifetime))]

    def latest(self, customers: Sequence[tuple[int, str]], now: int) -> list[Device | None]:
        with self._using() as db:
            found = [_wait(db, _DEVICES + "LIMIT 1", (*each, now - self._lifetime)).fetchone() for each in customers]
        return [Device(*row) if row else None for row in found]

    def export(
        self, dpid: int, now: int, *, customer_ids: Sequence[str] | None = None, latest_only: bool = False
    ) -> Iterator[pa.RecordBatch]:
        batches = self._all(dpid, now) if customer_ids is None else self._some(dpid, now, customer_ids)
        return by_customer(batches, latest_only=latest_only)

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
        return removed

    def count(self, now: int) -> Mapping[int, Count]:
        query = "SELECT dpid, count(DISTINCT customer_id), count(*) FROM mappings WHERE seen > ? GROUP BY dpid"
        with self._using() as db:
            return {dpid: Count(*counts) for dpid, *counts in _wait(db, query, (now - self._lifetime,))}

    def check(self) -> None:
        with self._writing() as db:
            db.execute("INSERT INTO checks VALUES (1, 1) ON CONFLICT DO UPDATE SET count = count + 1")

    def close(self) -> None:
        with self._lock:
            self._disconnect()

    # --- within ----------------------------------------------------------------------------------------------------

    def _record(self, db: sqlite3.Connection, sync: Sync) -> str:
        customer = (sync.dpid, sync.customer_id)
        uuid = sync.uuid
        if uuid is None:
            latest = db.execute(_DEVICES + "LIMIT 1", (*customer, sync.seen - self._lifetime)).fetchone()
            uuid = str(latest[0]) if latest else sync.fresh
            if not uuid:
                return ""
        db.execute(_UPSERT, (*customer, uuid, sync.seen))
        (held,) = db.execute("SELECT count(*) FROM mappings WHERE dpid = ? AND customer_id = ?", customer).fetchone()
        if held > self._cap:
            db.execute(_EVICT, (*customer, self._cap))
        return uuid

    def _all(self, dpid: int, now: int) -> Iterator[pa.RecordBatch]:
        """Chunk after chunk, each with a look of its own: no long read keeps the log from being cut back."""
        last = ("", "")
        while (batch := self._batch(_FOLLOWING, dpid, now - self._lifetime, *last, _BATCH_ROWS)) is not None:
            yield batch
            if len(batch) < _BATCH_ROWS:
                return  # looking once more could find what was added since, and so on for ever
            last = (batch.column(0)[-1].as_py(), batch.column(1)[-1].as_py())

    def _some(self, dpid: int, now: int, customer_ids: Sequence[str]) -> Iterator[pa.RecordBatch]:
        ordered = iter(sorted(customer_ids))
        while chunk := list(islice(ordered, _SUBSET_CUSTOMERS)):
            if (batch := self._batch(_WANTED, dpid, now - self._lifetime, json.dumps(chunk))) is not None:
                yield batch

    def _batch(self, query: str, *arguments: object) -> pa.RecordBatch | None:
        with self._using() as db:
            ids, uuids, seen = _wait(db, query, arguments).fetchone()
        if ids is None:
            return None
        times = np.fromstring(seen, dtype=np.int64, sep=" ")
        names = texts(ids + b"\n")
        if not len(names) * UUID_DIGITS == len(times) * UUID_DIGITS == len(uuids):
            raise StoreMisconfigured(
                f"store {self._path}: holds mappings that this program did not write",
                mend="drop the rows whose uuid is not 38 digits or whose customer_id holds a line break",
            )
        return pa.RecordBatch.from_arrays([names, texts_of(uuids, UUID_DIGITS), pa.array(times)], schema=EXPORT_SCHEMA)

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
