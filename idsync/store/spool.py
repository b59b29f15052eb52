"""Where calls wait while the store is away: a SQLite file of mappings and opt-outs on the endpoint's own disk.

Mappings are facts that merge, so the spool needs no journal of calls: it is a store like the other, from which what the
store has taken is removed again. Opt-outs wait under their IDs, as the store has mappings to remove.
"""

import fcntl
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from idsync.store.base import Sync
from idsync.store.optouts import OptOut, tokens_of
from idsync.store.sqlite import KEYED, SqliteStore

_BY_AGE = "CREATE INDEX IF NOT EXISTS mappings_by_age ON mappings (seen)"
_OLDEST = "SELECT dpid, customer_id, uuid, seen FROM mappings ORDER BY seen LIMIT ?"
_TAKEN = "DELETE FROM mappings WHERE dpid = ? AND customer_id = ? AND uuid = ? AND seen = ?"
_WAITING = f"""CREATE TABLE IF NOT EXISTS waiting_opt_outs (
    dpid INTEGER NOT NULL, id TEXT NOT NULL, since INTEGER NOT NULL, takes_device INTEGER NOT NULL,
    PRIMARY KEY (dpid, id)) {KEYED}"""
_OF_DEVICES = -1  # in place of a DPID
_WAIT = """
    INSERT INTO waiting_opt_outs VALUES (?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET takes_device = max(takes_device, excluded.takes_device)
"""


class Waiting(NamedTuple):
    """`age_seconds`: since the oldest mapping was seen; 0 without one, and where the clock was set back since."""

    mappings: int
    age_seconds: float
    opt_outs: int


class Spool(SqliteStore):
    """See `base.MappingStore`; shared by all workers of an endpoint. What it is told to opt out waits for the store."""

    _schema = (*SqliteStore._schema, _BY_AGE, _WAITING)

    def opt_outs_wait(self) -> bool:
        with self._using() as db:
            return bool(db.execute("SELECT EXISTS (SELECT 1 FROM waiting_opt_outs)").fetchone()[0])

    def waiting_opt_outs(self, limit: int) -> list[OptOut]:
        """Some of those that wait, each of one ID."""
        with self._using() as db:
            rows = db.execute("SELECT dpid, id, since, takes_device FROM waiting_opt_outs LIMIT ?", (limit,)).fetchall()
        return [
            OptOut((), (name,), since, takes_devices=False)
            if dpid == _OF_DEVICES
            else OptOut(((dpid, name),), (), since, takes_devices=bool(takes_device))
            for dpid, name, since, takes_device in rows
        ]

    def opt_outs_taken(self, opt_outs: Sequence[OptOut]) -> None:
        """Take out what the store has."""
        names = [each for opt_out in opt_outs for each in _names(opt_out)]
        tokens = [token for opt_out in opt_outs for token in tokens_of(opt_out.customers, opt_out.uuids)]
        with self._writing() as db:
            db.executemany("DELETE FROM waiting_opt_outs WHERE dpid = ? AND id = ?", names)
            db.executemany("DELETE FROM opt_outs WHERE token = ?", [(token.name,) for token in tokens])

    def erase(self, customers: Sequence[tuple[int, str]], uuids: Sequence[str]) -> int:
        """Remove all that waits of these, whose opt-out the store has; how many mappings."""
        names = [*customers, *((_OF_DEVICES, uuid) for uuid in uuids)]
        with self._writing() as db:
            db.executemany("DELETE FROM waiting_opt_outs WHERE dpid = ? AND id = ?", names)
            query = "DELETE FROM mappings WHERE dpid = ? AND customer_id = ?"
            removed = sum(db.execute(query, customer).rowcount for customer in customers)
            removed += sum(db.execute("DELETE FROM mappings WHERE uuid = ?", (uuid,)).rowcount for uuid in uuids)
        return removed

    def oldest(self, limit: int) -> list[Sync]:
        """What has waited longest, each with its UUID, oldest first."""
        with self._using() as db:
            rows = db.execute(_OLDEST, (limit,)).fetchall()
        return [Sync(dpid, customer_id, uuid, "", seen) for dpid, customer_id, uuid, seen in rows]

    def taken(self, syncs: Sequence[Sync]) -> None:
        """Take out what the store has; a pair that was synced again since stays."""
        with self._writing() as db:
            db.executemany(_TAKEN, [(sync.dpid, sync.customer_id, sync.uuid, sync.seen) for sync in syncs])

    def waiting(self, now: int) -> Waiting:
        with self._using() as db:
            mappings, oldest = db.execute("SELECT count(*), min(seen) FROM mappings").fetchone()
            (opt_outs,) = db.execute("SELECT count(*) FROM waiting_opt_outs").fetchone()
        return Waiting(mappings, 0.0 if oldest is None else max(now - oldest, 0) / 1000, opt_outs)

    @contextmanager
    def emptying(self) -> Iterator[bool]:
        """Whether this process is the one that empties the spool, until the end of the block (or of the process)."""
        path = Path(f"{self._path}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def _opt_out(self, db: sqlite3.Connection, opt_out: OptOut) -> int:
        """The last device that is linked here goes along on its own account: the store may know another as the last."""
        rows = [(*each, opt_out.at, opt_out.takes_devices) for each in _names(opt_out)]
        if opt_out.takes_devices:
            rows += [(_OF_DEVICES, uuid, opt_out.at, False) for uuid in self._last_linked(db, opt_out) if uuid]
        db.executemany(_WAIT, rows)
        return super()._opt_out(db, opt_out)


def _names(opt_out: OptOut) -> list[tuple[int, str]]:
    return [*opt_out.customers, *((_OF_DEVICES, uuid) for uuid in opt_out.uuids)]
