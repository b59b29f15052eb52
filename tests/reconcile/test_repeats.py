"""Repeated hashes: as counting finds them, whatever they have in common."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reconcile.engine.repeats import Hashes, repeated

# few upper halves, of which some share their first bits, and few lower ones: all ways to be nearly the same
_UPPER = st.sampled_from([0, 1, 2, 1 << 12, (1 << 12) + 1, (1 << 32) - 1])
_HASHES = st.lists(st.builds(lambda upper, lower: upper << 32 | lower, _UPPER, st.integers(0, 3)))


def hashes_of(numbers: list[int]) -> Hashes:
    return np.array(numbers, np.uint64)


@given(_HASHES)
def test_what_stands_there_more_than_once_is_found_and_nothing_else(numbers: list[int]) -> None:
    expected = sorted(number for number, count in Counter(numbers).items() if count > 1)
    assert repeated(hashes_of(numbers)).tolist() == expected


def test_a_few_among_many() -> None:
    many = np.random.default_rng(7).integers(0, 1 << 64, 300_000, np.uint64)
    many[[5, 77_000]] = many[[299_999, 150_000]]
    assert repeated(many).tolist() == sorted(many[[5, 77_000]].tolist())
