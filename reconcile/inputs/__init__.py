"""Offline records, read as text: every value exactly as the file spells it.

Each format yields chunks of records; a record that can't be read is told apart, with its place, and loses nothing
around it. Numbers never pass through a numeric type: 38 digits, `007` and `1e5` stay what they are.
"""

import glob
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from isal import igzip, isal_zlib

from idsync.errors import ConfigError
from reconcile.errors import InputChanging, InputRefused
from reconcile.feed import Plan
from reconcile.inputs import delimited, jsonl, parquet
from reconcile.inputs.chunk import Chunk

_DELIMITERS = {"csv": ",", "tsv": "\t"}
_FORMATS = ("csv", "tsv", "jsonl", "parquet")


@dataclass(frozen=True, slots=True)
class Input:
    """One file as it was when the run was planned. `state` changes whenever somebody writes to it."""

    path: Path
    sha256: str
    state: tuple[int, int, int]


def discover(pattern: str) -> list[Path]:
    """The files that match a glob, sorted by name. Raises ConfigError if the folder to look in does not exist."""
    found = sorted(Path(name) for name in glob.glob(pattern, recursive=True))
    files = [path for path in found if path.is_file()]
    folder = next(parent for parent in Path(pattern).parents if not glob.has_magic(str(parent)))
    if not files and not folder.is_dir():
        raise ConfigError(
            "feeds.inputs", [f'"{pattern}": the folder {folder} does not exist; create it or mend the path']
        )
    return files


def fingerprint(path: Path) -> Input:
    """Hash the file's bytes: the same content under another name is the same input."""
    try:
        with path.open("rb") as file:
            state = _state(os.fstat(file.fileno()))
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputRefused(
            f"{path}: {error.strerror}", mend="make the file readable for the user that runs the job"
        ) from None
    return Input(path, digest, state)


def check_unchanged(source: Input) -> None:
    """Raise InputChanging if the file was written to, replaced or removed since its fingerprint was taken."""
    try:
        state = _state(source.path.stat())
    except FileNotFoundError:
        state = None
    if state != source.state:
        raise InputChanging(
            f"{source.path}: was written to while it was read",
            mend="run again when the file is complete; best write it under another name and rename it into place",
        )


def _state(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def read(source: Input, plan: Plan) -> Iterator[Chunk]:
    """The records of a file in order; columns are those of the plan, the ID first.

    Raises InputRefused for a file that can't be used as a whole.
    """
    columns = (plan.id_column, *plan.columns)
    kind, opener = _format(source.path), _opener(source.path)
    try:
        if kind == "parquet":
            yield from parquet.read(source.path, columns)
        elif kind == "jsonl":
            with closing(opener()) as stream:
                yield from jsonl.read(stream, columns)
        else:
            yield from delimited.read(opener, _DELIMITERS[kind], columns)
    except ValueError as error:
        raise InputRefused(
            f"{source.path}: {error}", mend="mend the file, or the feed's columns, and run again"
        ) from None
    except (EOFError, igzip.BadGzipFile, cast(type[Exception], isal_zlib.error)) as error:
        raise InputRefused(
            f"{source.path}: the gzip data are broken or cut off ({error})", mend="send the file again, complete"
        ) from None
    except OSError as error:
        raise InputRefused(f"{source.path}: {error}", mend="make the file readable and run again") from None


def line_numbers(source: Input, ordinals: Sequence[int]) -> dict[int, int]:
    """The line (Parquet: row) on which each of these records starts, counted from 1."""
    kind = _format(source.path)
    if kind not in _DELIMITERS:
        return {ordinal: ordinal + 1 for ordinal in ordinals}
    return delimited.line_numbers(_opener(source.path), _DELIMITERS[kind], ordinals)


def _format(path: Path) -> str:
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind not in _FORMATS or (kind == "parquet" and path.suffix == ".gz"):
        raise InputRefused(
            f"{path}: can't tell the format from the name",
            mend="name it .csv, .tsv, .jsonl (each also with .gz) or .parquet, or narrow the feed's inputs",
        )
    return kind


def _opener(path: Path) -> Callable[[], BinaryIO]:
    if path.suffix == ".gz":
        return lambda: cast(BinaryIO, igzip.open(path, "rb"))  # type: ignore[no-untyped-call]
    return lambda: path.open("rb")
