"""The lines of an export's files as Arrow batches, and what a control file is held against."""

import hashlib
import io
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import pyarrow as pa
from isal import igzip, isal_zlib

from reconcile.errors import InputRefused
from reconcile.progress import Step
from reconcile.segments import lines
from reconcile.segments.control import Measured

BLOCK_BYTES = 1 << 22
MAX_LINE_BYTES = 1 << 26  # a user in millions of segments; more is no line
SCHEMA = pa.schema([pa.field("seq", pa.int64(), nullable=False), pa.field("line", pa.string(), nullable=False)])

_GZIP = b"\x1f\x8b"
_DAMAGED = (EOFError, igzip.BadGzipFile, cast(type[Exception], isal_zlib.error))
_NEWLINE = ord("\n")


class Part(NamedTuple):
    """A file on this machine, and what people call it by."""

    path: Path
    where: str

    @property
    def name(self) -> str:
        return self.path.name


class Lines:
    """Numbered from 0 through all files in order. While `batches` is read, `measured` fills up.

    `sums`: the names of files whose MD5 is wanted; that of others is "".
    """

    def __init__(self, step: Step, sums: Collection[str] = ()) -> None:
        self._step, self._sums = step, sums
        self._parts: list[Part] = []
        self._starts: list[int] = []
        self.read = 0
        self.measured: dict[str, Measured] = {}

    def batches(self, parts: Iterable[Part]) -> Iterator[pa.RecordBatch]:
        """Of these files, which follow those that were read before."""
        for part in parts:
            self._parts.append(part)
            self._starts.append(self.read)
            try:
                with part.path.open("rb") as file:
                    yield from self._of(part, file)
            except _DAMAGED as error:
                raise InputRefused(
                    f"{part.where}: the gzip data are broken or cut off ({error})", mend="fetch the file again, whole"
                ) from None
            except OSError as error:
                raise InputRefused(
                    f"{part.where}: {error.strerror or error}", mend="make the file readable and run again"
                ) from None

    def _of(self, part: Part, file: BinaryIO) -> Iterator[pa.RecordBatch]:
        start, hashing = self.read, _Hashing(file, wanted=part.name in self._sums)
        packed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        stream = cast(BinaryIO, igzip.open(hashing, "rb")) if packed else hashing  # type: ignore[no-untyped-call]
        for text in _whole_lines(stream, part.where):
            batch = self._numbered(lines.narrowed(text))
            self._step.advance(len(batch))
            yield batch
        while hashing.read(BLOCK_BYTES):  # what a decompressor did not ask for
            pass
        self.measured[part.name] = Measured(hashing.bytes, self.read - start, hashing.md5())

    def _numbered(self, text: bytes) -> pa.RecordBatch:
        """Each line with its newline: the block itself is the column's buffer."""
        ends = np.flatnonzero(np.frombuffer(text, np.uint8) == _NEWLINE) + 1
        offsets = np.concatenate([[0], ends]).astype(np.int32)
        column = pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(text))
        first, self.read = self.read, self.read + len(ends)
        return pa.RecordBatch.from_arrays([pa.array(np.arange(first, self.read)), column], schema=SCHEMA)

    def place(self, seq: int) -> tuple[str, int]:
        """The file and line of a number."""
        at = int(np.searchsorted(self._starts, seq, side="right")) - 1
        return self._parts[at].where, seq - self._starts[at] + 1


def _whole_lines(stream: "BinaryIO | _Hashing", where: str) -> Iterator[bytes]:
    """Blocks that end in a newline, also where the last line has none. Raises InputRefused for what has no lines."""
    rest = b""
    while block := stream.read(BLOCK_BYTES):
        end = block.rfind(b"\n") + 1
        if end:
            yield rest + block[:end]
            rest = block[end:]
        else:
            rest += block
        if len(rest) > MAX_LINE_BYTES:
            raise InputRefused(f"{where}: a line of more than {MAX_LINE_BYTES:,} bytes", mend="name outbound files")
    if rest:
        yield rest + b"\n"


class _Hashing(io.RawIOBase):
    """Passes reads through, counts what passes, and hashes it where that is wanted."""

    def __init__(self, file: BinaryIO, *, wanted: bool) -> None:
        self._file = file
        self.bytes = 0
        self._md5 = hashlib.md5(usedforsecurity=False) if wanted else None

    def md5(self) -> str:
        """In hex, of all that has passed."""
        return self._md5.hexdigest() if self._md5 else ""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.bytes += len(data)
        if self._md5:
            self._md5.update(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
