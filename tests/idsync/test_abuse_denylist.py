"""The temporary deny list: what counts, what does not, and that neither time nor memory runs away."""

import gc
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idsync.denylist import Denial, DenyList
from idsync.settings import Abuse
from tests.idsync.samples import NOW, UUID

KEY = b"k" * 32
MINUTE = 60_000
FEW = Abuse(uuids_per_customer_id=5, addresses_per_customer_id=7, customer_ids_per_uuid=6, tracked=50)

UUIDS = [f"{number:038}" for number in range(2000)]
ADDRESSES = [f"203.0.{number // 250}.{number % 250}" for number in range(2000)]


def calls_until_denied(deny_list: DenyList, calls: Sequence[tuple[str, str | None, str]], now: int = NOW) -> int | None:
    """The number of the first call that is denied, from 1."""
    for number, (customer_id, uuid, client) in enumerate(calls, start=1):
        if deny_list.seen(12345, customer_id, uuid, client, now):
            return number
    return None


def test_a_customer_id_with_too_many_uuids_is_denied_and_no_other() -> None:
    deny_list = DenyList(FEW, KEY)
    number = calls_until_denied(deny_list, [("undefined", uuid, "") for uuid in UUIDS])
    assert number is not None
    assert 6 <= number <= 8
    assert deny_list.seen(12345, "undefined", None, "", NOW) is Denial.CUSTOMER_ID
    assert deny_list.seen(12345, "someone", UUID, "", NOW) is None
    assert deny_list.seen(777, "undefined", UUID, "", NOW) is None


def test_a_customer_id_of_too_many_addresses_is_denied() -> None:
    deny_list = DenyList(FEW, KEY)
    number = calls_until_denied(deny_list, [("undefined", None, address) for address in ADDRESSES])
    assert number is not None
    assert 8 <= number <= 10


def test_a_uuid_with_too_many_customer_ids_is_denied_with_all_that_it_brings() -> None:
    deny_list = DenyList(FEW, KEY)
    number = calls_until_denied(deny_list, [(f"customer-{number}", UUID, "") for number in range(100)])
    assert number is not None
    assert 7 <= number <= 9
    assert deny_list.seen(12345, "customer-0", UUID, "", NOW) is Denial.UUID
    assert deny_list.seen(12345, "new", UUID, "", NOW) is Denial.UUID
    assert deny_list.seen(12345, "customer-0", UUIDS[1], "", NOW) is None


def test_one_customer_id_in_two_data_sources_is_two() -> None:
    deny_list = DenyList(FEW, KEY)
    assert not any(deny_list.seen(dpid, "a", UUID, "", NOW) for dpid in range(1, 7))
    assert any(deny_list.seen(dpid, "a", UUID, "", NOW) is Denial.UUID for dpid in range(7, 12))


@pytest.mark.parametrize(("limit", "at_most"), [(100, 120), (300, 400), (500, 800)])
def test_a_limit_is_never_too_low_and_not_much_too_high(limit: int, at_most: int) -> None:
    for key in (b"a", b"b", b"c"):
        number = calls_until_denied(
            DenyList(Abuse(uuids_per_customer_id=limit), key), [("undefined", uuid, "") for uuid in UUIDS]
        )
        assert number is not None
        assert limit < number < at_most


def test_the_usual_limits_leave_a_family_and_a_call_centre_alone() -> None:
    deny_list = DenyList(Abuse(), KEY)
    family = [("family", UUIDS[call % 20], ADDRESSES[call % 60]) for call in range(1000)]
    call_centre = [(f"caller-{call % 60}", UUIDS[500], ADDRESSES[0]) for call in range(1000)]
    assert calls_until_denied(deny_list, family + call_centre) is None


@pytest.mark.parametrize("uuid", [None, "", UUID])
def test_a_call_that_tells_nothing_new_never_counts(uuid: str | None) -> None:
    assert calls_until_denied(DenyList(FEW, KEY), [("a", uuid, ADDRESSES[0]), ("a", uuid, "")] * 500) is None


def test_an_unknown_address_is_not_one_more() -> None:
    for key in (b"a", b"b", b"c"):
        calls = [("a", None, address) for address in ["", *ADDRESSES[: FEW.addresses_per_customer_id]]]
        assert calls_until_denied(DenyList(FEW, key), calls * 2) is None


def test_a_limit_of_0_is_none() -> None:
    off = Abuse(uuids_per_customer_id=0, addresses_per_customer_id=0, customer_ids_per_uuid=0)
    everything = [("undefined", uuid, address) for uuid, address in zip(UUIDS, ADDRESSES, strict=True)]
    everything += [(f"customer-{number}", UUID, "") for number in range(3000)]
    assert calls_until_denied(DenyList(off, KEY), everything) is None


def denied() -> DenyList:
    deny_list = DenyList(FEW, KEY)
    assert calls_until_denied(deny_list, [("undefined", uuid, "") for uuid in UUIDS])
    return deny_list


def test_a_denial_ends_even_if_the_calls_go_on() -> None:
    deny_list = denied()
    for minute in range(60):
        assert deny_list.seen(12345, "undefined", UUIDS[100 + minute], "", NOW + minute * MINUTE)
    assert deny_list.seen(12345, "undefined", UUIDS[0], "", NOW + 60 * MINUTE - 1)
    again = calls_until_denied(deny_list, [("undefined", uuid, "") for uuid in UUIDS], NOW + 60 * MINUTE)
    assert again is not None
    assert again > 5


def test_what_came_before_the_window_does_not_count() -> None:
    deny_list = DenyList(FEW, KEY)
    for window in range(4):
        calls = [("a", uuid, "") for uuid in UUIDS[window * 5 : window * 5 + 5]]
        assert calls_until_denied(deny_list, calls, NOW + window * 60 * MINUTE) is None
    assert calls_until_denied(deny_list, [("a", uuid, "") for uuid in UUIDS[50:60]], NOW + 240 * MINUTE - 1)


def test_a_clock_that_is_set_back_prolongs_nothing() -> None:
    deny_list = denied()
    assert deny_list.seen(12345, "undefined", UUIDS[0], "", NOW - 1000 * MINUTE) is None


def test_a_flood_of_ids_neither_fills_memory_nor_lifts_a_denial() -> None:
    deny_list = denied()
    for number in range(2000):
        deny_list.seen(12345, f"invented-{number}", UUIDS[number], ADDRESSES[number], NOW)
    assert 50 <= deny_list.tracked() <= 6 * FEW.tracked
    assert deny_list.seen(12345, "undefined", UUID, "", NOW) is Denial.CUSTOMER_ID


def test_an_id_that_keeps_coming_is_not_forgotten_in_the_crowd() -> None:
    deny_list = DenyList(FEW, KEY)
    crowd = [(f"customer-{number}", UUIDS[number], "") for number in range(1000)]
    for start in range(0, 1000, 40):
        assert calls_until_denied(deny_list, crowd[start : start + 40]) is None
        if deny_list.seen(12345, "undefined", UUIDS[1000 + start], "", NOW):
            return
    pytest.fail("never denied")


def test_a_flood_of_denials_does_not_fill_memory() -> None:
    limits = Abuse(uuids_per_customer_id=1, customer_ids_per_uuid=0, addresses_per_customer_id=0, tracked=10)
    deny_list = DenyList(limits, KEY)
    for number in range(200):
        calls_until_denied(deny_list, [(f"invented-{number}", uuid, "") for uuid in UUIDS[:4]])
    assert deny_list.tracked() <= 6 * limits.tracked


def test_an_entry_has_a_fixed_size() -> None:
    """However long the IDs are, and whatever they arrive with."""
    limits = Abuse(uuids_per_customer_id=500, addresses_per_customer_id=500, tracked=100)
    deny_list = DenyList(limits, KEY)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(4000):
            deny_list.seen(12345, f"{number % 300:0500}", UUIDS[number % 2000], ADDRESSES[number * 7 % 2000], NOW)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 200 * 1000


CALLS = st.lists(
    st.tuples(st.sampled_from("abc"), st.none() | st.sampled_from(UUIDS[:12]), st.sampled_from(["", *ADDRESSES[:12]])),
    max_size=60,
)


@given(st.binary(min_size=1, max_size=64), st.integers(1, 3), st.data())
def test_whatever_is_repeated_within_the_limits_is_never_denied(
    key: bytes, customers: int, data: st.DataObject
) -> None:
    calls = st.tuples(
        st.sampled_from([f"customer-{number}" for number in range(customers)]),
        st.none() | st.sampled_from(UUIDS[: FEW.uuids_per_customer_id]),
        st.just("") | st.sampled_from(ADDRESSES[: FEW.addresses_per_customer_id]),
    )
    repeated = data.draw(st.lists(calls, max_size=30)) * 4
    assert calls_until_denied(DenyList(FEW, key), repeated) is None


@given(CALLS)
def test_the_same_calls_have_the_same_end(calls: list[tuple[str, str | None, str]]) -> None:
    one, other = DenyList(FEW, KEY), DenyList(FEW, KEY)
    for customer_id, uuid, client in calls:
        assert one.seen(1, customer_id, uuid, client, NOW) is other.seen(1, customer_id, uuid, client, NOW)


@given(st.lists(st.tuples(st.text(max_size=6), st.text(max_size=6), st.integers(0, 10**13)), max_size=120))
@settings(max_examples=50)
def test_memory_is_bounded_at_any_time(calls: list[tuple[str, str, int]]) -> None:
    limits = Abuse(uuids_per_customer_id=1, customer_ids_per_uuid=1, addresses_per_customer_id=1, tracked=3)
    deny_list = DenyList(limits, KEY)
    for customer_id, uuid, now in calls:
        deny_list.seen(1, customer_id, uuid, uuid, now)
        assert deny_list.tracked() <= 6 * limits.tracked


def test_which_ids_share_a_place_depends_on_the_key() -> None:
    """Else a caller could choose UUIDs that count as one."""
    ends = {
        calls_until_denied(
            DenyList(Abuse(uuids_per_customer_id=300), bytes([number])), [("a", uuid, "") for uuid in UUIDS]
        )
        for number in range(5)
    }
    assert len(ends) > 1
