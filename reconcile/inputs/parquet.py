"""Parquet columns of any flat type, as text. An ID column that can't hold IDs exactly (floating point) is refused."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import compute
from pyarrow import parquet as arrow_parquet

from reconcile.inputs.chunk import Chunk, as_text

BATCH_ROWS = 100_000


def read(path: Path, columns: Sequence[str]) -> Iterator[Chunk]:
    """The rows in order; an ordinal is the row's number from 0. Raises ValueError for columns that can't be read."""
    with arrow_parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        for column in columns:
            if schema.names.count(column) != 1:
                raise ValueError(f'no column "{column}", or more than one; the file has: {", ".join(schema.names)}')
        if pa.types.is_floating(schema.field(columns[0]).type):
            raise ValueError(
                f'the column "{columns[0]}" is {schema.field(columns[0]).type}, which can\'t hold IDs exactly'
            )
        start = 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(columns)):
            ordinals = np.arange(start, start + len(batch), dtype=np.int64)
            start += len(batch)
            yield as_text(ordinals, [_as_bytes(batch.column(column), column) for column in columns])


def _as_bytes(values: pa.Array, column: str) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        texts = [None if row is None else ",".join(str(member) for member in row) for row in values.to_pylist()]
        values = pa.array(texts, pa.string())
    try:
        if not pa.types.is_binary(values.type):
            values = values.cast(pa.string()).cast(pa.binary())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise ValueError(f'the column "{column}" is {values.type}, which has no plain text form') from None
    return compute.fill_null(values, b"")
