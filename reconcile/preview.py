"""A few records of a dry run beside what they become: of every fate some, if there are any.

A line is what its record becomes by itself; where other records are of the same user, a run sends one for all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from reconcile import optouts
from reconcile.engine.duckdb import Ints, Reject
from reconcile.join import Fates, Join
from reconcile.records import Records
from reconcile.why import mask

MOST = 100


@dataclass(frozen=True, slots=True)
class Shown:
    """A record: where it stands, what it says, what becomes of it, and why; and its lines, without line breaks.

    `fate`: matched, unmatched, rejected. `values` are empty of a record that can't be read, or of somebody who opted
    out.
    """

    input: str
    line: int
    fate: str
    reason: str = ""
    customer_id: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    lines: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def masked(self) -> "Shown":
        """Without the IDs: of the record, and of the lines' users."""
        lines = [f"{mask(user)}\t{items}" for user, _, items in (line.partition("\t") for line in self.lines)]
        return replace(self, customer_id=mask(self.customer_id), lines=lines)


def shares(counts: Sequence[int], room: int) -> list[int]:
    """How many of each kind to take, `room` in all if there are so many: one of each in turn, from the first on."""
    taken = [0] * len(counts)
    while room and taken != list(counts):
        for at, count in enumerate(counts):
            if room and taken[at] < count:
                taken[at] += 1
                room -= 1
    return taken


def look(join: Join, records: Records, fates: Fates, room: int, scratch: Path) -> list[Shown]:
    """Up to `room` records of the inputs, in their order; `records` are read again as far as it takes."""
    rejected = {reject.seq: reject for reject in fates.left_out if reject.seq >= records.first}
    unmatched = np.sort(fates.unmatched[fates.unmatched >= records.first])
    by_reason: dict[str, list[int]] = {}
    for seq in sorted(rejected):
        by_reason.setdefault(rejected[seq].reason, []).append(seq)
    matched = max(fates.read - len(unmatched) - len(rejected), 0)
    matches, misses, *faults = shares([matched, len(unmatched), *map(len, by_reason.values())], room)
    chosen = set(unmatched[:misses].tolist())
    for seqs, count in zip(by_reason.values(), faults, strict=True):
        chosen.update(seqs[:count])
    rows = _rows(records, chosen, matches, unmatched, rejected)
    places = records.places(sorted(rows.keys() | chosen))
    shown = []
    for seq, (name, line) in sorted(places.items()):
        reject, row = rejected.get(seq), rows.get(seq)
        fate = "rejected" if reject else "unmatched" if seq in chosen else "matched"
        found = Shown(name, line, fate, reject.reason if reject else "", reject.customer_id if reject else "")
        if row is not None and found.reason != optouts.REASON:
            lines = [] if reject else join.lines_of(row, scratch)
            found = replace(found, customer_id=row.column("id")[0].as_py(), values=join.values(row), lines=lines)
        shown.append(found)
    return shown


def _rows(
    records: Records, chosen: set[int], matches: int, unmatched: Ints, rejected: Mapping[int, Reject]
) -> dict[int, pa.RecordBatch]:
    """The chosen records, and the first `matches` that match, each as a batch of its own; those that can't be read
    are not among them."""
    last = max(chosen, default=-1)
    faulty = np.array(sorted(rejected), dtype=np.int64)
    rows: dict[int, pa.RecordBatch] = {}
    for batch in records.batches():
        seqs = batch.column("seq").to_numpy()
        found = np.flatnonzero(np.isin(seqs, np.array(sorted(chosen), dtype=np.int64)))
        if matches:
            others = np.flatnonzero(~(_among(seqs, unmatched) | _among(seqs, faulty)))[:matches]
            matches -= len(others)
            found = np.concatenate([found, others])
        rows |= {int(seqs[at]): batch.slice(int(at), 1) for at in found}
        if not matches and records.seen > last:
            break
    return rows


def _among(seqs: Ints, ordered: Ints) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    at = np.minimum(np.searchsorted(ordered, seqs), max(len(ordered) - 1, 0))
    return ordered[at] == seqs if len(ordered) else np.zeros(len(seqs), dtype=np.bool_)
