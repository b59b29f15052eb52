"""One way to put a file where it is found whole or not at all, also after a power cut."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reconcile.errors import StateUnavailable

_NO_RIGHTS = {errno.EACCES, errno.EPERM, errno.EROFS}


def write(path: Path, data: bytes) -> None:
    """Write beside the target, sync, rename over it, sync the folder."""
    with replacing(path) as half:
        half.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside the target to write to; what was written takes the target's place unless an exception comes."""
    half = path.with_name(f".{path.name}.part")
    with telling(path):
        yield half
        sync(half)
        move(half, path)


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """A fault of the disk becomes an error that names the path: the one that it happened to, or this."""
    try:
        yield
    except OSError as error:
        raise StateUnavailable(
            f"{_at_fault(error) or path}: {error.strerror or error}",
            mend="free space there, or let the user that runs the job write there, and run again",
        ) from None


def _at_fault(error: OSError) -> Path | None:
    """A rename takes rights in two folders, and its error says not which it lacks."""
    if error.filename is None:
        return None
    source = Path(error.filename)
    if error.filename2 is None or error.errno not in _NO_RIGHTS:
        return source
    may_leave = os.access(source.parent, os.W_OK | os.X_OK, effective_ids=True)
    return Path(error.filename2).parent if may_leave else source.parent


def move(source: Path, target: Path) -> None:
    """Rename within a file system, and make the rename last."""
    source.rename(target)
    sync_folder(target.parent)


def sync(path: Path) -> None:
    """The content of a file that was written by others."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
