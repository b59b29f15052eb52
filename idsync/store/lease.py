"""Who may do something that only one may do at a time, on whichever host: a lease in the store that all of them share.

A lease ends by itself when its holder no longer renews it. Each time one is granted its token grows: what was begun
under an older one can be told. One who asks under the holder's own name gets the lease at once: names are such that the
holder is then known to be gone.

The times that name files are given out here, too: two hosts would else, in one second, give one name to two files.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from idsync.errors import StoreUnavailable
from idsync.settings import Store
from idsync.store import open_store

if TYPE_CHECKING:
    from idsync.store.redis import RedisStore

# KEYS: lease, and the last token; in a cluster both are in one slot. ARGV: holder, milliseconds. Returns the token,
# or the one who holds it.
_ACQUIRE = """
local held = redis.call('GET', KEYS[1])
if held then
  local holder = string.match(held, '^%d+ (.*)$')
  if holder ~= ARGV[1] then return holder end
end
local token = redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], token .. ' ' .. ARGV[1], 'PX', ARGV[2])
return token
"""

# KEYS: lease. ARGV: token, milliseconds; 0 ends it. Whether it was still that token's.
_RENEW = """
local held = redis.call('GET', KEYS[1])
if not held or string.match(held, '^%d+') ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""

# KEYS: the last time given out. ARGV: seconds. Returns the time given out now.
_LATER = """
local given = math.max((tonumber(redis.call('GET', KEYS[1])) or 0) + 1, tonumber(ARGV[1]))
redis.call('SET', KEYS[1], string.format('%d', given))
return given
"""
_LAST_TIME = "ids:last-time"

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS leases ("
    "name TEXT PRIMARY KEY, token INTEGER NOT NULL, holder TEXT NOT NULL, ends REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS last_time (id INTEGER PRIMARY KEY CHECK (id = 1), seconds INTEGER NOT NULL)",
)
_WAIT_SECONDS = 5


class Leases(Protocol):
    """All raise StoreUnavailable where nothing can be said."""

    def acquire(self, name: str, holder: str, seconds: float) -> int | str:
        """A token, greater than any before it; or who else has the lease."""

    def renew(self, name: str, token: int, seconds: float) -> bool:
        """For `seconds` from now on. False once the lease is not this token's any more."""

    def is_last(self, name: str, token: int) -> bool:
        """Whether nobody was granted the lease after this token. To ask prolongs nothing."""

    def release(self, name: str, token: int) -> None:
        """Fine if it is not this token's any more."""

    def later(self, seconds: int) -> int:
        """A time that is greater than any given out before, to whomever: `seconds`, unless it is too early."""

    def close(self) -> None: ...


def open_leases(settings: Store) -> Leases:
    """Connects when it is first used."""
    if settings.url.startswith("sqlite:///"):
        return SqliteLeases(Path(f"{settings.url.removeprefix('sqlite:///')}-leases"))
    return RedisLeases(cast("RedisStore", open_store(settings)))  # there is no third kind


class RedisLeases:
    """By the clock of the server."""

    def __init__(self, store: "RedisStore") -> None:
        self._store = store

    def acquire(self, name: str, holder: str, seconds: float) -> int | str:
        key = _key(name)
        answer = self._store.ask(("EVAL", _ACQUIRE, 2, key, f"{key}:token", holder, round(seconds * 1000)))
        return answer if isinstance(answer, int) else str(answer, "utf-8", "replace")

    def renew(self, name: str, token: int, seconds: float) -> bool:
        return bool(self._store.ask(("EVAL", _RENEW, 1, _key(name), token, round(seconds * 1000))))

    def is_last(self, name: str, token: int) -> bool:
        return int(self._store.ask(("GET", f"{_key(name)}:token")) or 0) == token

    def release(self, name: str, token: int) -> None:
        self.renew(name, token, 0)

    def later(self, seconds: int) -> int:
        return int(self._store.ask(("EVAL", _LATER, 1, _LAST_TIME, seconds)))

    def close(self) -> None:
        self._store.close()


class SqliteLeases:
    """Beside the store, in a file of its own: the endpoint's writes need not wait for it. By the clock of the host."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def acquire(self, name: str, holder: str, seconds: float) -> int | str:
        now = time.time()
        with self._transaction() as db:
            row = db.execute("SELECT token, holder, ends FROM leases WHERE name = ?", (name,)).fetchone()
            token, held_by, ends = row or (0, holder, 0.0)
            if ends > now and held_by != holder:
                return str(held_by)
            db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?)", (name, token + 1, holder, now + seconds))
        return int(token) + 1

    def renew(self, name: str, token: int, seconds: float) -> bool:
        now = time.time()
        with self._transaction() as db:
            query = "UPDATE leases SET ends = ? WHERE name = ? AND token = ? AND ends > ?"
            return db.execute(query, (now + seconds, name, token, now)).rowcount > 0

    def is_last(self, name: str, token: int) -> bool:
        with self._transaction() as db:
            query = "SELECT count(*) FROM leases WHERE name = ? AND token = ?"
            return bool(db.execute(query, (name, token)).fetchone()[0])

    def release(self, name: str, token: int) -> None:
        self.renew(name, token, 0)

    def later(self, seconds: int) -> int:
        query = (
            "INSERT INTO last_time VALUES (1, ?) ON CONFLICT DO UPDATE SET seconds = max(seconds + 1, excluded.seconds)"
            " RETURNING seconds"
        )
        with self._transaction() as db:
            ((given,),) = db.execute(query, (seconds,)).fetchall()
        return int(given)

    def close(self) -> None:
        """Nothing is kept open."""

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=_WAIT_SECONDS, isolation_level=None)) as db:
                for table in _SCHEMA:
                    db.execute(table)
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(
                f"leases {self._path}: {error}", mend="free space or mend the rights of its folder, and run again"
            ) from None


def _key(name: str) -> str:
    """What stands in braces chooses the slot of a cluster."""
    return f"ids:lease:{{{name}}}"
