"""Lines into frozen files: split, compressed, hashed, synced. Once frozen, a file's name and bytes never change.

Limits, from Audience Manager's documentation: split at about 1 GB raw or 200 to 300 MB gzipped; never an empty file.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from isal import isal_zlib

from reconcile import durable
from reconcile.names import InboundName

SPLIT_RAW_BYTES = 1_000_000_000
SPLIT_PACKED_BYTES = 250_000_000

_GZIP_LEVEL = 1  # of igzip's 0 to 3: 2 packs 3 % better in twice the time
_GZIP_WINDOW = 31  # 15 bits of window, +16 for one gzip member without name or time: same lines, same bytes


@dataclass(frozen=True, slots=True)
class FrozenFile:
    """`sha256` is that of the file as it lies on disk, in hex."""

    name: str
    bytes: int
    raw_bytes: int
    lines: int
    sha256: str


class Packer(Protocol):
    """Takes text and gives what is to lie on disk, some of it now, the rest at the end: gzip, OpenPGP."""

    def compress(self, text: memoryview, /) -> bytes: ...

    def flush(self) -> bytes: ...


def gzip_packer() -> Packer:
    packer: Packer = isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
    return packer


class FileWriter:
    """A sink that freezes what it takes into one or more files of `folder`, called after `name`.

    The split number is only known at the end: a single file has none. Until `finish` all files carry temporary names.
    """

    def __init__(
        self,
        folder: Path,
        name: InboundName,
        *,
        split_raw: int = SPLIT_RAW_BYTES,
        split_packed: int = SPLIT_PACKED_BYTES,
        encrypted_by: Callable[[], Packer] | None = None,
    ) -> None:
        self._folder, self._name = folder, name
        self._split_raw, self._split_packed = split_raw, split_packed
        self._packer = encrypted_by or (gzip_packer if name.suffix == "gz" else None)
        self._done: list[_Part] = []
        self._part: _Part | None = None

    def write(self, text: memoryview, count: int) -> None:
        part = self._part
        if part and (part.raw_bytes + len(text) > self._split_raw or part.bytes >= self._split_packed):
            self._close_part()
        if self._part is None:
            path = self._folder / f".part.{len(self._done) + 1}"
            self._part = _Part(path, self._packer() if self._packer else None)
        self._part.write(text, count)

    def finish(self) -> list[FrozenFile]:
        """Give the files their names; the list is empty if nothing was written."""
        self._close_part()
        frozen = []
        for number, part in enumerate(self._done, start=1):
            name = self._name.part(number if len(self._done) > 1 else None).render()
            part.path.rename(self._folder / name)
            frozen.append(FrozenFile(name, part.bytes, part.raw_bytes, part.lines, part.digest.hexdigest()))
        durable.sync_folder(self._folder)
        return frozen

    def close(self) -> None:
        """Let go of a file that was not finished."""
        if self._part is not None:
            self._part.drop()
            self._part = None

    def _close_part(self) -> None:
        if self._part is not None:
            self._part.close()
            self._done.append(self._part)
            self._part = None


class _Part:
    def __init__(self, path: Path, packer: Packer | None) -> None:
        self.path = path
        self.bytes = self.raw_bytes = self.lines = 0
        self.digest = hashlib.sha256()
        self._file: BinaryIO = path.open("wb")
        self._packer = packer

    def write(self, text: memoryview, count: int) -> None:
        self.raw_bytes += len(text)
        self.lines += count
        self._put(self._packer.compress(text) if self._packer else text)

    def close(self) -> None:
        if self._packer:
            self._put(self._packer.flush())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def drop(self) -> None:
        self._file.close()

    def _put(self, data: bytes | memoryview) -> None:
        self.bytes += len(data)
        self.digest.update(data)
        self._file.write(data)
