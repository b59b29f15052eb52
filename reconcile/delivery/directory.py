"""A directory: local, mounted, or watched by something that carries files on."""

import errno
import hashlib
import os
from pathlib import Path

from reconcile import durable, failpoints
from reconcile.delivery.base import CONFLICT_MEND, conflict, damaged, see_whole, sha256, temporary_name
from reconcile.errors import DeliveryConflict, DestinationRefused, DestinationUnavailable
from reconcile.failpoints import Point
from reconcile.files import FrozenFile

_LATER = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNREFUSED, errno.ENOTCONN, errno.EREMOTEIO),
}
# What file systems without hard links say: FAT and exFAT EPERM, many network file systems one of the others.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EXDEV}
# What file systems say that sync no folders, SMB and some in user space: there a name lasts as they will have it.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_CHUNK = 1 << 20


class DirectoryDelivery:
    """Copies under a hidden name, syncs, then links to the final name, which fails if that is taken."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def reach(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            os.scandir(self._folder).close()
        except OSError as error:
            raise _told(error, self._folder) from None

    def deliver(self, path: Path, file: FrozenFile, planned_at: int) -> str:
        target = self._folder / file.name
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not target.exists() or _is_reserved(target.with_name(temporary_name(target.name)), target):
                self._put(path, file, target)
            if sha256(target) != file.sha256:
                see_whole(path, file)
                raise DeliveryConflict(conflict(str(target)), mend=CONFLICT_MEND)
            target.with_name(temporary_name(target.name)).unlink(missing_ok=True)  # of one killed after the link
        except OSError as error:
            raise _told(error, target) from None
        return str(target)

    def _put(self, path: Path, file: FrozenFile, target: Path) -> None:
        temporary = target.with_name(temporary_name(target.name))
        try:
            _copy(path, file, temporary)
            failpoints.reached(Point.FILE_HALF_THERE)
            _place(temporary, target)
            failpoints.reached(Point.FILE_THERE)
        finally:
            temporary.unlink(missing_ok=True)
        try:
            durable.sync_folder(self._folder)
        except OSError as error:
            if error.errno not in _NO_FOLDER_SYNC:
                raise


def _copy(path: Path, file: FrozenFile, temporary: Path) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as source, temporary.open("wb") as copy:
        while piece := source.read(_CHUNK):
            digest.update(piece)
            copy.write(piece)
        copy.flush()
        os.fsync(copy.fileno())
    if digest.hexdigest() != file.sha256:
        raise damaged(path)


def _place(temporary: Path, target: Path) -> None:
    """Give a whole file its name, never in place of another. Somebody who was quicker keeps it: the bytes will tell."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        # by somebody else; or by this very call, which a network file system has sent twice
        if not _is_reserved(temporary, target):
            return
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    else:
        return
    # Without links: take the name with an empty file, which only one can, then put the whole one over it.
    # Whoever watches the directory may see the empty one for a moment.
    if not _is_reserved(temporary, target):
        try:
            target.open("xb").close()
        except FileExistsError:
            return
    temporary.replace(target)


def _is_reserved(temporary: Path, target: Path) -> bool:
    """Whether the name was taken by `_place`, which was then killed: our half file lies beside an empty one."""
    return temporary.exists() and target.exists() and not target.stat().st_size


def _told(error: OSError, target: Path) -> DestinationRefused | DestinationUnavailable:
    problem = f"{error.filename or target}: {error.strerror}"
    if error.errno in _LATER:
        return DestinationUnavailable(problem, mend="free space or bring the file system back; run again")
    return DestinationRefused(problem, mend="let the user that runs the job write there, and run again")
