"""What the job keeps on disk, under which names. Listing the folders tells how far each run came.

    <state_dir>/ledger.db                    what was read and delivered, of all feeds
                locks/<feed>.lock            held while a run is under way
                hold/<feed>                  the next run is to wait for `release`, as the one withdrawn was
                held/<feed>.parquet          records that wait for their ID to be synced
                sent/<feed>.parquet          what was sent last, of feeds that send only changes
                runs/<run>/plan.json         planned: inputs, name, time
                          /files/            files, from the freeze on under their final names
                          /scratch/          what the join spills; gone at the freeze
                          /rejects.csv.gz    records left out
                          /held.parquet      what waits from now on; takes the place of the feed's at the end
                          /sent.parquet      what was sent, with this run; likewise
                          /why.json          why records did not match, with IDs; gone once the run is reported
                          /opt-outs.sha256   stands for the opt-outs that the files honour
                          /*.info            what the files should be, in the form of Audience Manager's own
                          /ON_HOLD           planned to wait for `release`
                          /manifest.json     frozen: from here on the files are only ever delivered, never made again
                          /OFFERED           from here on the destination may hold bytes of them, the ledger the run
                          /DELIVERED         delivered and recorded; or REFUSED. Holds the time
                          /report.json       what the run did, for programs; report.html for people
                .dry-run-<feed>-<random> a dry run that needs to work here, on Spark
                status.json              the last runs of all feeds, for the endpoint's status page

A run is called `<UTC seconds>-<feed>`. What begins with a dot is on its way in or out, and rubbish once nobody holds
the feed's lock.
"""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from reconcile import durable, failpoints
from reconcile.failpoints import Point
from reconcile.ledger import Ledger

_REMOVED = ".removed-"
_DRY_RUN = ".dry-run-"
_LOCK = "lock"


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        seconds, _, self.feed = path.name.partition("-")
        self._planned = int(seconds) * 1000
        self.plan = path / "plan.json"
        self.files = path / "files"
        self.scratch = path / "scratch"
        self.rejects = path / "rejects.csv.gz"
        self.held = path / "held.parquet"
        self.sent = path / "sent.parquet"
        self.opt_outs = path / "opt-outs.sha256"
        self.why = path / "why.json"
        self.report, self.page = path / "report.json", path / "report.html"
        self.manifest = path / "manifest.json"
        self._offered, self._delivered, self._refused = (path / mark for mark in ("OFFERED", "DELIVERED", "REFUSED"))
        self._on_hold = path / "ON_HOLD"

    @property
    def is_frozen(self) -> bool:
        return self.manifest.exists()

    @property
    def is_ended(self) -> bool:
        return self.is_delivered or self._refused.exists()

    @property
    def is_delivered(self) -> bool:
        return self._delivered.exists()

    @property
    def may_be_withdrawn(self) -> bool:
        """Frozen, and for certain no byte of it was offered to anybody. A run without `opt_outs` can't tell."""
        return self.is_frozen and not self.is_ended and self.opt_outs.exists() and not self.is_offered

    @property
    def is_offered(self) -> bool:
        return self._offered.exists()

    @property
    def is_on_hold(self) -> bool:
        return self._on_hold.exists() and not self.is_ended

    def mark_on_hold(self) -> None:
        durable.write(self._on_hold, b"")

    def release(self) -> None:
        with durable.telling(self._on_hold):
            self._on_hold.unlink(missing_ok=True)
            durable.sync_folder(self.path)
        failpoints.reached(Point.RELEASED)

    def mark_offered(self) -> None:
        if not self._offered.exists():
            durable.write(self._offered, b"")

    def mark_ended(self, now: int, *, delivered: bool) -> None:
        """`now` in milliseconds."""
        durable.write(self._delivered if delivered else self._refused, str(now).encode())

    @property
    def ended_at(self) -> int | None:
        """In milliseconds; None for a run that has not ended."""
        for mark in (self._delivered, self._refused):
            if mark.exists():
                return int(mark.read_bytes() or self._planned)
        return None

    def frozen_files(self) -> list[Path]:
        return sorted(self.files.glob("[!.]*"))

    def remove_report(self) -> None:
        """Both forms of it; `python -m reconcile report` makes them again."""
        for path in (self.page, self.report):  # the one that tells of IDs goes last
            path.unlink(missing_ok=True)
        durable.sync_folder(self.path)

    def remove(self) -> None:
        """Out of sight in one step: no crash leaves half a folder that looks like an earlier state of the run."""
        gone = self.path.with_name(f"{_REMOVED}{self.name}")
        with durable.telling(self.path):
            durable.move(self.path, gone)
            failpoints.reached(Point.SET_ASIDE)
            shutil.rmtree(gone)


class FeedState:
    """All that is kept of one feed, but for the ledger's entries."""

    def __init__(self, state_dir: Path, feed: str) -> None:
        self._state_dir, self.feed = state_dir, feed
        self.lock = state_dir / "locks" / f"{feed}.lock"
        self.held = state_dir / "held" / f"{feed}.parquet"
        self.sent = state_dir / "sent" / f"{feed}.parquet"
        self.next_on_hold = state_dir / "hold" / feed
        self.copies = state_dir / "copies" / feed
        self.objects = state_dir / "objects" / f"{feed}.json"

    def run(self, name: str) -> RunFolder:
        return RunFolder(self._state_dir / "runs" / name)

    def runs(self) -> list[RunFolder]:
        """Oldest first."""
        return [folder for folder in _runs(self._state_dir) if folder.feed == self.feed]

    @contextmanager
    def dry_run(self) -> Iterator[Path]:
        """A folder for a dry run, which does not take the feed's lock: it has one of its own, that `clear_leftovers`
        tells by whether a killed one left the folder.
        """
        with durable.telling(self._state_dir):
            self._state_dir.mkdir(parents=True, exist_ok=True)
            made = TemporaryDirectory(prefix=f"{_DRY_RUN}{self.feed}-", dir=self._state_dir)
        with made as name, (Path(name) / f".{_LOCK}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (Path(name) / f".{_LOCK}").rename(Path(name) / _LOCK)  # locked from the start of its being there
            yield Path(name)

    def clear_leftovers(self) -> int:
        """Remove what killed processes have left: runs never frozen, files half written; how many. Needs the lock."""
        halves = [path.with_name(f".{path.name}.part") for path in (self.held, self.sent)]
        halves += [half for run in self.runs() for half in run.path.glob(".*.part")]
        halves = [half for half in halves if half.exists()]
        for half in halves:
            half.unlink()
        unfrozen = [run for run in self.runs() if not run.is_frozen and not run.is_ended]
        for run in unfrozen:
            run.remove()
        removed = [
            path
            for path in (self._state_dir / "runs").glob(f"{_REMOVED}*")
            if path.name.removeprefix(_REMOVED).partition("-")[2] == self.feed
        ]
        for path in removed:
            shutil.rmtree(path)
        dry_runs = [path for path in _dry_runs(self._state_dir) if _rehearsed(path) == self.feed and _is_dead(path)]
        for path in dry_runs:
            shutil.rmtree(path)
        if self.copies.exists():
            shutil.rmtree(self.copies)
        untold = [run.why for run in self.runs() if run.is_ended and run.why.exists()]
        for path in untold:
            path.unlink()
        return len(halves) + len(unfrozen) + len(removed) + len(dry_runs) + len(untold)


def withdraw(run: RunFolder, ledger: Ledger, reason: str) -> None:
    """Give up a frozen run of which nothing was offered; its inputs are new again, its name is not used again.

    Where it was on hold, what its inputs become next will be, too: nobody has released them.
    """
    if run.is_on_hold:
        mark = run.path.parent.parent / "hold" / run.feed
        mark.parent.mkdir(exist_ok=True)
        durable.write(mark, b"")
    ledger.close(run.name, "withdrawn", {"problem": f"withdrawn: {reason}; its inputs are new again"})
    failpoints.reached(Point.WITHDRAWN)
    run.remove()


def feeds(state_dir: Path) -> set[str]:
    """The names of the feeds of which something is kept, whether they still are in the configuration or not. What
    killed processes left counts: it may hold IDs as well.
    """
    tables = [*state_dir.glob("held/[!.]*.parquet"), *state_dir.glob("sent/[!.]*.parquet")]
    halves = [*state_dir.glob("held/.*.parquet.part"), *state_dir.glob("sent/.*.parquet.part")]
    removed = {path.name.removeprefix(_REMOVED).partition("-")[2] for path in state_dir.glob(f"runs/{_REMOVED}*-*")}
    left = {path.name[1:].removesuffix(".parquet.part") for path in halves} | removed
    left |= {_rehearsed(path) for path in _dry_runs(state_dir)}
    copied = {path.name for path in state_dir.glob("copies/*")}
    return {path.stem for path in tables} | {run.feed for run in _runs(state_dir)} | left | copied


def _runs(state_dir: Path) -> Iterator[RunFolder]:
    for path in sorted((state_dir / "runs").glob("*-*")):
        if path.name.partition("-")[0].isdigit():
            yield RunFolder(path)


def _dry_runs(state_dir: Path) -> list[Path]:
    return sorted(state_dir.glob(f"{_DRY_RUN}*-*"))


def _rehearsed(dry_run: Path) -> str:
    """The feed. What `TemporaryDirectory` puts behind it has no hyphen."""
    return dry_run.name.removeprefix(_DRY_RUN).rpartition("-")[0]


def _is_dead(dry_run: Path) -> bool:
    """One without a lock has just begun, and holds nothing yet."""
    try:
        with (dry_run / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (FileNotFoundError, BlockingIOError):
        return False
    return True
