"""Parquet columns as text. An ID column that can't hold IDs exactly (floating point) is refused.

| type | text |
|---|---|
| integers, signed or not | all digits |
| decimals | with all digits of their scale: 7.00 |
| floating point | the fewest digits that make the same number: 1, 0.1, inf; empty for NaN: it is missing |
| booleans | true, false |
| dates, times | 2026-01-31, 23:59:59.5 |
| timestamps | 2026-01-31T23:59:59.5, with a Z where they have a time zone, and then in UTC |
| strings, binaries | their bytes, which must be UTF-8 |
| UUIDs | 8-4-4-4-12 hex digits in lower case |
| lists of these | joined by commas, nulls left out |
| null | empty |

No number has an exponent. A date or time that the calendar does not reach has a text that can't be sent. A name is that
of a column, or else a path to a field of a struct: `user.id`.
"""

import uuid
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet as arrow_parquet

from reconcile.inputs.chunk import Chunk, as_text
from reconcile.inputs.layout import Layout

BATCH_ROWS = 100_000
# Its control character makes it the fault of its record, be it an ID, a signal, a trait or an e-mail address.
_OUT_OF_RANGE = "\x1aout of range"
_WHOLE_HALF = 2048  # from here on, half precision has whole numbers only


def read(path: Path, layout: Layout, columns: Sequence[str]) -> Iterator[Chunk]:
    """The rows in order; an ordinal is the row's number from 0. Raises ValueError for columns that can't be read."""
    with arrow_parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        tops = set(schema.names)
        fields = [
            (name, kind)
            for column in schema
            for name, kind in _fields(column.name, column.type)
            if name == column.name or name not in tops  # a column outweighs a path that reads alike
        ]
        names = layout.find(columns, [name for name, _ in fields], header=False)
        kind = dict(fields)[names[0]]
        if pa.types.is_floating(_innermost(kind)):
            raise ValueError(f'the column "{names[0]}" is {kind}, which can\'t hold IDs exactly')
        start = 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(dict.fromkeys(names))):
            ordinals = np.arange(start, start + len(batch), dtype=np.int64)
            start += len(batch)
            yield as_text(ordinals, [_as_bytes(_column(batch, name), name) for name in names])


def _fields(name: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """A column and, of a struct, the paths to its fields."""
    yield name, kind
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _fields(f"{name}.{field.name}", field.type)


def _innermost(kind: pa.DataType) -> pa.DataType:
    """Of what the text of a list is made."""
    while isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType | pa.DictionaryType):
        kind = kind.value_type
    return kind


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    if name in batch.schema.names:
        return batch.column(name)
    parts = name.split(".")
    at = next(at for at in range(1, len(parts)) if ".".join(parts[:at]) in batch.schema.names)
    column, rest = batch.column(".".join(parts[:at])), ".".join(parts[at:])
    while rest:
        # names of fields may hold dots themselves
        field = next(field.name for field in column.type if rest == field.name or rest.startswith(f"{field.name}."))
        column, rest = pc.struct_field(column, [field]), rest[len(field) + 1 :]
    return column


def _as_bytes(values: pa.Array, column: str) -> pa.Array:
    try:
        return pc.fill_null(_text(values), b"")
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, TypeError):
        raise ValueError(f'the column "{column}" is {values.type}, which has no plain text form') from None


def _text(values: pa.Array) -> pa.Array:
    """As binary, with nulls. Raises TypeError for what has no text."""
    kind, types = values.type, pa.types
    if types.is_dictionary(kind):
        return _text(values.dictionary_decode())
    if isinstance(kind, pa.UuidType):
        texts = [None if value is None else str(uuid.UUID(bytes=value)) for value in values.storage.to_pylist()]
        return pa.array(texts, pa.string()).cast(pa.binary())
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _joined(values)
    if types.is_binary(kind):
        return values
    if types.is_fixed_size_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return values.cast(pa.binary())
    if types.is_nested(kind) or types.is_duration(kind) or types.is_interval(kind):
        raise TypeError("no plain text form")
    if types.is_decimal(kind):
        texts = _positional(values.cast(pa.string()))
    elif types.is_floating(kind):
        numbers = _doubles(values) if types.is_float16(kind) else values
        texts = _positional(pc.if_else(pc.is_nan(numbers), pa.scalar(None, numbers.type), numbers).cast(pa.string()))
    elif types.is_timestamp(kind):
        texts = values.view(pa.timestamp(kind.unit)).cast(pa.string())  # with a time zone arrow does not tell the range
        texts = pc.binary_join_element_wise(texts, "Z", "") if kind.tz else texts
        texts = _in_range(_short(pc.replace_substring(texts, " ", "T")))
    elif types.is_time(kind):
        texts = _in_range(_short(values.cast(pa.string())))
    elif types.is_date(kind):
        texts = _in_range(values.cast(pa.string()))
    else:
        texts = values.cast(pa.string())
    return texts.cast(pa.binary())


def _positional(numbers: pa.Array) -> pa.Array:
    """Without exponents. What has none stays as it is, whatever stands beside it."""
    exponents = pc.match_substring(numbers, "e", ignore_case=True)
    if not pc.any(exponents).as_py():
        return numbers
    texts = [f"{Decimal(text):f}" for text in numbers.filter(exponents).to_pylist()]
    return pc.replace_with_mask(numbers, exponents, pa.array(texts, pa.string()))


def _doubles(halves: pa.Array) -> pa.Array:
    """Doubles that have the text of half-precision numbers, for which arrow has only that of single precision. Nulls
    become NaN. Whole numbers keep all digits.
    """
    numbers = halves.to_numpy(zero_copy_only=False)
    return pa.array(np.where(np.abs(numbers) < _WHOLE_HALF, numbers.astype(str).astype(np.float64), numbers))


def _in_range(times: pa.Array) -> pa.Array:
    """Where arrow could not write a date or time, and told so in its place, a text that can't be sent."""
    faults = pc.starts_with(times, "<")
    return pc.if_else(faults, _OUT_OF_RANGE, times) if pc.any(faults).as_py() else times


def _short(times: pa.Array) -> pa.Array:
    """Without the zeros at the end of a fraction of a second."""
    return pc.replace_substring_regex(times, r"(\.\d*[1-9])0+(Z?)$|\.0+(Z?)$", r"\1\2\3")


def _joined(lists: pa.Array) -> pa.Array:
    """A text for each list."""
    texts = _text(lists.flatten()).to_pylist()
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_pylist()
    rows, at = [], 0
    for length in lengths:
        rows.append(b",".join(text for text in texts[at : at + length] if text is not None))
        at += length
    return pa.array(rows, pa.binary())
