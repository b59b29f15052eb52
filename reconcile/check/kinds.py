"""UUIDs and customer IDs are never mixed in one file.

What an ID is can be told by its look alone, and only next to the others: among UUIDs, a number of nearly as many digits
is a UUID that lost some, as spreadsheets do with zeros in front; among customer IDs it is one of them.
"""

import numpy as np

from idsync.ids import UUID_DIGITS
from reconcile.check.block import WORD_BYTES, Block, Hashes, Mask
from reconcile.check.findings import Fault, FileReport
from reconcile.lines import MAX_LINE_BYTES


class IdKinds:
    """What the IDs of one file are: `look` at every block, then `settle`."""

    _NEAR = (30, 45)  # digits

    def __init__(self, report: FileReport) -> None:
        self._report = report
        self._counts = {"uuid": 0, "near": 0, "other": 0}
        self._first: dict[str, int] = {}
        self._near: list[tuple[int, int]] = []

    def look(self, block: Block, before: int) -> None:
        """`before`: lines of the file before this block."""
        lengths = block.users - block.starts
        long = (lengths >= self._NEAR[0]) & (lengths <= self._NEAR[1])
        digits = _digits(block, long)
        uuids = digits & (lengths == UUID_DIGITS)
        near = digits & ~uuids
        # of a line that is too long its first part may be all that is there
        other = (lengths > 0) & (lengths < MAX_LINE_BYTES) & ~digits
        for kind, mask in (("uuid", uuids), ("near", near), ("other", other)):
            if count := int(np.count_nonzero(mask)):
                self._counts[kind] += count
                self._first.setdefault(kind, before + int(mask.argmax()) + 1)
        room = self._report.limit - len(self._near)
        if room > 0 and near.any():
            self._near += [(before + at + 1, int(lengths[at])) for at in np.flatnonzero(near)[:room].tolist()]

    def settle(self) -> None:
        """Add what the whole file says."""
        counts = self._counts
        if not counts["uuid"]:
            return
        for line, digits in self._near:
            self._report.add(Fault(1, "uuid-shape", f"{digits} digits among UUIDs of 38"), line)
        self._report.add_unseen("uuid-shape", counts["near"] - len(self._near))
        if counts["other"]:
            told = f"UUIDs on {counts['uuid']:,} lines, other IDs on {counts['other']:,}"
            line = max(self._first["uuid"], self._first["other"])
            self._report.add(Fault(1, "mixed-id-types", f"{told}; this is the first line that differs"), line)


def _digits(block: Block, asked: Mask) -> Mask:
    """The lines, of those asked, whose first columns are digits throughout; these are eight bytes long or more."""
    left = np.flatnonzero(asked)
    lengths = block.users - block.starts
    for at in range(0, int(lengths[left].max(initial=0)), WORD_BYTES):
        last = lengths[left] - WORD_BYTES  # the last words overlap
        left = left[_all_digits(block.words(block.starts[left] + np.minimum(last, at)))]
    found = np.zeros(len(block), np.bool_)
    found[left] = True
    return found


def _all_digits(words: Hashes) -> Mask:
    """Whether each of the eight bytes is 0x30 to 0x39: so is its upper half, also once 6 is added."""
    halves, zeros, sixes = (np.uint64(0x0101010101010101 * byte) for byte in (0xF0, 0x30, 0x06))
    return np.asarray((words & halves == zeros) & ((words + sixes) & halves == zeros), np.bool_)
