"""What is read of buckets: many customers as a few texts, and batches of the mappings that are visible among them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from idsync.store import codec
from idsync.store.base import EXPORT_SCHEMA
from idsync.store.batches import texts
from idsync.store.optouts import OptedOutDevices

Counts = np.ndarray[tuple[int], np.dtype[np.int64]]


class Piece(NamedTuple):
    """Customers of one bucket or several: their IDs, each ended by a newline; all entries; how many each has."""

    ids: bytes
    entries: bytes
    counts: Counts


def of_customers(ids: Sequence[bytes], entries: Sequence[bytes]) -> Piece:
    """Customers with the entries of each, which stand back to back."""
    all_entries = b"".join(entries)
    if len(all_entries) == codec.ENTRY_BYTES * len(ids):  # no customer is without any, so each has one
        counts = np.ones(len(ids), np.int64)
    else:
        counts = np.fromiter(map(len, entries), np.int64, len(entries)) // codec.ENTRY_BYTES
    return Piece(b"\n".join([*ids, b""]), all_entries, counts)


def joined(pieces: Sequence[Piece]) -> Piece:
    ids, entries, counts = zip(*pieces, strict=True) if pieces else ((), (), ())
    return Piece(b"".join(ids), b"".join(entries), np.concatenate([*counts, np.empty(0, np.int64)]))


def uuid(entries: bytes, at: int) -> bytes:
    """The packed UUID of an entry among many."""
    return entries[at * codec.ENTRY_BYTES + codec.TIME_BYTES : (at + 1) * codec.ENTRY_BYTES]


def batch(piece: Piece, horizon: int, out: OptedOutDevices, *, latest_only: bool) -> Iterator[pa.RecordBatch]:
    """One batch of what is visible, if anything is. Devices stand latest first already."""
    ids, entries, counts = piece
    times = codec.unpack_times(entries)
    columns = [texts(ids), codec.unpack_uuids(entries), pa.array(times)]
    keep = times > horizon
    if out:
        keep &= ~out.among(columns[1])
    if len(times) > len(counts):
        columns[0] = columns[0].take(pa.array(np.repeat(np.arange(len(counts)), counts)))
        if latest_only:
            kept = np.flatnonzero(keep)
            owners = np.repeat(np.arange(len(counts)), counts)[kept]
            newest = kept[np.unique(owners, return_index=True)[1]]
            keep = np.zeros(len(times), dtype=bool)
            keep[newest] = True
    found = pa.RecordBatch.from_arrays(columns, schema=EXPORT_SCHEMA)
    if not keep.all():
        found = found.filter(pa.array(keep))
    if len(found):
        yield found
