"""What both fronts share, where no front shows it."""

from itertools import pairwise

from idsync.service import SystemEntropy


def test_no_byte_of_entropy_is_given_twice() -> None:
    entropy = SystemEntropy()
    sizes = [24] * 1_000 + [1, 7_000, 0, 24, 6_144]
    drawn = [entropy(size) for size in sizes]
    assert [len(piece) for piece in drawn] == sizes
    uuids = drawn[:1_000]
    assert len(set(uuids)) == 1_000
    assert not any(first[1:] == second[:-1] for first, second in pairwise(uuids))  # windows that overlap
