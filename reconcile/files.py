"""Lines into frozen files: split, compressed, hashed, synced. Once frozen, a file's name and bytes never change.

Limits, from Audience Manager's documentation: split at about 1 GB raw or 200 to 300 MB gzipped, at most 5 GB raw; of
gzipped files one page says at most 3 GB, another 1 GB, and the smaller is kept; never an empty file. The order in which
files are read is not promised, and of a user's lines only 200 count: all of them stay in one file.
"""

import base64
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from awscrt.checksums import crc64nvme
from isal import isal_zlib

from reconcile import durable, failpoints
from reconcile.errors import RunRefused
from reconcile.failpoints import Point
from reconcile.lines import MAX_LINE_BYTES
from reconcile.names import FileName

SPLIT_RAW_BYTES = 1_000_000_000
SPLIT_PACKED_BYTES = 250_000_000
MAX_RAW_BYTES = 5_000_000_000
MAX_GZIP_BYTES = 1_000_000_000
PIECE_BYTES = 100_000_000  # what is packed at a time: a file can pass SPLIT_PACKED_BYTES by so much

_AHEAD = 2  # pieces that may wait to be hashed
_GZIP_LEVEL = 1  # of igzip's 0 to 3: 2 packs 3 % better in twice the time
_GZIP_WINDOW = 31  # 15 bits of window, +16 for one gzip member without name or time: same lines, same bytes


@dataclass(frozen=True, slots=True)
class FrozenFile:
    """`sha256` and `md5` are those of the file as it lies on disk, in hex; `crc` is S3's CRC-64/NVME of it, in base64.
    Earlier versions noted no MD5 and no CRC."""

    name: str
    bytes: int
    raw_bytes: int
    lines: int
    sha256: str
    md5: str = ""
    crc: str = ""


class Packer(Protocol):
    """Takes text and gives what is to lie on disk, some of it now, the rest at the end: gzip, OpenPGP."""

    def compress(self, text: memoryview, /) -> bytes: ...

    def flush(self) -> bytes: ...


def gzip_packer() -> Packer:
    packer: Packer = isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
    return packer


def check_limits(files: Sequence[FrozenFile]) -> None:
    """Raise RunRefused for a file that Audience Manager would not take: empty, or too large."""
    for file in files:
        if not file.lines or not file.bytes:
            problem = "is empty"
        elif file.raw_bytes > MAX_RAW_BYTES:
            problem = f"has {file.raw_bytes:,} bytes of text, more than {MAX_RAW_BYTES:,}"
        elif file.name.endswith(".gz") and file.bytes > MAX_GZIP_BYTES:
            problem = f"has {file.bytes:,} bytes, more than {MAX_GZIP_BYTES:,}"
        else:
            continue
        raise RunRefused(
            f"{file.name} {problem}; Audience Manager would not take it",
            mend="this is a fault of the program; nothing was delivered; please report it",
        )


class FileWriter:
    """A sink that freezes what it takes into one or more files of `folder`, called after `name`.

    What is written at a time holds all lines of its users, one user's next to each other: a file ends where a user
    does. The split number is only known at the end: a single file has none. Until `finish` all files carry temporary
    names.
    """

    def __init__(
        self,
        folder: Path,
        name: FileName,
        *,
        split_raw: int | None = None,
        split_packed: int | None = None,
        encrypted_by: Callable[[], Packer] | None = None,
    ) -> None:
        self._folder, self._name = folder, name
        self._split_raw, self._split_packed = split_raw or SPLIT_RAW_BYTES, split_packed or SPLIT_PACKED_BYTES
        self._packer = encrypted_by or (gzip_packer if name.suffix == "gz" else None)
        self._beside = _Beside(*(ThreadPoolExecutor(1, thread_name_prefix="files") for _ in _Beside._fields))
        self._done: list[_Part] = []
        self._part: _Part | None = None

    def write(self, text: memoryview, count: int) -> None:
        limit = min(self._split_raw, PIECE_BYTES)
        if len(text) <= limit:
            self._write(text, count)
            return
        for piece in _pieces(text, limit):
            self._write(piece, bytes(piece).count(b"\n"))

    def finish(self) -> list[FrozenFile]:
        """Give the files their names; the list is empty if nothing was written."""
        self._close_part()
        for part in self._done:
            part.see_synced()
        frozen = []
        for number, part in enumerate(self._done, start=1):
            name = self._name.part(number if len(self._done) > 1 else None).render()
            part.path.rename(self._folder / name)
            failpoints.reached(Point.FILE_NAMED)
            frozen.append(part.frozen(name))
        durable.sync_folder(self._folder)
        failpoints.reached(Point.FILES_NAMED)
        return frozen

    def close(self) -> None:
        """Let go of files that were not finished."""
        for part in (*self._done, *([self._part] if self._part else [])):
            part.drop()
        self._part = None
        for worker in self._beside:
            worker.shutdown()

    def _write(self, text: memoryview, count: int) -> None:
        part = self._part
        if part and (part.raw_bytes + len(text) > self._split_raw or part.bytes >= self._split_packed):
            self._close_part()
        if self._part is None:
            path = self._folder / f".part.{len(self._done) + 1}"
            self._part = _Part(path, self._packer() if self._packer else None, self._beside)
        self._part.write(text, count)
        failpoints.reached(Point.FILE_BEGUN)

    def _close_part(self) -> None:
        if self._part is not None:
            self._part.close()
            for part in self._done[-1:]:  # only one is synced at a time, while the next one grows
                part.see_synced()
            self._done.append(self._part)
            self._part = None
            failpoints.reached(Point.FILE_CLOSED)


def _pieces(text: memoryview, limit: int) -> Iterator[memoryview]:
    """Cut between users, into pieces of about `limit` bytes: one more line than fits, and what its user has beyond."""
    start = 0
    while len(text) - start > limit:
        line_at = _line_end(text, start + limit)
        user = None
        while line_at < len(text):
            end = _line_end(text, line_at)
            before, user = user or _user_before(text, line_at), bytes(text[line_at:end]).partition(b"\t")[0]
            if user != before:
                break
            line_at = end
        yield text[start:line_at]
        start = line_at
    if start < len(text):
        yield text[start:]


def _line_end(text: memoryview, at: int) -> int:
    """Behind the first newline from `at` on."""
    found = bytes(text[at : at + MAX_LINE_BYTES]).find(b"\n")
    return at + found + 1 if found >= 0 else len(text)


def _user_before(text: memoryview, line_at: int) -> bytes:
    """Whose line ends right before."""
    line = bytes(text[max(line_at - MAX_LINE_BYTES, 0) : line_at - 1])
    return line[line.rfind(b"\n") + 1 :].partition(b"\t")[0]


class _Beside(NamedTuple):
    """Threads, one each: what is given to one is done in its order."""

    sha256: ThreadPoolExecutor
    md5: ThreadPoolExecutor
    syncing: ThreadPoolExecutor


class _Part:
    """A file that grows. It is hashed and synced beside."""

    def __init__(self, path: Path, packer: Packer | None, beside: _Beside) -> None:
        self.path = path
        self.bytes = self.raw_bytes = self.lines = self._crc = 0
        self._digests = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self._file: BinaryIO = path.open("wb")
        self._packer, self._beside = packer, beside
        self._hashing: deque[tuple[Future[None], ...]] = deque()
        self._syncing: Future[None] | None = None

    def write(self, text: memoryview, count: int) -> None:
        self.raw_bytes += len(text)
        self.lines += count
        self._put(self._packer.compress(text) if self._packer else text)

    def close(self) -> None:
        """It is whole, and lasts once it is synced."""
        if self._packer:
            self._put(self._packer.flush())
        self._see_hashed()
        with durable.telling(self.path):
            self._file.flush()
        self._syncing = self._beside.syncing.submit(os.fsync, self._file.fileno())

    def see_synced(self) -> None:
        if self._syncing is not None:
            with durable.telling(self.path):
                self._syncing.result()
                self._file.close()
            self._syncing = None

    def drop(self) -> None:
        self._see_hashed()
        if self._syncing is not None:
            wait([self._syncing])
        with durable.telling(self.path):  # what is in the buffer is written once more, and fails once more
            self._file.close()

    def frozen(self, name: str) -> FrozenFile:
        sha256, md5 = (digest.hexdigest() for digest in self._digests)
        crc = base64.b64encode(self._crc.to_bytes(8, "big")).decode()
        return FrozenFile(name, self.bytes, self.raw_bytes, self.lines, sha256, md5, crc)

    def _put(self, data: bytes | memoryview) -> None:
        if not data:
            return
        self.bytes += len(data)
        self._see_hashed(but=_AHEAD)
        sha256, md5 = self._digests
        hashing = self._beside.sha256.submit(sha256.update, data), self._beside.md5.submit(md5.update, data)
        self._hashing.append(hashing)
        self._crc = crc64nvme(data, self._crc)
        with durable.telling(self.path):
            self._file.write(data)

    def _see_hashed(self, but: int = 0) -> None:
        """All pieces, but so many of the latest."""
        while len(self._hashing) > but:
            for hashing in self._hashing.popleft():
                hashing.result()
