"""Arrow batches of the export: text columns out of one buffer, the order of devices within a customer, the latest only.

Whole columns at a time: nothing here costs a step of Python a row.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from idsync.store.base import EXPORT_SCHEMA


def texts(ended: bytes) -> pa.StringArray:
    """Texts that each end in a newline."""
    data = np.frombuffer(ended, np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    offsets = np.zeros(len(ends) + 1, dtype=np.int32)
    offsets[1:] = ends - np.arange(len(ends))  # the newlines themselves are left out
    return pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(ended.replace(b"\n", b"")))


def texts_of(joined: Any, width: int) -> pa.StringArray:
    """Texts of `width` bytes that stand back to back."""
    count = memoryview(joined).nbytes // width
    offsets = np.arange(count + 1, dtype=np.int32) * width
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(joined))


def by_customer(batches: Iterable[pa.RecordBatch], *, latest_only: bool) -> Iterator[pa.RecordBatch]:
    """Batches whose customers are adjacent and whose devices ascend by UUID, as `MappingStore.export` promises them.

    A customer whose rows straddle two batches is kept back for the second.
    """
    carried = EXPORT_SCHEMA.empty_table().to_batches()
    for batch in batches:
        whole = pa.Table.from_batches([*carried, batch], EXPORT_SCHEMA).combine_chunks()
        if not len(whole):
            continue
        ids = whole.column("customer_id").combine_chunks()
        last = len(whole) - 1
        while last and ids[last - 1] == ids[-1]:
            last -= 1
        carried = whole.slice(last).to_batches()
        yield from _ordered(whole.slice(0, last), latest_only=latest_only)
    yield from _ordered(pa.Table.from_batches(carried, EXPORT_SCHEMA), latest_only=latest_only)


def _ordered(table: pa.Table, *, latest_only: bool) -> Iterator[pa.RecordBatch]:
    if not len(table):
        return
    ids = table.column("customer_id").combine_chunks()
    starts = np.ones(len(ids), dtype=bool)
    starts[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    if not starts.all():
        rows = np.arange(len(ids))
        seen = table.column("last_seen").to_numpy()
        # the later first; of equal times the greater UUID, which stands behind
        order = np.lexsort((-rows, -seen, np.cumsum(starts)))
        table = table.take(pa.array(order[starts] if latest_only else order))
    yield from table.combine_chunks().to_batches()
