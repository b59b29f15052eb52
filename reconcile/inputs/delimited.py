"""CSV and TSV by RFC 4180: quoted fields may hold delimiters, doubled quotes and line breaks; blank lines are skipped.

pyarrow parses (450 MB/s on one core, and it tells the position of every record that it refuses); Python's csv module,
which agrees with it on what a record is, answers the rare question on which line a record stands.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from reconcile.inputs.chunk import BadRecord, Chunk, as_text

BLOCK_BYTES = 1 << 24  # a record must fit into one block
_QUOTE = ord('"')

Opener = Callable[[], BinaryIO]


def read(opener: Opener, delimiter: str, columns: Sequence[str]) -> Iterator[Chunk]:
    """The records below the header. Raises ValueError for a file without the columns or with a quote never closed."""
    _check_header(opener, delimiter, columns)
    bad: list[BadRecord] = []

    def refuse(row: arrow_csv.InvalidRow) -> str:
        reason = "too-many-columns" if row.actual_columns > row.expected_columns else "too-few-columns"
        bad.append(BadRecord(row.number - 2, reason, row.text))  # numbered from 1, the header first
        return "skip"

    stream = _QuoteCounter(opener())
    with closing(stream):
        reader = arrow_csv.open_csv(
            pa.PythonFile(stream, mode="r"),
            # one thread: only then are refused rows numbered
            read_options=arrow_csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
            parse_options=arrow_csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=refuse
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.binary()), include_columns=list(columns), check_utf8=False
            ),
        )
        following = 0
        for batch in reader:
            # the reader is a block or two ahead of the batch: some of `bad` belong to later ones
            ordinals = _number(following, len(batch), [record.ordinal for record in bad])
            following = int(ordinals[-1]) + 1 if len(ordinals) else following
            passed = [record for record in bad if record.ordinal < following]
            del bad[: len(passed)]
            chunk = as_text(ordinals, batch.columns)
            yield Chunk(chunk.ordinals, chunk.columns, passed + chunk.bad)
    if bad:
        yield Chunk(np.empty(0, np.int64), [pa.array([], pa.string()) for _ in columns], bad)
    if stream.quotes % 2:
        _check_last_quote(opener, delimiter)


def line_numbers(opener: Opener, delimiter: str, ordinals: Sequence[int]) -> dict[int, int]:
    """The physical line on which each record starts; the header is on line 1."""
    wanted, last = set(ordinals), max(ordinals, default=-1)
    found = {}
    for ordinal, line in enumerate(_record_lines(opener, delimiter), start=-1):
        if ordinal in wanted:
            found[ordinal] = line
        if ordinal >= last:
            break
    return found


def _number(start: int, count: int, bad: Sequence[int]) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """The ordinals of `count` good records from `start` on, with those of bad records left out."""
    candidates = np.arange(start, start + count + len(bad), dtype=np.int64)
    return candidates[~np.isin(candidates, bad)][:count] if bad else candidates


def _check_header(opener: Opener, delimiter: str, columns: Sequence[str]) -> None:
    with closing(opener()) as stream, io.TextIOWrapper(stream, "utf-8-sig", errors="replace", newline="") as text:
        try:
            names = next((row for row in csv.reader(text, delimiter=delimiter) if row), [])
        except csv.Error as error:
            raise ValueError(f"the header can't be read: {error}") from None
    if not names:
        raise ValueError("the file is empty; its first line must name the columns")
    for column in columns:
        if column not in names:
            raise ValueError(f'no column "{column}"; the header has: {", ".join(names)}')
        if names.count(column) > 1:
            raise ValueError(f'the column "{column}" stands in the header {names.count(column)} times')


def _check_last_quote(opener: Opener, delimiter: str) -> None:
    """An odd number of quotes may be harmless (a lone one inside a field); one that swallows the file's end is not."""
    start = 0
    try:
        for start in _record_lines(opener, delimiter, strict=True):  # noqa: B007
            pass
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            raise ValueError(f"a quote opened after line {start} is never closed") from None


def _record_lines(opener: Opener, delimiter: str, *, strict: bool = False) -> Iterator[int]:
    """The line on which each record starts, the header included, blank lines not."""
    csv.field_size_limit(BLOCK_BYTES)
    with closing(opener()) as stream, io.TextIOWrapper(stream, "utf-8-sig", errors="replace", newline="") as text:
        reader, end = csv.reader(text, delimiter=delimiter, strict=strict), 0
        for row in reader:
            if row:
                yield end + 1
            end = reader.line_num


class _QuoteCounter(io.RawIOBase):
    """Passes reads through and counts the quotes in them."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.quotes = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.quotes += int(np.count_nonzero(np.frombuffer(data, np.uint8) == _QUOTE))
        return data

    def close(self) -> None:
        self._stream.close()
        super().close()
