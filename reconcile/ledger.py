"""The memory of all runs: which inputs went into which files, and where those were delivered. SQLite, fully synced."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from idsync.errors import StoreMisconfigured, StoreUnavailable

_VERSION = 4
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS runs (
        run TEXT PRIMARY KEY, feed TEXT NOT NULL, timestamp INTEGER NOT NULL UNIQUE, state TEXT NOT NULL,
        summary TEXT NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS inputs (
        feed TEXT NOT NULL, sha256 TEXT NOT NULL, path TEXT NOT NULL, run TEXT NOT NULL REFERENCES runs,
        PRIMARY KEY (feed, sha256)) STRICT;
    CREATE TABLE IF NOT EXISTS places (
        feed TEXT NOT NULL, place TEXT NOT NULL, path TEXT NOT NULL, sha256 TEXT NOT NULL,
        run TEXT NOT NULL REFERENCES runs, PRIMARY KEY (feed, place)) STRICT;
    CREATE TABLE IF NOT EXISTS files (
        name TEXT PRIMARY KEY, run TEXT NOT NULL REFERENCES runs, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL,
        lines INTEGER NOT NULL, location TEXT NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS receipts (
        digest TEXT PRIMARY KEY, read_at INTEGER NOT NULL, told TEXT NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS redeliveries (
        name TEXT NOT NULL REFERENCES files, destination TEXT NOT NULL, location TEXT NOT NULL, at INTEGER NOT NULL)
        STRICT;
"""
# `places` came with version 4, which tells them from paths
_FILLED = """
    INSERT OR REPLACE INTO places
        SELECT inputs.feed, path, path, sha256, run FROM inputs JOIN runs USING (run) ORDER BY timestamp;
"""
_PLACED = "INSERT OR REPLACE INTO places VALUES (?, ?, ?, ?, ?)"


class Delivered(NamedTuple):
    """A file and where it was put: a path, or a URL."""

    feed: str
    name: str
    location: str


class Ledger:
    """One file, opened for each operation: runs are rare, and two feeds may run side by side."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def reserve(self, feed: str, now_seconds: int, agree: Callable[[int], int] = lambda time: time) -> tuple[str, int]:
        """A run ID and a timestamp (UTC seconds) that no run of any feed has had: file names depend on it.

        `agree` gives, for the least that is possible here, one that is so on other hosts as well.
        """
        with self._transaction() as db:
            (last,) = db.execute("SELECT coalesce(max(timestamp), 0) FROM runs").fetchone()
            timestamp = agree(max(now_seconds, int(last) + 1))
            run = f"{timestamp}-{feed}"
            db.execute("INSERT INTO runs VALUES (?, ?, ?, 'planned', '{}')", (run, feed, timestamp))
        return run, timestamp

    def known(self, feed: str, digests: Iterable[str]) -> dict[str, str]:
        """Those of these content hashes that this feed has delivered, each with the run that did."""
        if not self._path.exists():
            return {}
        with self._transaction() as db:
            found = {}
            for digest in digests:
                row = db.execute("SELECT run FROM inputs WHERE feed = ? AND sha256 = ?", (feed, digest)).fetchone()
                if row is not None:
                    found[digest] = str(row[0])
        return found

    def places(self, feed: str) -> dict[str, str]:
        """What each input of this feed, by place, held when it was last delivered: its SHA-256."""
        if not self._path.exists():
            return {}
        with self._transaction() as db:
            return dict(db.execute("SELECT place, sha256 FROM places WHERE feed = ?", (feed,)).fetchall())

    def latest(self, feed: str) -> tuple[str, list[str]]:
        """The last run that delivered inputs, and the SHA-256 of each, in order; nothing where there was none."""
        if not self._path.exists():
            return "", []
        query = (
            "SELECT run, summary FROM runs WHERE feed = ? AND state = 'delivered'"
            " AND json_array_length(summary, '$.inputs') > 0 ORDER BY timestamp DESC LIMIT 1"
        )
        with self._transaction() as db:
            row = db.execute(query, (feed,)).fetchone()
        return (str(row[0]), [file["sha256"] for file in json.loads(row[1])["inputs"]]) if row else ("", [])

    def keep_copies(self, feed: str, run: str, copies: Iterable[Mapping[str, str]]) -> None:
        """Record inputs (path, place, sha256) that hold what this run has delivered."""
        with self._transaction() as db:
            db.executemany(_PLACED, _placed(feed, run, copies))

    def close(self, run: str, state: str, summary: dict[str, Any]) -> None:
        """Record how a run ended. For `delivered` its inputs and files count as done, all at once. Can be repeated."""
        with self._transaction() as db:
            # what is delivered stays so, whatever a run says that lost the feed to another
            changed = "UPDATE runs SET state = ?1, summary = ?2 WHERE run = ?3 AND (state <> 'delivered' OR ?1 = state)"
            db.execute(changed, (state, json.dumps(summary), run))
            if state == "delivered":
                inputs = [(summary["feed"], file["sha256"], file["path"], run) for file in summary["inputs"]]
                db.executemany("INSERT OR IGNORE INTO inputs VALUES (?, ?, ?, ?)", inputs)
                inputs = summary["inputs"] + [copy for file in summary["inputs"] for copy in file.get("copies", ())]
                db.executemany(_PLACED, _placed(summary["feed"], run, inputs))
                columns = ("sha256", "bytes", "lines", "location")
                files = [(file["name"], run, *(file[column] for column in columns)) for file in summary["files"]]
                db.executemany("INSERT OR IGNORE INTO files VALUES (?, ?, ?, ?, ?, ?)", files)

    def abandon(self, feed: str, problem: str) -> None:
        """Mark as failed what was planned for this feed and got no further. For the holder of the feed's lock."""
        if self._path.exists():
            with self._transaction() as db:
                query = "UPDATE runs SET state = 'failed', summary = ? WHERE feed = ? AND state = 'planned'"
                db.execute(query, (json.dumps({"problem": problem}), feed))

    def forget(self, run: str) -> None:
        """Take back a reservation of which nothing came."""
        with self._transaction() as db:
            db.execute("DELETE FROM runs WHERE run = ?", (run,))

    def history(self, feed: str | None = None, *, limit: int = -1) -> list[dict[str, Any]]:
        """The summaries of all runs, or of the latest `limit`, latest first, each with its state."""
        if not self._path.exists():
            return []
        with self._transaction() as db:
            rows = db.execute(
                "SELECT run, feed, state, summary FROM runs WHERE feed = coalesce(?, feed) ORDER BY timestamp DESC"
                " LIMIT ?",
                (feed, limit),
            ).fetchall()
        return [{"run": run, "feed": of, **json.loads(summary), "state": state} for run, of, state, summary in rows]

    def runs_at(self, timestamps: Iterable[int]) -> list[dict[str, Any]]:
        """As in `history`, the runs with these timestamps, which their files have in their names."""
        if not self._path.exists():
            return []
        with self._transaction() as db:
            query = "SELECT run, feed, state, summary FROM runs WHERE timestamp = ?"
            rows = [row for timestamp in timestamps for row in db.execute(query, (timestamp,)).fetchall()]
        return [{"run": run, "feed": of, **json.loads(summary), "state": state} for run, of, state, summary in rows]

    def keep_receipt(self, digest: str, now: int, told: dict[str, Any]) -> None:
        """Remember what Audience Manager reported of a batch; `now` in milliseconds. The first reading stays."""
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO receipts VALUES (?, ?, ?)", (digest, now, json.dumps(told)))

    def receipts(self) -> list[dict[str, Any]]:
        """What was reported, oldest reading first, each with its `digest` and `read_at`."""
        if not self._path.exists():
            return []
        with self._transaction() as db:
            rows = db.execute("SELECT digest, read_at, told FROM receipts ORDER BY read_at, digest").fetchall()
        return [{**json.loads(told), "digest": digest, "read_at": read_at} for digest, read_at, told in rows]

    def runs(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """As in `history`, the runs with these names, of those that there are."""
        if not self._path.exists():
            return []
        with self._transaction() as db:
            query = "SELECT run, feed, state, summary FROM runs WHERE run = ?"
            rows = [row for name in names for row in db.execute(query, (name,)).fetchall()]
        return [{"run": run, "feed": of, **json.loads(summary), "state": state} for run, of, state, summary in rows]

    def inputs(self, feed: str) -> dict[str, int]:
        """Every input that this feed has delivered, by path or URL, and when the last run with it began, in seconds."""
        if not self._path.exists():
            return {}
        query = "SELECT path, timestamp FROM places JOIN runs USING (run) WHERE places.feed = ?"
        with self._transaction() as db:
            return dict(db.execute(query, (feed,)).fetchall())

    def redelivered(self, run: str, destination: str, now: int, files: Iterable[dict[str, Any]]) -> None:
        """Record that files of a delivered run went out once more; `now` in milliseconds."""
        with self._transaction() as db:
            rows = [(file["name"], destination, file["location"], now) for file in files]
            db.executemany("INSERT INTO redeliveries VALUES (?, ?, ?, ?)", rows)
            ((text,),) = db.execute("SELECT summary FROM runs WHERE run = ?", (run,)).fetchall()
            summary = json.loads(text)
            summary.setdefault("redelivered", []).append({"destination": destination, "at": now})
            db.execute("UPDATE runs SET summary = ? WHERE run = ?", (json.dumps(summary), run))

    def deliveries(self) -> list[Delivered]:
        """Every file that was ever delivered and where, oldest first."""
        if not self._path.exists():
            return []
        query = (
            "WITH places AS (SELECT name, location FROM files UNION SELECT name, location FROM redeliveries) "
            "SELECT feed, name, places.location FROM places JOIN files USING (name) JOIN runs USING (run) "
            "ORDER BY timestamp, name, places.location"
        )
        with self._transaction() as db:
            return [Delivered(*row) for row in db.execute(query).fetchall()]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=30, isolation_level=None)) as db:
                db.execute("PRAGMA synchronous = FULL")
                self._upgrade(db)
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
        except (sqlite3.OperationalError, OSError) as error:
            raise StoreUnavailable(
                f"ledger {self._path}: {error}",
                mend="free space or mend the rights of reconcile.state_dir, and run again",
            ) from None
        except sqlite3.DatabaseError as error:
            raise StoreMisconfigured(f"ledger {self._path}: {error}", mend="restore the file from a backup") from None

    def _upgrade(self, db: sqlite3.Connection) -> None:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise StoreMisconfigured(f"ledger {self._path}: written by a newer version", mend="upgrade this program")
        if version < _VERSION:
            db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} {_FILLED} PRAGMA user_version = {_VERSION}; COMMIT")


def _placed(feed: str, run: str, inputs: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of `places`. A run that was frozen by an earlier version knows of none."""
    return [(feed, file["place"], file["path"], file["sha256"], run) for file in inputs if "place" in file]
