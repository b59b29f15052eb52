"""The embedded store: one SQLite file in WAL mode, shared by any number of processes on one machine."""

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from urllib.parse import quote

import adbc_driver_manager
import pyarrow as pa
from adbc_driver_sqlite import dbapi as adbc

from idsync.errors import StoreMisconfigured, StoreUnavailable
from idsync.store.base import EXPORT_SCHEMA, Count, Device, Sync
from idsync.store.batches import by_customer

_VERSION = 1
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS mappings (
        dpid INTEGER NOT NULL, customer_id TEXT NOT NULL, uuid TEXT NOT NULL, seen INTEGER NOT NULL,
        PRIMARY KEY (dpid, customer_id, uuid)) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS checks (one INTEGER PRIMARY KEY CHECK (one = 1), count INTEGER NOT NULL) STRICT;
"""
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
_EXPORT = """
    SELECT customer_id, uuid, seen FROM mappings WHERE dpid = ? AND seen > ? {subset} ORDER BY customer_id, uuid
"""
_SUBSET = "AND customer_id IN (SELECT value FROM json_each(?))"
_BUSY_SECONDS = 5
_BATCH_ROWS = 65_536
_SUBSET_CUSTOMERS = 5_000
_SWEEP_ROWS = 20_000  # a tenth of a second in which other writers wait


class SqliteStore:
    """See `base.MappingStore`. Every commit is synced to disk; a write of one process waits for that of another."""

    def __init__(self, path: str, lifetime: int, devices_per_customer: int) -> None:
        self._path = Path(path)
        self._lifetime, self._cap = lifetime, devices_per_customer
        self._lock = threading.Lock()
        self._opened: tuple[int, sqlite3.Connection] | None = None

    def record(self, syncs: Sequence[Sync]) -> list[str]:
        with self._writing() as db:
            return [self._record(db, sync) for sync in syncs]

    def devices(self, dpid: int, customer_id: str, now: int) -> list[Device]:
        with self._using() as db:
            return [Device(*row) for row in db.execute(_DEVICES, (dpid, customer_id, now - self._lifetime))]

    def export(
        self, dpid: int, now: int, *, customer_ids: Sequence[str] | None = None, latest_only: bool = False
    ) -> Iterator[pa.RecordBatch]:
        with self._using():
            pass  # makes the file, if need be, and checks its version
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
        return removed

    def count(self, now: int) -> Mapping[int, Count]:
        query = "SELECT dpid, count(DISTINCT customer_id), count(*) FROM mappings WHERE seen > ? GROUP BY dpid"
        with self._using() as db:
            return {dpid: Count(*counts) for dpid, *counts in db.execute(query, (now - self._lifetime,))}

    def check(self) -> None:
        with self._writing() as db:
            db.execute("INSERT INTO checks VALUES (1, 1) ON CONFLICT DO UPDATE SET count = count + 1")

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened[1].close()
                self._opened = None

    # --- within ----------------------------------------------------------------------------------------------------

    def _record(self, db: sqlite3.Connection, sync: Sync) -> str:
        customer = (sync.dpid, sync.customer_id)
        uuid = sync.uuid
        if uuid is None:
            latest = db.execute(_DEVICES + "LIMIT 1", (*customer, sync.seen - self._lifetime)).fetchone()
            uuid = str(latest[0]) if latest else sync.fresh
        db.execute(_UPSERT, (*customer, uuid, sync.seen))
        (held,) = db.execute("SELECT count(*) FROM mappings WHERE dpid = ? AND customer_id = ?", customer).fetchone()
        if held > self._cap:
            db.execute(_EVICT, (*customer, self._cap))
        return uuid

    def _all(self, dpid: int, now: int) -> Iterator[pa.RecordBatch]:
        """Through Arrow's own driver: 5 million rows a second, where sqlite3's `fetchmany` gives a tenth of that."""
        try:
            with (
                closing(adbc.connect(f"file:{quote(str(self._path))}?mode=ro")) as connection,
                closing(connection.cursor()) as cursor,
            ):
                cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(_BATCH_ROWS)})
                cursor.execute(_EXPORT.format(subset=""), (dpid, now - self._lifetime))
                for batch in cursor.fetch_record_batch():
                    yield pa.RecordBatch.from_arrays(batch.columns, schema=EXPORT_SCHEMA)
        except adbc_driver_manager.Error as error:
            raise StoreUnavailable(f"store {self._path}: {error}", mend=_MEND) from None

    def _some(self, dpid: int, now: int, customer_ids: Sequence[str]) -> Iterator[pa.RecordBatch]:
        ordered = iter(sorted(customer_ids))
        query = _EXPORT.format(subset=_SUBSET)
        while chunk := list(islice(ordered, _SUBSET_CUSTOMERS)):
            with self._using() as db:
                rows = db.execute(query, (dpid, now - self._lifetime, json.dumps(chunk))).fetchall()
            if rows:
                yield pa.RecordBatch.from_arrays(
                    [pa.array(column) for column in zip(*rows, strict=True)], schema=EXPORT_SCHEMA
                )

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, which has the writer's place from its start: no other process reads what it will change."""
        with self._using() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

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
        if self._opened is None or self._opened[0] != os.getpid():  # a connection must not cross a fork
            self._path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            try:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
                self._upgrade(db)
            except BaseException:
                db.close()
                raise
            self._opened = os.getpid(), db
        return self._opened[1]

    def _upgrade(self, db: sqlite3.Connection) -> None:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise StoreMisconfigured(f"store {self._path}: written by a newer version", mend="upgrade this program")
        if version < _VERSION:
            db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT")


_MEND = "free space, mend the rights of the file and its folder, or wait for the other writer; then try again"
