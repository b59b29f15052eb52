"""Where calls wait while the store is away: a SQLite file of mappings on the endpoint's own disk.

Mappings are facts that merge, so the spool needs no journal of calls: it is a store like the other, from which what the
store has taken is removed again.
"""

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from idsync.store.base import Sync
from idsync.store.sqlite import SqliteStore

_BY_AGE = "CREATE INDEX IF NOT EXISTS mappings_by_age ON mappings (seen)"
_OLDEST = "SELECT dpid, customer_id, uuid, seen FROM mappings ORDER BY seen LIMIT ?"
_TAKEN = "DELETE FROM mappings WHERE dpid = ? AND customer_id = ? AND uuid = ? AND seen = ?"


class Spool(SqliteStore):
    """See `base.MappingStore`; shared by all workers of an endpoint."""

    _schema = (*SqliteStore._schema, _BY_AGE)

    def oldest(self, limit: int) -> list[Sync]:
        """What has waited longest, each with its UUID, oldest first."""
        with self._using() as db:
            rows = db.execute(_OLDEST, (limit,)).fetchall()
        return [Sync(dpid, customer_id, uuid, "", seen) for dpid, customer_id, uuid, seen in rows]

    def remove(self, syncs: Sequence[Sync]) -> None:
        """Take out what the store has; a pair that was synced again since stays."""
        with self._writing() as db:
            db.executemany(_TAKEN, [(sync.dpid, sync.customer_id, sync.uuid, sync.seen) for sync in syncs])

    def waiting(self, now: int) -> tuple[int, float]:
        """How many mappings, and the seconds since the oldest was seen; 0 where the clock was set back since."""
        with self._using() as db:
            mappings, oldest = db.execute("SELECT count(*), min(seen) FROM mappings").fetchone()
        return mappings, 0.0 if oldest is None else max(now - oldest, 0) / 1000

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
