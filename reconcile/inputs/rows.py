"""Delimited records one by one, by Python's csv module: for what pyarrow stumbles over. A tenth of its speed."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from reconcile.inputs.chunk import BadRecord, Chunk, as_text

_RECORDS = 20_000
# What is not UTF-8 stands for itself, until it is looked at.
_KEPT = "surrogateescape"
_TOO_LONG = "a record is longer than 16 MB; perhaps a quote is never closed"

Reader = Callable[[Iterable[str]], Iterator[list[str]]]


def read(
    opener: Callable[[], BinaryIO], reader: Reader, width: int, at: Sequence[int], start: int, *, most: int
) -> Iterator[Chunk]:
    """The records from number `start` on, of `width` fields, of which those `at` are wanted, the ID first.

    Raises ValueError for one of more than `most` characters; it quotes nothing.
    """
    with closing(opener()) as stream, io.TextIOWrapper(stream, "utf-8-sig", errors=_KEPT, newline="") as text:
        records = islice(enumerate(filter(None, reader(text)), start=-1), start + 1, None)
        try:
            while some := list(islice(records, _RECORDS)):
                if any(sum(map(len, row)) > most for _, row in some):
                    raise ValueError(_TOO_LONG)
                yield _chunk(some, width, at)
        except csv.Error:
            raise ValueError(_TOO_LONG) from None


def _chunk(records: Sequence[tuple[int, list[str]]], width: int, at: Sequence[int]) -> Chunk:
    good = [record for record in records if len(record[1]) == width]
    bad = [
        BadRecord(ordinal, "too-many-columns" if len(row) > width else "too-few-columns", _shown(row, at[0]))
        for ordinal, row in records
        if len(row) != width
    ]
    ordinals = np.array([ordinal for ordinal, _ in good], dtype=np.int64)
    columns = [pa.array([row[place].encode(errors=_KEPT) for _, row in good], pa.binary()) for place in at]
    chunk = as_text(ordinals, columns)
    return Chunk(chunk.ordinals, chunk.columns, sorted(bad + chunk.bad, key=lambda record: record.ordinal))


def _shown(row: Sequence[str], at: int) -> str:
    return row[at].encode(errors=_KEPT).decode(errors="replace") if at < len(row) else ""
