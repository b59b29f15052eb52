"""Mappings and opt-outs of one store into another, while both are in use.

Mappings merge, so that copying them again, or while the endpoint writes to either store, does no harm. What was written
to the old store after it was read is left for a second pass, once no endpoint writes there any more.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import pyarrow as pa

from idsync.store.base import OPTED_OUT, MappingStore, Sync
from idsync.store.optouts import OptOut, customer_token

_CHUNK_CUSTOMERS = 5_000
_CHECKSUM_BYTES = 8
_MODULUS = 1 << 8 * _CHECKSUM_BYTES


class Copied(NamedTuple):
    """Of one data source. `mappings` read; `refused`, as the target has their opt-out; `missing`, or older there. The
    checksums are of DPIDs, customer IDs and UUIDs in whatever order: of what was read and not refused, and of what the
    target holds of it.
    """

    mappings: int
    refused: int
    missing: int
    checksum: str
    target_checksum: str


def migrate(
    source: MappingStore, target: MappingStore, now: int, progress: Callable[[int], None] = lambda _: None
) -> Mapping[int, Copied]:
    """Copy everything that is visible in `source`, by DPID; opt-outs first, so that nothing is stored against one.

    The target keeps no more devices a customer than its own setting says; those that it drops are told as missing.
    """
    _adopt(source, target, now)
    return {dpid: _copy(source, target, dpid, now, progress) for dpid in source.count(now)}


def _adopt(source: MappingStore, target: MappingStore, now: int) -> None:
    """Opt-outs; and the end of what the target holds of customers whom it did not know as opted out."""
    tokens, known = source.tokens(), target.opt_outs()
    new = {token.name for token in tokens} - known.keys()
    target.adopt(tokens)
    for dpid in target.count(now) if new else ():
        ids = {customer_id for batch in target.export(dpid, now) for customer_id in batch.column(0).to_pylist()}
        out = tuple((dpid, customer_id) for customer_id in ids if customer_token(dpid, customer_id).name in new)
        target.opt_out(OptOut(out, (), now, takes_devices=False))


def _copy(source: MappingStore, target: MappingStore, dpid: int, now: int, progress: Callable[[int], None]) -> Copied:
    mappings = refused = missing = wanted_sum = held_sum = 0
    for wanted in _chunks(source.export(dpid, now)):
        syncs = [Sync(dpid, customer_id, uuid, "", seen) for (customer_id, uuid), seen in wanted.items()]
        told = target.record(syncs)
        kept = {pair: seen for (pair, seen), uuid in zip(wanted.items(), told, strict=True) if uuid != OPTED_OUT}
        customers = list(dict.fromkeys(customer_id for customer_id, _ in kept))
        held = dict(row for batch in target.export(dpid, now, customer_ids=customers) for row in _rows(batch))
        found = [pair for pair, seen in kept.items() if held.get(pair, -1) >= seen]
        mappings += len(wanted)
        refused += len(wanted) - len(kept)
        missing += len(kept) - len(found)
        wanted_sum += sum(_checksum(dpid, *pair) for pair in kept)
        held_sum += sum(_checksum(dpid, *pair) for pair in found)
        progress(len(wanted))
    return Copied(mappings, refused, missing, _shown(wanted_sum), _shown(held_sum))


def _chunks(batches: Iterator[pa.RecordBatch]) -> Iterator[dict[tuple[str, str], int]]:
    """(customer ID, UUID) and last seen; whole customers, a few thousand at a time."""
    chunk: dict[tuple[str, str], int] = {}
    for batch in batches:
        for pair, seen in _rows(batch):
            if len(chunk) >= _CHUNK_CUSTOMERS and pair[0] != next(reversed(chunk))[0]:
                yield chunk
                chunk = {}
            chunk[pair] = seen
    if chunk:
        yield chunk


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[tuple[str, str], int]]:
    ids, uuids, seen = (column.to_pylist() for column in batch.columns)
    return zip(zip(ids, uuids, strict=True), seen, strict=True)


def _checksum(dpid: int, customer_id: str, uuid: str) -> int:
    digest = hashlib.blake2b(f"{dpid}:{customer_id}:{uuid}".encode(), digest_size=_CHECKSUM_BYTES).digest()
    return int.from_bytes(digest, "big")


def _shown(checksum: int) -> str:
    return f"{checksum % _MODULUS:016x}"
