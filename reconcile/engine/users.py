"""What several records say to one user, brought together. Pure."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reconcile.engine.outcome import Ints

_TABLE_BYTES = 32_000_000
_PIECE_ROWS = 4096  # two vectors of DuckDB, whose threads take a piece each


def by_user(batches: Iterable[pa.RecordBatch], user: Sequence[str]) -> Iterator[pa.Table]:
    """From records in the order of their users (columns `user`, seq, text, without nulls), tables of a row a user:
    `user`, seqs, and as text all of its texts, one after the other.

    They stand one after the other already, so that nothing but where each begins is new. No user is in two tables.
    """
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(one.nbytes for one in held) > _TABLE_BYTES and len(starts := _starts(batch, user)) > 1:
            last = int(starts[-1])
            yield _together([*held[:-1], batch.slice(0, last)], user)
            held = [batch.slice(last)]
    if any(map(len, held)):
        yield _together(held, user)


def _together(batches: list[pa.RecordBatch], user: Sequence[str]) -> pa.Table:
    batch = pa.concat_batches([_with_large_text(batch) for batch in batches])
    starts = _starts(batch, user)
    ends = np.append(starts, len(batch))
    text = batch.column("text")
    _, offset_buffer, data = text.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[text.offset :][ends]
    columns = {name: batch.column(name).take(pa.array(starts)) for name in user}
    columns["seqs"] = pa.LargeListArray.from_arrays(ends, batch.column("seq"))
    columns["text"] = pa.LargeStringArray.from_buffers(len(starts), pa.py_buffer(offsets), data)
    return pa.Table.from_batches(pa.table(columns).to_batches(_PIECE_ROWS))


def _with_large_text(batch: pa.RecordBatch) -> pa.RecordBatch:
    """What one user is told may be more than 2 GB, before what stands there twice is taken out."""
    at = batch.schema.get_field_index("text")
    return batch.set_column(at, "text", batch.column("text").cast(pa.large_string()))


def _starts(batch: pa.RecordBatch, user: Sequence[str]) -> Ints:
    """The rows at which another user begins than that of the row before; the first row does."""
    begins = np.arange(len(batch)) == 0
    for name in user:
        column = batch.column(name)
        begins[1:] |= pc.not_equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False)
    starts: Ints = np.flatnonzero(begins)
    return starts
