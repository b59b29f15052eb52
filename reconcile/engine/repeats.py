"""What stands there several times among millions of hashes. Pure."""

from typing import TypeVar

import numpy as np

Number = TypeVar("Number", np.uint32, np.uint64)
Hashes = np.ndarray[tuple[int], np.dtype[np.uint64]]

_HALF = np.uint64(32)
_TABLE_BITS = 20  # a table that stays in the processor's cache, and has a place for each hash that is looked at twice
_SAMPLE = np.uint64(1 << 58)  # the hashes below: a 64th, with all that are equal to one of them


def repeated(hashes: Hashes) -> Hashes:
    """Those that stand there more than once, in order.

    Where few do, to sort the upper halves alone takes half the time of sorting all: what repeats there is looked for
    among all hashes by the first bits, and few are left to be sorted whole. Where a sample shows that many do, all are
    sorted at once.
    """
    sample = hashes[hashes < _SAMPLE]
    if 8 * len(_twice(np.sort(sample))) > len(sample):
        return _twice(np.sort(hashes))
    halves = (hashes >> _HALF).astype(np.uint32)
    halves.sort()
    marked = np.zeros(1 << _TABLE_BITS, np.bool_)
    marked[_twice(halves) >> np.uint32(32 - _TABLE_BITS)] = True
    return _twice(np.sort(hashes[marked[hashes >> np.uint64(64 - _TABLE_BITS)]]))


def _twice(ordered: "np.ndarray[tuple[int], np.dtype[Number]]") -> "np.ndarray[tuple[int], np.dtype[Number]]":
    """What stands there more than once, each once."""
    again = ordered[1:] == ordered[:-1]
    again[1:] &= ordered[2:] != ordered[:-2]
    found: np.ndarray[tuple[int], np.dtype[Number]] = ordered[1:][again]
    return found
