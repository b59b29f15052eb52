"""Delivery to a server with folders and names only: grow the file under another name, see that it is whole, rename it.

What FTP and SFTP servers have in common. They take any bytes under any name, so all care is on this side.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

from reconcile.delivery.bandwidth import Bandwidth
from reconcile.delivery.base import CONFLICT_MEND, INCOMPARABLE, LATER, conflict, damaged, see_whole, temporary_name
from reconcile.errors import DeliveryConflict, DestinationRefused, DestinationUnavailable
from reconcile.files import FrozenFile

CHUNK = 32_768  # SFTP servers need not take more at once

Compare = Literal["bytes", "size"]


class Unreadable(Exception):
    """The server does not let us read a file that is there."""


class CannotResume(Exception):
    """The server takes files from their beginning only."""


class NameTaken(Exception):
    """The server renames nothing onto a name that is there."""


class Folder(Protocol):
    """A folder of a server, on one connection. Failures other than those named here raise our destination's errors."""

    def size(self, name: str) -> int | None:
        """In bytes; None where there is no such file."""

    def read(self, name: str) -> Iterator[bytes]:
        """Raises Unreadable."""

    def write(self, name: str, pieces: Iterator[bytes], offset: int) -> None:
        """Write to a file from `offset` on; 0 makes it anew. Raises CannotResume for others, with nothing written."""

    def rename(self, old: str, new: str) -> None:
        """Raises NameTaken where the server can tell."""

    def remove(self, name: str) -> None:
        """Fine if there is none."""


def deliver(
    folder: Folder, path: Path, file: FrozenFile, where: str, *, bandwidth: Bandwidth, compare: Compare, read_back: bool
) -> None:
    """Put `file` into `folder`, going on where an earlier try was cut off.

    `compare`: whether what lies there is judged by its bytes, or, where nothing may be read, by its size alone.
    `read_back`: the bytes have to be seen there before the rename, since nothing guards them on their way.
    """
    if folder.size(file.name) is not None:
        _judge(folder, path, file, where, compare)
        return
    temporary = temporary_name(file.name)
    for offset in (_whole_so_far(folder, temporary, path, file, compare), 0):
        digest = hashlib.sha256()
        try:
            folder.write(temporary, _pieces(path, offset, digest, bandwidth), offset)
        except CannotResume:
            continue
        break
    if digest.hexdigest() != file.sha256:
        folder.remove(temporary)
        raise damaged(path)
    there = folder.size(temporary)
    if there != file.bytes:
        folder.remove(temporary)
        raise DestinationUnavailable(f"{where}: {there} of {file.bytes} bytes arrived", mend=LATER)
    if read_back and compare == "bytes" and not _same(folder, temporary, path, file.bytes, where):
        folder.remove(temporary)
        raise DestinationUnavailable(f"{where}: other bytes arrived than were sent", mend=LATER)
    # FTP's rename replaces what is there: look once more, right before it
    if folder.size(file.name) is None:
        try:
            folder.rename(temporary, file.name)
        except NameTaken:
            pass
        else:
            return
    folder.remove(temporary)
    _judge(folder, path, file, where, compare)


def _judge(folder: Folder, path: Path, file: FrozenFile, where: str, compare: Compare) -> None:
    """Raise unless the file that lies under our name is ours."""
    same = folder.size(file.name) == file.bytes
    if same and compare == "bytes":
        same = _same(folder, file.name, path, file.bytes, where)
    if not same:
        see_whole(path, file)
        raise DeliveryConflict(conflict(where), mend=CONFLICT_MEND)


def _whole_so_far(folder: Folder, temporary: str, path: Path, file: FrozenFile, compare: Compare) -> int:
    """How much of the file an earlier try has brought over. Where that can't be seen to be right: nothing."""
    have = folder.size(temporary)
    if have is None:
        return 0
    if have <= file.bytes:
        try:
            if compare == "size" or _begins_alike(folder, temporary, path, have):
                return have
        except Unreadable:
            pass
    return 0


def _same(folder: Folder, name: str, path: Path, size: int, where: str) -> bool:
    try:
        return _begins_alike(folder, name, path, size)
    except Unreadable:
        raise DestinationRefused(
            f"{where} {INCOMPARABLE}",
            mend='let the user read what it has written, or be content with sizes: compare = "size"; then run again',
        ) from None


def _begins_alike(folder: Folder, name: str, path: Path, size: int) -> bool:
    """Whether the file there holds exactly the first `size` bytes of the file at `path`."""
    left = size
    alike = True
    with path.open("rb") as file:
        for piece in folder.read(name):  # to its end: connections can't be used again after half a file
            alike = alike and len(piece) <= left and piece == file.read(len(piece))
            left -= len(piece)
    return alike and left == 0


def _pieces(path: Path, offset: int, digest: "hashlib._Hash", bandwidth: Bandwidth) -> Iterator[bytes]:
    """The file from `offset` on; all of it, from its beginning, goes into `digest`."""
    with path.open("rb") as file:
        left = offset
        while left:
            piece = file.read(min(CHUNK, left))
            if not piece:  # shorter than what is there: the digest will tell
                return
            digest.update(piece)
            left -= len(piece)
        while piece := file.read(CHUNK):
            digest.update(piece)
            bandwidth.take(len(piece))
            yield piece


def joined(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if folder else name
