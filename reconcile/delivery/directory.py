"""A directory: local, mounted, or watched by something that carries files on."""

import errno
import hashlib
import os
import shutil
from pathlib import Path

from reconcile import durable
from reconcile.delivery.base import CONFLICT_MEND, conflict
from reconcile.errors import DeliveryConflict, DestinationRefused, DestinationUnavailable
from reconcile.files import FrozenFile

_LATER = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN}


class DirectoryDelivery:
    """Copies under a hidden name, syncs, then links to the final name, which fails if that is taken."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def deliver(self, path: Path, file: FrozenFile, planned_at: int) -> str:
        target = self._folder / file.name
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                self._put(path, target)
            if _sha256(target) != file.sha256:
                raise DeliveryConflict(conflict(str(target)), mend=CONFLICT_MEND)
        except OSError as error:
            problem = f"{error.filename or target}: {error.strerror}"
            if error.errno in _LATER:
                raise DestinationUnavailable(
                    problem, mend="free space or bring the file system back; run again"
                ) from None
            raise DestinationRefused(
                problem, mend="let the user that runs the job write there, and run again"
            ) from None
        return str(target)

    def _put(self, path: Path, target: Path) -> None:
        temporary = target.with_name(f".{target.name}.part")
        with path.open("rb") as source, temporary.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())
        try:
            os.link(temporary, target)
        except FileExistsError:
            pass  # somebody was quicker: the comparison decides
        finally:
            temporary.unlink()
        durable.sync_folder(self._folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
