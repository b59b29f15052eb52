"""One run of a feed at a time on this machine. The kernel frees the lock when its process ends, however it ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reconcile.errors import RunLocked


@contextmanager
def exclusive(path: Path, feed: str) -> Iterator[None]:
    """Hold the lock file; RunLocked at once if somebody else does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip()
            raise RunLocked(
                f'another run of feed "{feed}" is under way{f" (process {holder})" if holder else ""}',
                mend="wait for it to end; the lock goes with its process",
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
