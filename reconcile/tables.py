"""Parquet files of ours: seen to be whole, and made smaller in place. Streamed, so that their size does not matter."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from idsync.errors import IdsyncError
from reconcile import durable
from reconcile.errors import StateDamaged

BATCH_ROWS = 100_000
# What it means to go on without a table of a feed, by its folder.
_WITHOUT = {
    "held": "the records in it are lost then, unless their inputs come in once more, in files of other content",
    "sent": "all is sent again then, as at first, and what users have lost meanwhile is not taken away",
}
Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]
Choice = Callable[[pa.RecordBatch], Mask]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """A table that can't be read becomes an error that names it, and says how to go on. Raises StateDamaged."""
    try:
        yield
    except pa.ArrowMemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # of the disk; pyarrow's own of broken pages has none
            raise
        without = _WITHOUT.get(path.parent.name)
        raise StateDamaged(
            f"{path}: damaged, or cut off",  # what pyarrow says may quote values
            mend="restore the file from a backup" + (f"; or remove it: {without}" if without else ""),
        ) from None


@contextmanager
def telling_damage(*paths: Path) -> Iterator[None]:
    """Around what reads these tables, by whatever means: DuckDB does so bit by bit, and not all its errors name a file.

    If it fails each is read once to its end. Raises StateDamaged where one can't be.
    """
    try:
        yield
    except IdsyncError:
        raise
    except Exception:
        for path in paths:
            see_whole(path)
        raise


def see_whole(path: Path) -> None:
    """Read a table, if there is one, to its end. Raises StateDamaged."""
    count(path, lambda batch: np.zeros(len(batch), bool))


def count(path: Path, choose: Choice, *, columns: Sequence[str] | None = None) -> int:
    """How many rows are chosen, by these columns; 0 where there is no file."""
    if not path.exists():
        return 0
    with reading(path), parquet.ParquetFile(path) as file:
        batches = file.iter_batches(batch_size=BATCH_ROWS, columns=columns)
        return sum(int(np.count_nonzero(choose(batch))) for batch in batches)


def remove(path: Path, choose: Choice, *, columns: Sequence[str] | None = None, keep_empty: bool = False) -> int:
    """Remove the rows that are chosen, by these columns, and the file once it is empty, unless an empty one says
    something.

    How many rows went. All or nothing.
    """
    if not (removed := count(path, choose, columns=columns)):
        return 0
    with reading(path), parquet.ParquetFile(path) as file:
        if removed == file.metadata.num_rows and not keep_empty:
            with durable.telling(path):
                path.unlink()
                durable.sync_folder(path.parent)
            return removed
        with (
            durable.replacing(path) as half,
            reading(path),
            parquet.ParquetWriter(half, file.schema_arrow, compression="zstd") as new,
        ):
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                new.write_batch(batch.filter(pa.array(~choose(batch))))
    return removed


def rows(path: Path) -> int:
    """By what its end says: the rows themselves may be damaged all the same."""
    if not path.exists():
        return 0
    with reading(path):
        return int(parquet.read_metadata(path).num_rows)
