"""What every mapping store promises (`idsync.store.base.MappingStore`), on each kind of store."""

import random
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from idsync.errors import StoreUnavailable
from idsync.store.base import Count, Device, MappingStore, Sync
from tests.contracts.stores import DPID, LIFETIME, NOW, OPERATIONS, Kind, rows, sync, uuid

TRICKY = [
    "007",
    "7",
    "1e5",
    "100000",
    "User",
    "USER",
    "é",
    "e\u0301",
    "a b",
    "Ж" * 256,
    "1" * 38,
    "0" * 38,
]


# --- recording and looking up ----------------------------------------------------------------------------------------


def test_an_empty_store_has_nothing(store: MappingStore) -> None:
    assert store.devices(DPID, "c1", NOW) == []
    assert rows(store) == rows(store, customer_ids=["c1"]) == []
    assert store.count(NOW) == {}
    assert store.sweep(NOW) == 0
    assert store.record([]) == []
    store.check()


def test_what_is_recorded_is_found_latest_first(store: MappingStore) -> None:
    assert store.record([sync("c1", 1, NOW - 2), sync("c1", 2, NOW - 1), sync("c2", 1)]) == [uuid(1), uuid(2), uuid(1)]
    assert store.devices(DPID, "c1", NOW) == [Device(uuid(2), NOW - 1), Device(uuid(1), NOW - 2)]
    assert store.devices(DPID, "c2", NOW) == [Device(uuid(1), NOW)]
    assert store.devices(DPID + 1, "c1", NOW) == []
    assert store.count(NOW) == {DPID: Count(customers=2, mappings=3)}


def test_of_two_times_the_later_is_kept_whichever_comes_first(store: MappingStore) -> None:
    store.record([sync("c1", 1, NOW - 5), sync("c1", 1, NOW - 9), sync("c1", 2, NOW - 7)])
    store.record([sync("c2", 1, NOW - 9)])
    store.record([sync("c2", 1, NOW - 5)])
    assert store.devices(DPID, "c1", NOW) == [Device(uuid(1), NOW - 5), Device(uuid(2), NOW - 7)]
    assert store.devices(DPID, "c2", NOW) == [Device(uuid(1), NOW - 5)]


def test_equal_times_are_ordered_by_uuid(store: MappingStore) -> None:
    order = [3, 1, 10**38 - 1, 2, 10**37]
    store.record([sync("c1", device) for device in order])
    assert [device.uuid for device in store.devices(DPID, "c1", NOW)] == [uuid(n) for n in sorted(order, reverse=True)]
    assert rows(store, latest_only=True) == [("c1", uuid(10**38 - 1), NOW)]


def test_the_oldest_devices_go_past_the_limit(store: MappingStore) -> None:
    for device in range(1, 9):
        store.record([sync("c1", device, NOW - 100 + device)])
    store.record([sync("c1", 9, NOW - 500)])
    assert [device.uuid for device in store.devices(DPID, "c1", NOW)] == [uuid(n) for n in (8, 7, 6, 5, 4)]
    store.record([sync("c1", 1, NOW)])
    assert [device.uuid for device in store.devices(DPID, "c1", NOW)] == [uuid(n) for n in (1, 8, 7, 6, 5)]
    assert store.count(NOW) == {DPID: Count(customers=1, mappings=5)}


unused_dpids = count(1_000_000)
facts = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 8), st.integers(0, 30)), min_size=1, max_size=30)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(facts, st.randoms(use_true_random=False))
def test_syncs_commute_and_can_be_repeated(
    store: MappingStore, said: list[tuple[str, int, int]], order: random.Random
) -> None:
    """Every order, with repeats, ends where the plain definition says: the five latest of each pair's latest time."""
    repeated = order.sample(said, len(said)) + order.sample(said, len(said))
    dpids = (next(unused_dpids), next(unused_dpids))
    for dpid, shuffled in zip(dpids, (said, repeated), strict=True):
        for start in range(0, len(shuffled), 7):
            store.record([sync(name, n, NOW - 60 + at, dpid=dpid) for name, n, at in shuffled[start : start + 7]])
    for customer in "abc":
        latest: dict[int, int] = {}
        for name, number, at in said:
            if name == customer:
                latest[number] = max(latest.get(number, 0), NOW - 60 + at)
        expected = sorted(((at, uuid(number)) for number, at in latest.items()), reverse=True)[:5]
        for dpid in dpids:
            assert store.devices(dpid, customer, NOW) == [Device(name, at) for at, name in expected]


def test_ids_are_compared_byte_for_byte(store: MappingStore) -> None:
    store.record([sync(customer, number) for number, customer in enumerate(TRICKY)])
    for number, customer in enumerate(TRICKY):
        assert store.devices(DPID, customer, NOW) == [Device(uuid(number), NOW)]
    expected = sorted((customer, uuid(number), NOW) for number, customer in enumerate(TRICKY))
    assert sorted(rows(store)) == expected
    assert sorted(rows(store, customer_ids=TRICKY)) == expected
    assert rows(store, customer_ids=["user", "0007", " 7", "7 "]) == []


# --- a UUID for a customer -------------------------------------------------------------------------------------------


def test_an_unknown_customer_gets_the_fresh_uuid_and_keeps_it(store: MappingStore) -> None:
    assert store.record([sync("c1", None, NOW - 2, fresh=7)]) == [uuid(7)]
    assert store.record([sync("c1", None, NOW - 1, fresh=8)]) == [uuid(7)]
    assert store.devices(DPID, "c1", NOW) == [Device(uuid(7), NOW - 1)]


def test_a_known_customer_gets_the_latest_uuid(store: MappingStore) -> None:
    store.record([sync("c1", 1, NOW - 3), sync("c1", 2, NOW - 2)])
    assert store.record([sync("c1", None, NOW, fresh=8)]) == [uuid(2)]
    assert store.record([sync("c2", None, NOW, fresh=8), sync("c2", None, NOW, fresh=9)]) == [uuid(8), uuid(8)]


def test_without_a_uuid_and_a_fresh_one_only_known_customers_are_seen(store: MappingStore) -> None:
    store.record([sync("known", 1, NOW - 5)])
    asked = [Sync(DPID, name, None, "", NOW) for name in ("known", "unknown")]
    assert store.record(asked) == [uuid(1), ""]
    assert rows(store) == [("known", uuid(1), NOW)]


def test_the_latest_device_of_several_customers(store: MappingStore) -> None:
    store.record([sync("a", 1, NOW - 5), sync("a", 2, NOW), sync("b", 3), sync("c", 4, dpid=7)])
    store.record([sync("old", 5, NOW - LIFETIME)])
    asked = [(DPID, "b"), (DPID, "unknown"), (7, "c"), (DPID, "a"), (DPID, "old"), (7, "a"), (DPID, "b")]
    b = Device(uuid(3), NOW)
    assert store.latest(asked, NOW) == [b, None, Device(uuid(4), NOW), Device(uuid(2), NOW), None, None, b]
    assert store.latest([], NOW) == []


# --- lifetime --------------------------------------------------------------------------------------------------------


def test_past_its_lifetime_a_mapping_is_invisible_before_any_sweep(store: MappingStore) -> None:
    store.record([sync("c1", 1, NOW - LIFETIME), sync("c2", 2, NOW - LIFETIME + 1), sync("c3", 3, NOW - LIFETIME)])
    store.record([sync("c3", 4, NOW - 5)])
    assert store.devices(DPID, "c1", NOW) == []
    assert store.devices(DPID, "c3", NOW) == [Device(uuid(4), NOW - 5)]
    for only in (False, True):
        assert sorted(rows(store, latest_only=only)) == [("c2", uuid(2), NOW - LIFETIME + 1), ("c3", uuid(4), NOW - 5)]
        assert rows(store, customer_ids=["c1", "c2"], latest_only=only) == [("c2", uuid(2), NOW - LIFETIME + 1)]
    assert store.count(NOW) == {DPID: Count(2, 2)}
    assert store.record([sync("c1", None, NOW, fresh=50)]) == [uuid(50)]


def test_a_sync_starts_the_lifetime_again(store: MappingStore) -> None:
    store.record([sync("c1", 1, NOW - LIFETIME), sync("c2", 1, NOW - LIFETIME)])
    store.record([sync("c1", 1, NOW - 1)])
    assert store.devices(DPID, "c1", NOW) == [Device(uuid(1), NOW - 1)]
    assert store.devices(DPID, "c1", NOW + LIFETIME - 2) == [Device(uuid(1), NOW - 1)]
    assert store.devices(DPID, "c1", NOW + LIFETIME - 1) == []


def test_the_sweep_removes_exactly_what_has_expired(store: MappingStore) -> None:
    store.record([sync(f"old{number}", number, NOW - LIFETIME - number) for number in range(500)])
    store.record([sync(f"new{number}", number, NOW - LIFETIME + 1 + number) for number in range(500)])
    store.record([sync("both", 1, NOW - LIFETIME), sync("both", 2, NOW), sync("other", 3, NOW - LIFETIME, dpid=7)])
    assert store.sweep(NOW) == 502
    earlier = NOW - LIFETIME  # when all of them were visible
    assert store.count(earlier) == {DPID: Count(501, 501)}
    assert store.devices(DPID, "both", earlier) == [Device(uuid(2), NOW)]
    assert store.sweep(NOW) == 0


# --- export ----------------------------------------------------------------------------------------------------------


def test_an_export_crosses_batches_without_loss(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Customers with several devices straddle borders of every kind."""
    monkeypatch.setattr("idsync.store.sqlite._BATCH_ROWS", 7)
    monkeypatch.setattr("idsync.store.sqlite._SUBSET_CUSTOMERS", 7)
    monkeypatch.setattr("idsync.store.redis._BATCH_ROWS", 7)
    monkeypatch.setattr("idsync.store.redis._PIPELINE", 3)
    monkeypatch.setattr("idsync.store.redis._SUBSET_PIPELINE", 3)
    store = kind.open()
    chance = random.Random(1)
    expected = {}
    for number in range(120):
        devices = [(NOW - at, uuid(chance.randrange(10**38))) for at in range(chance.choice([1, 1, 1, 2, 5]))]
        chance.shuffle(devices)
        expected[f"c{number}"] = sorted(devices, reverse=True)
        store.record([Sync(DPID, f"c{number}", name, "", at) for at, name in devices])
    store.record([sync(f"c4-expired-{number}", 1, NOW - LIFETIME) for number in range(30)])  # whole batches
    for wanted in (None, list(expected), list(expected)[20:60]):
        names = expected if wanted is None else wanted
        got = rows(store, customer_ids=wanted)
        by_customer: dict[str, list[tuple[int, str]]] = {}
        for customer, name, at in got:
            by_customer.setdefault(customer, []).append((at, name))
        assert by_customer == {customer: expected[customer] for customer in names}
        together = [customer for index, (customer, *_) in enumerate(got) if index == 0 or got[index - 1][0] != customer]
        assert len(together) == len(names)  # the rows of a customer are adjacent
        latest = rows(store, customer_ids=wanted, latest_only=True)
        assert sorted(latest) == sorted((customer, *reversed(expected[customer][0])) for customer in names)
    store.close()


def test_the_parts_of_an_export_make_the_whole(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idsync.store.sqlite._BATCH_ROWS", 7)
    store = kind.open()
    store.record([sync(f"c{number}", device) for number in range(100) for device in (1, 2)])
    store.record([sync("c0", 1, dpid=7), sync("x", 1, dpid=7)])
    for most in (1, 3, 50):
        parts = store.parts(DPID, most)
        assert 1 <= len(parts) <= most
        exported = [batch for part in parts for batch in store.export(DPID, NOW, part=part)]
        assert sorted(name for batch in exported for name in batch.column("customer_id").to_pylist()) == sorted(
            name for name, *_ in rows(store)
        )
    store.close()


def test_an_export_has_everything_recorded_before_it_while_others_write(kind: Kind) -> None:
    store, writer = kind.open(), kind.open()
    before = {f"c{number}" for number in range(3000)}
    store.record([sync(customer, 1, NOW - 9) for customer in before])
    got = set()
    for batch in store.export(DPID, NOW):
        got |= set(batch.column("customer_id").to_pylist())
        writer.record([sync(f"later{len(got)}", 2), sync("c1", 3)])
    assert before <= got
    store.close()
    writer.close()


def test_a_sample_is_of_visible_customers_each_once(store: MappingStore) -> None:
    assert store.sample(DPID, NOW, 10) == []
    names = {f"c{number}" for number in range(300)}
    store.record([sync(name, device) for name in names for device in (1, 2)])
    store.record([sync("old", 3, NOW - LIFETIME), sync("other", 4, dpid=7)])
    for most in (1, 10, 250):
        found = store.sample(DPID, NOW, most)
        assert most * 0.4 <= len(found) == len(set(found)) <= most
        assert names.issuperset(found)
    assert set(store.sample(DPID, NOW, 10_000)) == names


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["redis", "cluster", "folder", "file"])
def unreachable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MappingStore]:
    (tmp_path / "file").write_text("in the way")
    urls = {
        "redis": "redis://127.0.0.1:1/0",
        "cluster": "redis+cluster://127.0.0.1:1",
        "folder": f"sqlite:///{tmp_path}",
        "file": f"sqlite:///{tmp_path / 'file' / 'idsync.db'}",
    }
    opened = Kind(urls[request.param]).open()
    yield opened
    opened.close()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_store_out_of_reach_says_so_at_every_operation(unreachable: MappingStore, operation: str) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        OPERATIONS[operation](unreachable)
    assert caught.value.mend
    assert caught.value.exit_status == 75
