"""What stands there several times among millions of hashes. Pure."""

from typing import TypeVar

import numpy as np

Number = TypeVar("Number", np.uint32, np.uint64)
Hashes = np.ndarray[tuple[int], np.dtype[np.uint64]]

_HALF = np.uint64(32)
_TABLE_BITS = 20  # a table that stays in the processor's cache, and has a place for each hash that is looked at twice


def repeated(hashes: Hashes) -> Hashes:
    """Those that stand there more than once, in order.

    To sort the upper halves alone takes half the time of sorting all. What repeats there is looked for among all
    hashes by the first bits; few are left to be sorted whole.
    """
    halves = (hashes >> _HALF).astype(np.uint32)
    halves.sort()
    marked = np.zeros(1 << _TABLE_BITS, np.bool_)
    marked[_twice(halves) >> np.uint32(32 - _TABLE_BITS)] = True
    doubtful = hashes[marked[hashes >> np.uint64(64 - _TABLE_BITS)]]
    doubtful.sort()
    return np.unique(_twice(doubtful))


def _twice(ordered: "np.ndarray[tuple[int], np.dtype[Number]]") -> "np.ndarray[tuple[int], np.dtype[Number]]":
    again: np.ndarray[tuple[int], np.dtype[Number]] = ordered[1:][ordered[1:] == ordered[:-1]]
    return again
