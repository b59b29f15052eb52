"""One run of a feed at a time on this machine. The kernel frees the lock when its process ends, however it ends."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from reconcile.errors import RunLocked

_POLL_SECONDS = 0.05


@contextmanager
def exclusive(path: Path, feed: str, *, patience_seconds: float = 0) -> Iterator[None]:
    """Hold the lock file; RunLocked if somebody else does, and still does after `patience_seconds`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + patience_seconds
    with path.open("a+") as file:
        while not _lock(file):
            if time.monotonic() >= end:
                file.seek(0)
                holder = file.read().strip()
                raise RunLocked(
                    f'another run of feed "{feed}" is under way{f" (process {holder})" if holder else ""}',
                    mend="wait for it to end; the lock goes with its process",
                )
            time.sleep(_POLL_SECONDS)
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
