"""Arrow batches of the export: the order of devices within a customer, and the latest only. Whole columns at a time."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from idsync.store.base import EXPORT_SCHEMA


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
    starts[1:] = pa.compute.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    if not starts.all():
        rows = np.arange(len(ids))
        seen = table.column("last_seen").to_numpy()
        # the later first; of equal times the greater UUID, which stands behind
        order = np.lexsort((-rows, -seen, np.cumsum(starts)))
        table = table.take(pa.array(order[starts] if latest_only else order))
    yield from table.combine_chunks().to_batches()
