"""What every reader yields."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that can't be read. `ordinal` counts the records of its file from 0; `text` is what was made out."""

    ordinal: int
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive records: `ordinals[i]` is that of row i of `columns`, strings without nulls, the ID first."""

    ordinals: "np.ndarray[tuple[int], np.dtype[np.int64]]"
    columns: Sequence[pa.Array]
    bad: list[BadRecord] = field(default_factory=list)


def first(chunk: Chunk, count: int) -> Chunk:
    """The first `count` records of a chunk, those that can't be read included."""
    bad = [record.ordinal for record in chunk.bad]
    if len(chunk.ordinals) + len(bad) <= count:
        return chunk
    end = np.sort(np.concatenate([chunk.ordinals, np.array(bad, dtype=np.int64)]))[count]
    keep = int(np.searchsorted(chunk.ordinals, end))
    columns = [column.slice(0, keep) for column in chunk.columns]
    return Chunk(chunk.ordinals[:keep], columns, [record for record in chunk.bad if record.ordinal < end])


def as_text(ordinals: "np.ndarray[tuple[int], np.dtype[np.int64]]", columns: Sequence[pa.Array]) -> Chunk:
    """A chunk out of binary columns; rows that are not UTF-8 become bad records."""
    try:
        return Chunk(ordinals, [column.cast(pa.string()) for column in columns])
    except pa.ArrowInvalid:
        pass  # somewhere in this chunk: look at each row
    rows = list(zip(*(column.to_pylist() for column in columns), strict=True))
    broken = [index for index, row in enumerate(rows) if not all(_is_utf8(value) for value in row)]
    bad = [BadRecord(int(ordinals[index]), "not-utf-8", rows[index][0].decode(errors="replace")) for index in broken]
    keep = np.ones(len(rows), dtype=bool)
    keep[broken] = False
    mask = pa.array(keep)
    return Chunk(ordinals[keep], [column.filter(mask).cast(pa.string()) for column in columns], bad)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
