"""One run of a feed at a time: on this machine by a lock file, and on all that share a store by a lease in it.

The kernel frees the file when its process ends, however it ends. The lease ends when nobody renews it: a run that was
paused for longer, or cut off from the store, has lost it, and is told so before it offers anything.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple, TextIO

from idsync.errors import StoreUnavailable
from idsync.settings import Settings, Store
from idsync.store.lease import Leases, open_leases
from reconcile import durable
from reconcile.errors import RunLocked
from reconcile.state import FeedState

_POLL_SECONDS = 0.05
_RENEWALS = 3  # while a lease lasts
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def sole(settings: Settings, state: FeedState) -> Iterator["Tenure"]:
    """Nobody else works on this feed, for as long as the Tenure says so. RunLocked if somebody does already."""
    seconds = settings.reconcile.lease_seconds
    with exclusive(state.lock, state.feed), closing(open_leases(settings.store)) as leases:
        token = leases.acquire(state.feed, _holder(state.lock), seconds)
        if isinstance(token, str):
            host = token.partition(",")[0]
            raise RunLocked(
                f'another run of feed "{state.feed}" is under way on another host ({host})',
                mend=f"wait for it to end; if its host has died, its lease ends within {seconds} seconds",
            )
        tenure = Tenure(leases, state.feed, token, seconds)
        try:
            yield tenure
        finally:
            tenure.end()


class Claim(NamedTuple):
    """By what another machine can tell whether a Tenure still lasts. It lasted `seconds` when it was renewed last."""

    feed: str
    token: int
    seconds: float

    def check(self, store: Store) -> None:
        """Raise RunLocked once somebody else has the lease. Where the store says nothing: who has the Tenure will."""
        with suppress(StoreUnavailable), closing(open_leases(store)) as leases:
            if not leases.is_last(self.feed, self.token):
                raise self.lost()

    def lost(self) -> RunLocked:
        return RunLocked(
            f'the lease of feed "{self.feed}" was lost: this run was paused or cut off from the store for more '
            f"than {self.seconds} seconds",
            mend="run again: what was frozen waits, and whoever has the lease now may have gone on with it",
        )


class Tenure:
    """A lease that is renewed by a thread of its own until `end`. That thread calls `at_loss` while it is lost."""

    def __init__(self, leases: Leases, feed: str, token: int, seconds: float) -> None:
        self._leases, self._feed, self.token, self._seconds = leases, feed, token, seconds
        self._ends = _now() + seconds
        self._lost = False
        self.at_loss: Callable[[], object] = lambda: None
        self._ended = Event()
        self._thread = Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise RunLocked unless the lease is ours, as the store says now.

        Where the store says nothing: unless it can have ended. Nobody else gets it before.
        """
        with suppress(StoreUnavailable):
            self._renew()
        if self._is_over:
            raise self.claim.lost()

    @property
    def claim(self) -> Claim:
        return Claim(self._feed, self.token, self._seconds)

    def later(self, seconds: int) -> int:
        """A time for names, which no run of any feed has had on any host. Raises StoreUnavailable."""
        return self._leases.later(seconds)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        if not self._lost:
            with suppress(StoreUnavailable):  # then it ends by itself
                self._leases.release(self._feed, self.token)

    def _keep(self) -> None:
        while not self._ended.wait(self._seconds / _RENEWALS):
            with suppress(StoreUnavailable):  # `check` looks at the time
                self._renew()
            if self._is_over:
                self.at_loss()

    @property
    def _is_over(self) -> bool:
        return self._lost or _now() >= self._ends

    def _renew(self) -> None:
        asked = _now()
        if self._leases.renew(self._feed, self.token, self._seconds):
            self._ends = max(self._ends, asked + self._seconds)
        else:
            self._lost = True


@contextmanager
def exclusive(path: Path, feed: str, *, patience_seconds: float = 0) -> Iterator[None]:
    """Hold the lock file; RunLocked if somebody else does, and still does after `patience_seconds`."""
    with durable.telling(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("a+")
    end = time.monotonic() + patience_seconds
    with opened as file:
        while not _lock(file):
            if time.monotonic() >= end:
                file.seek(0)
                holder = file.read().strip()
                raise RunLocked(
                    f'another run of feed "{feed}" is under way{f" (process {holder})" if holder else ""}',
                    mend="wait for it to end; the lock goes with its process",
                )
            time.sleep(_POLL_SECONDS)
        with durable.telling(path):
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        yield


def _lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(path: Path) -> str:
    """Who has this lock file in hand: a host since its start, and the file. One of the same name that held the lease
    before has died: it would hold the file as well.
    """
    file = path.stat()
    started = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
    return f"{os.uname().nodename}, {started}, {file.st_dev}:{file.st_ino}"


def _now() -> float:
    """Seconds that pass also while the machine sleeps, and that nobody sets back."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
