from bisect import bisect_left
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idsync.store.spread import between, spread

NUMBERED = [f"C{number:017}" for number in range(0, 10**9, 10**5)]
SETS = {
    "numbers": [str(number) for number in range(10_000)],
    "a long beginning in common": NUMBERED,
    "one that is far away": [*NUMBERED, "zzz"],
    "two kinds": sorted([*NUMBERED, *(f"user:{name}" for name in NUMBERED)]),
    "beyond ASCII": sorted(f"Ж{number}" for number in range(1000)),
}


@pytest.mark.parametrize("members", SETS.values(), ids=SETS)
def test_places_are_from_all_over_and_few_looks_find_them(members: list[str]) -> None:
    members = sorted(members)
    looks = []

    def after(text: str) -> str:
        looks.append(text)
        return members[bisect_left(members, text)]

    found = spread(members[0], members[-1], after, 16)
    assert found == sorted(set(found))
    assert set(members).issuperset(found)
    assert len(found) == 16
    assert len(looks) <= 128
    places = [bisect_left(members, text) for text in found]
    assert max(after - before for before, after in pairwise(places)) <= len(members) * 0.55


def test_of_few_members_all_are_found_and_the_search_ends() -> None:
    members = ["a", "ab", "b"]
    assert spread("a", "b", lambda text: members[bisect_left(members, text)], 16) == members
    assert spread("a", "a", lambda _: "a", 16) == ["a"]


@given(st.text(), st.text())
def test_between_is_above_the_lower_and_below_the_upper(one: str, other: str) -> None:
    low, high = sorted((one, other))
    if low < high and (middle := between(low, high)):
        assert low < middle < high
        assert middle.encode()
