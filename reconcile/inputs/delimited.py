"""CSV and TSV by RFC 4180: quoted fields may hold delimiters, doubled quotes and line breaks; blank lines are skipped.

Delimiter and quote may be other signs, and there may be no quote.

pyarrow parses (450 MB/s on one core, and it tells the position of every record that it refuses); Python's csv module,
which agrees with it on what a record is, answers the rare question on which line a record stands.
"""

import codecs
import csv
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from reconcile.inputs import rows
from reconcile.inputs.chunk import BadRecord, Chunk, as_text
from reconcile.inputs.layout import AUTO, Layout

if TYPE_CHECKING:
    from _csv import Reader as Rows

BLOCK_BYTES = 1 << 24  # a record must fit into one block
_DELIMITERS = ",;\t|"
_NEWLINE = ord("\n")

Opener = Callable[[], BinaryIO]
Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]
Ints = np.ndarray[tuple[int], np.dtype[np.int64]]


class Dialect(NamedTuple):
    """`quote` is empty where nothing is quoted."""

    delimiter: str
    quote: str = '"'

    def reader(self, lines: Iterable[str], *, strict: bool = False) -> "Rows":
        """Fields of each record, none for a blank line."""
        csv.field_size_limit(BLOCK_BYTES)
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quotechar=self.quote or None,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            strict=strict,
        )


def dialect_of(opener: Opener, usual: str, layout: Layout) -> Dialect:
    """As the feed says. Else the delimiter with which the header names most of the feed's columns, `usual` if several
    do.
    """
    if layout.delimiter != AUTO:
        return Dialect(layout.delimiter, layout.quote)
    best, most = usual, -1
    for delimiter in [usual, *_DELIMITERS.replace(usual, "")] if layout.asked else ():
        try:
            hits = layout.hits(_header(opener, Dialect(delimiter, layout.quote)))
        except ValueError:
            continue
        if hits > most:
            best, most = delimiter, hits
        if hits == len(layout.asked):
            break
    return Dialect(best, layout.quote)


def read(opener: Opener, dialect: Dialect, layout: Layout, columns: Sequence[str]) -> Iterator[Chunk]:
    """The records below the header. Raises ValueError for a file without the columns or with a quote never closed; it
    quotes nothing else of the file.
    """
    header = _header(opener, dialect)
    names = layout.find(columns, header)
    following = 0
    stream = _QuoteCounter(opener(), dialect.quote)
    try:
        with closing(stream):
            for chunk in _parsed(stream, dialect, names, header.index(names[0])):
                following = 1 + max(chunk.ordinals[-1:].max(initial=-1), *(record.ordinal for record in chunk.bad), -1)
                yield chunk
    except pa.ArrowInvalid:
        # pyarrow does not tell of a record with too few or too many columns that is not UTF-8, but fails and quotes it
        at = [header.index(name) for name in names]
        yield from rows.read(opener, dialect.reader, len(header), at, following, most=BLOCK_BYTES)
        _check_last_quote(opener, dialect)
    else:
        if stream.quotes % 2:
            _check_last_quote(opener, dialect)


def _parsed(stream: "_QuoteCounter", dialect: Dialect, names: Sequence[str], at: int) -> Iterator[Chunk]:
    """By pyarrow. The ID is field `at` of a record."""
    bad: list[BadRecord] = []

    def refuse(row: arrow_csv.InvalidRow) -> str:
        reason = "too-many-columns" if row.actual_columns > row.expected_columns else "too-few-columns"
        # numbered from 1, the header first
        bad.append(BadRecord(row.number - 2, reason, _field(row.text, dialect, at)))
        return "skip"

    with _muted(refuse):
        reader = arrow_csv.open_csv(
            pa.PythonFile(stream, mode="r"),
            # one thread: only then are refused rows numbered
            read_options=arrow_csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
            parse_options=arrow_csv.ParseOptions(
                delimiter=dialect.delimiter,
                quote_char=dialect.quote or False,
                newlines_in_values=bool(dialect.quote),
                invalid_row_handler=refuse,
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.binary()),
                include_columns=list(dict.fromkeys(names)),
                check_utf8=False,
            ),
        )
    following = 0
    while (batch := _next(reader, refuse)) is not None:
        # the reader is a block or two ahead of the batch: some of `bad` belong to later ones
        ordinals = _number(following, len(batch), [record.ordinal for record in bad])
        following = int(ordinals[-1]) + 1 if len(ordinals) else following
        passed = [record for record in bad if record.ordinal < following]
        del bad[: len(passed)]
        chunk = as_text(ordinals, [batch.column(name) for name in names])
        yield Chunk(chunk.ordinals, chunk.columns, passed + chunk.bad)
    if bad:
        yield Chunk(np.empty(0, np.int64), [pa.array([], pa.string()) for _ in names], bad)


def _next(reader: arrow_csv.CSVStreamingReader, handler: Callable[..., str]) -> pa.RecordBatch | None:
    with _muted(handler):
        return next(iter(reader), None)


@contextmanager
def _muted(handler: Callable[..., str]) -> Iterator[None]:
    """pyarrow can't call the handler for a record that is not UTF-8. It says so on stderr, before it fails."""
    usual = sys.unraisablehook
    sys.unraisablehook = lambda told: None if told.object is handler else usual(told)
    try:
        yield
    finally:
        sys.unraisablehook = usual


def line_numbers(opener: Opener, dialect: Dialect, ordinals: Sequence[int]) -> dict[int, int]:
    """The physical line on which each record starts; the header is on line 1."""
    if (plain := _plain_line_numbers(opener, dialect, ordinals)) is not None:
        return plain
    wanted, last = set(ordinals), max(ordinals, default=-1)
    found = {}
    for ordinal, line in enumerate(_record_lines(opener, dialect), start=-1):
        if ordinal in wanted:
            found[ordinal] = line
        if ordinal >= last:
            break
    return found


def _plain_line_numbers(opener: Opener, dialect: Dialect, ordinals: Sequence[int]) -> dict[int, int] | None:
    """The same at memory speed, for files of which every line is a record; None for others.

    A third of the time of the csv module: hundreds of thousands of records may be left out because of opt-outs.
    """
    wanted = np.unique(np.array(ordinals, dtype=np.int64)) + 1  # the header is the first line that is not blank
    numbers: list[int] = []
    seen = passed = 0  # lines with content, lines
    with closing(opener()) as stream:
        for block in _whole_lines(stream):
            text = np.frombuffer(block, np.uint8)
            breaks = np.flatnonzero(text == _NEWLINE)
            if b"\r" in block or _may_span_lines(text, breaks, dialect):
                return None
            filled = np.flatnonzero(np.diff(breaks, prepend=-1) > 1)
            here = wanted[len(numbers) : np.searchsorted(wanted, seen + len(filled))]
            numbers += (filled[here - seen] + passed + 1).tolist()
            seen, passed = seen + len(filled), passed + len(breaks)
            if len(numbers) == len(wanted):
                break
    return dict(zip((wanted - 1).tolist(), numbers, strict=False))  # those that there are


def _whole_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Blocks that end in a line break, none with a carriage return before it."""
    rest = stream.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8)
    while data := stream.read(BLOCK_BYTES):
        block = (rest + data).replace(b"\r\n", b"\n")
        end = block.rfind(b"\n") + 1
        rest = block[end:]
        yield block[:end]
    yield rest.replace(b"\r\n", b"\n") + b"\n"


def _may_span_lines(text: Bytes, breaks: Ints, dialect: Dialect) -> bool:
    """Whether a record may go on in another line.

    None does where every line has its quotes in pairs, the first of a pair at the start of a field, or doubled, right
    after the last of the pair before.
    """
    quotes = np.flatnonzero(text == ord(dialect.quote)) if dialect.quote else None
    if quotes is None or not len(quotes):
        return False
    if (np.searchsorted(quotes, breaks) % 2).any():
        return True
    opening = quotes[::2]
    before = text[opening - 1]  # of the very first of the text it is the last, a line break
    doubled = np.append(False, opening[1:] - 1 == quotes[1:-1:2])
    return not bool(((before == ord(dialect.delimiter)) | (before == _NEWLINE) | doubled).all())


def _number(start: int, count: int, bad: Sequence[int]) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """The ordinals of `count` good records from `start` on, with those of bad records left out."""
    candidates = np.arange(start, start + count + len(bad), dtype=np.int64)
    return candidates[~np.isin(candidates, bad)][:count] if bad else candidates


def _field(text: str, dialect: Dialect, at: int) -> str:
    """What stands where the ID should; the rest of a broken record is nobody's business."""
    row: list[str] = next(dialect.reader(io.StringIO(text, newline="")), [])
    return row[at] if at < len(row) else ""


def _header(opener: Opener, dialect: Dialect) -> list[str]:
    """The fields of the first line that is not blank. Raises ValueError, which quotes none of them."""
    with closing(opener()) as stream, io.TextIOWrapper(stream, "utf-8-sig", errors="replace", newline="") as text:
        try:
            names: list[str] = next((row for row in dialect.reader(text) if row), [])
        except csv.Error as error:
            raise ValueError(f"the header can't be read: {error}") from None
    if not names:
        raise ValueError("the file is empty; its first line must name the columns")
    return names


def _check_last_quote(opener: Opener, dialect: Dialect) -> None:
    """An odd number of quotes may be harmless (a lone one inside a field); one that swallows the file's end is not."""
    start = 0
    try:
        for start in _record_lines(opener, dialect, strict=True):  # noqa: B007
            pass
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            raise ValueError(f"a quote opened after line {start} is never closed") from None


def _record_lines(opener: Opener, dialect: Dialect, *, strict: bool = False) -> Iterator[int]:
    """The line on which each record starts, the header included, blank lines not."""
    with closing(opener()) as stream, io.TextIOWrapper(stream, "utf-8-sig", errors="replace", newline="") as text:
        reader, end = dialect.reader(text, strict=strict), 0
        for row in reader:
            if row:
                yield end + 1
            end = reader.line_num


class _QuoteCounter(io.RawIOBase):
    """Passes reads through and counts the quotes in them."""

    def __init__(self, stream: BinaryIO, quote: str) -> None:
        self._stream, self._quote = stream, quote.encode()
        self._same = np.empty(BLOCK_BYTES, np.bool_)  # kept: fresh memory for each block takes longer than the count
        self.quotes = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        if self._quote and self._quote in data:
            for start in range(0, len(data), BLOCK_BYTES):
                text = np.frombuffer(data, np.uint8)[start : start + BLOCK_BYTES]
                self.quotes += int(np.count_nonzero(np.equal(text, self._quote[0], out=self._same[: len(text)])))
        return data

    def close(self) -> None:
        self._stream.close()
        super().close()
