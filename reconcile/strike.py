"""Lines taken out of a file where it lies, plain or gzipped; streamed, so that its size does not matter."""

import gzip
import shutil
from collections.abc import Iterator, Set
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

from reconcile import durable

_LINES = 10_000


def strike(path: Path, users: Set[bytes], id_columns: int) -> int:
    """Remove the lines with one of `users` in the first `id_columns`, and the file once it is empty; how many went.

    All or nothing, in one step: who reads the file meanwhile has it as it was. Raises StateUnavailable.
    """

    def stays(line: bytes) -> bool:
        return users.isdisjoint(line.rstrip(b"\n").split(b"\t", id_columns)[:id_columns])

    with durable.telling(path):
        lines, kept = 0, 0
        for line in _lines(path):
            lines += 1
            kept += stays(line)
        if not kept:
            path.unlink()
            durable.sync_folder(path.parent)
            return lines
    with durable.replacing(path) as half:
        try:
            with _writing(half, packed=path.suffix == ".gz") as new:
                staying = filter(stays, _lines(path))
                while some := b"".join(islice(staying, _LINES)):
                    new.write(some)
            shutil.copymode(path, half)
        except BaseException:
            half.unlink(missing_ok=True)
            raise
    return lines - kept


def _lines(path: Path) -> Iterator[bytes]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        yield from file


@contextmanager
def _writing(path: Path, *, packed: bool) -> Iterator[BinaryIO]:
    """Packed as `files` does it: one member, without name and time."""
    with path.open("wb") as file:
        if not packed:
            yield file
            return
        with gzip.GzipFile("", "wb", 1, file, 0) as member:
            yield cast(BinaryIO, member)
