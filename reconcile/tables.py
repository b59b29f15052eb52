"""Parquet files of ours, made smaller in place: streamed, so that their size does not matter."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from reconcile import durable

BATCH_ROWS = 100_000
Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]
Choice = Callable[[pa.RecordBatch], Mask]


def count(path: Path, choose: Choice, *, columns: Sequence[str] | None = None) -> int:
    """How many rows are chosen, by these columns; 0 where there is no file."""
    if not path.exists():
        return 0
    with parquet.ParquetFile(path) as file:
        batches = file.iter_batches(batch_size=BATCH_ROWS, columns=columns)
        return sum(int(np.count_nonzero(choose(batch))) for batch in batches)


def remove(path: Path, choose: Choice, *, columns: Sequence[str] | None = None, keep_empty: bool = False) -> int:
    """Remove the rows that are chosen, by these columns, and the file once it is empty, unless an empty one says
    something.

    How many rows went. All or nothing.
    """
    if not (removed := count(path, choose, columns=columns)):
        return 0
    with parquet.ParquetFile(path) as file:
        if removed == file.metadata.num_rows and not keep_empty:
            path.unlink()
            durable.sync_folder(path.parent)
            return removed
        with durable.replacing(path) as half, parquet.ParquetWriter(half, file.schema_arrow, compression="zstd") as new:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                new.write_batch(batch.filter(pa.array(~choose(batch))))
    return removed


def rows(path: Path) -> int:
    return int(parquet.read_metadata(path).num_rows) if path.exists() else 0
