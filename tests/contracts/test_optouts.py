"""What every mapping store promises of opt-outs (`idsync.store.base.MappingStore`), on each kind of store."""

import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from idsync.store import DAY, codec
from idsync.store.base import OPTED_OUT, Count, Device, MappingStore, Pair
from idsync.store.optouts import OptedOutDevices, OptOut, customer_token, device_token
from tests.contracts.stores import DPID, NOW, Kind, rows, sync, uuid
from tests.servers import RedisServer

LATER = NOW + 4_000 * DAY


def out_of(*customers: str, devices: Sequence[int] = (), at: int = NOW, along: bool = True, dpid: int = DPID) -> OptOut:
    return OptOut(tuple((dpid, each) for each in customers), tuple(uuid(each) for each in devices), at, along)


# --- a customer ------------------------------------------------------------------------------------------------------


def test_an_opted_out_customer_loses_every_mapping_and_gets_none(kind: Kind, store: MappingStore) -> None:
    store.record([sync("c1", 1, NOW - 9), sync("c1", 2, NOW - 5), sync("c2", 3)])
    assert store.opt_out(out_of("c1")) == 2
    assert store.devices(DPID, "c1", NOW) == []
    assert store.latest([(DPID, "c1"), (DPID, "c2")], NOW) == [None, Device(uuid(3), NOW)]
    assert rows(store) == rows(store, customer_ids=["c1", "c2"]) == [("c2", uuid(3), NOW)]
    with closing(kind.open()) as other:
        told = other.record([sync("c1", 7), sync("c1", None, fresh=8), sync("c1", None), sync("c2", 3)])
        assert told == [OPTED_OUT, OPTED_OUT, OPTED_OUT, uuid(3)]
        assert other.devices(DPID, "c1", NOW) == []
        assert other.count(NOW) == {DPID: Count(customers=1, mappings=1)}
    assert store.find([uuid(1), uuid(7), uuid(8)]) == []


def test_the_device_that_was_linked_last_goes_along(store: MappingStore) -> None:
    store.record([sync("c1", 1, NOW - 9), sync("c1", 2, NOW - 5), sync("c1", 3, NOW - 130 * DAY)])
    store.opt_out(out_of("c1"))
    assert store.record([sync("c2", 2), sync("c2", 1), sync("c2", 3)]) == [OPTED_OUT, uuid(1), uuid(3)]
    assert store.opted_out([(DPID, "c1"), (DPID, "c2")], [uuid(1), uuid(2)]) == [NOW, None, None, NOW]


def test_a_device_past_its_lifetime_does_not_go_along(store: MappingStore) -> None:
    store.record([sync("c1", 1, NOW - 121 * DAY)])
    assert store.opt_out(out_of("c1")) == 1
    assert store.record([sync("c2", 1)]) == [uuid(1)]


def test_no_device_goes_along_where_one_was_named(store: MappingStore) -> None:
    store.record([sync("c1", 1), sync("c2", 2)])
    store.opt_out(out_of("c1", devices=[2], along=False))
    assert store.record([sync("c3", 1), sync("c3", 2)]) == [uuid(1), OPTED_OUT]


def test_a_customer_is_one_of_its_data_source_alone(store: MappingStore) -> None:
    store.opt_out(out_of("c1"))
    assert store.record([sync("c1", 1, dpid=777), sync("C1", 2), sync(" c1", 3)]) == [uuid(1), uuid(2), uuid(3)]


# --- a device --------------------------------------------------------------------------------------------------------


def test_an_opted_out_device_is_seen_by_no_operation(store: MappingStore) -> None:
    store.record([sync("c1", 1, NOW - 9), sync("c1", 2, NOW - 5), sync("c2", 2), sync("c3", 3)])
    assert store.opt_out(out_of(devices=[2])) == 0
    assert store.devices(DPID, "c1", NOW) == [Device(uuid(1), NOW - 9)]
    assert store.latest([(DPID, "c1"), (DPID, "c2")], NOW) == [Device(uuid(1), NOW - 9), None]
    expected = [("c1", uuid(1), NOW - 9), ("c3", uuid(3), NOW)]
    assert sorted(rows(store)) == sorted(rows(store, latest_only=True)) == expected
    assert sorted(rows(store, customer_ids=["c1", "c2", "c3"], latest_only=True)) == expected
    assert store.count(NOW) == {DPID: Count(customers=2, mappings=2)}


def test_an_opted_out_device_is_not_recorded_but_its_customer_is(store: MappingStore) -> None:
    store.record([sync("c1", 1, NOW - 9), sync("c1", 2, NOW - 5), sync("c2", 2)])
    store.opt_out(out_of(devices=[2]))
    told = store.record([sync("c1", 2), sync("c9", 2), sync("c1", None, fresh=8), sync("c2", None, fresh=8)])
    assert told == [OPTED_OUT, OPTED_OUT, uuid(1), uuid(8)]
    assert store.record([sync("c4", 2), sync("c4", None)._replace(fresh="")]) == [OPTED_OUT, ""]
    assert store.devices(DPID, "c1", NOW) == [Device(uuid(1), NOW)]
    assert store.devices(DPID, "c9", NOW) == store.devices(DPID, "c4", NOW) == []


def test_all_devices_of_a_customer_can_be_out(store: MappingStore) -> None:
    store.record([sync("c1", number, NOW - number) for number in range(5)])
    store.opt_out(out_of(devices=range(5)))
    assert store.record([sync("c1", None, fresh=8)]) == [uuid(8)]
    assert store.devices(DPID, "c1", NOW) == [Device(uuid(8), NOW)]


def test_the_sweep_removes_what_opted_out_devices_left(store: MappingStore) -> None:
    store.record([sync("c1", 1), sync("c1", 2), sync("c2", 2), sync("c3", 2, dpid=777), sync("c4", 4, NOW - 121 * DAY)])
    store.opt_out(out_of(devices=[2]))
    assert store.sweep(NOW) == 4
    assert store.find([uuid(2)]) == []
    assert store.opt_in([], [uuid(2)]) == 1
    assert store.devices(DPID, "c2", NOW) == []
    assert rows(store) == [("c1", uuid(1), NOW)]


def test_devices_whose_numbers_end_alike_are_told_apart(store: MappingStore) -> None:
    twin = 10**20 + 2
    store.record([sync("c1", 2), sync("c1", twin, NOW - 1)])
    store.opt_out(out_of(devices=[2]))
    assert rows(store) == [("c1", uuid(twin), NOW - 1)]
    assert store.count(NOW) == {DPID: Count(1, 1)}
    assert store.sweep(NOW) == 1
    assert store.devices(DPID, "c1", NOW) == [Device(uuid(twin), NOW - 1)]


# --- for ever, and back ----------------------------------------------------------------------------------------------


def test_opt_outs_outlive_everything(store: MappingStore) -> None:
    store.record([sync("c1", 1)])
    store.opt_out(out_of("c1"))
    store.sweep(LATER)
    store.record([sync(f"c{number}", number, LATER) for number in range(100, 400)])
    assert store.record([sync("c1", 9, LATER), sync("c2", 1, LATER)]) == [OPTED_OUT, OPTED_OUT]
    assert store.opted_out([(DPID, "c1")], [uuid(1)]) == [NOW, NOW]


def test_an_opt_out_can_be_repeated_and_keeps_its_first_time(store: MappingStore) -> None:
    store.record([sync("c1", 1)])
    assert [store.opt_out(out_of("c1", devices=[5], at=NOW + at)) for at in range(3)] == [1, 0, 0]
    assert store.opted_out([(DPID, "c1")], [uuid(1), uuid(5)]) == [NOW, NOW, NOW]
    assert dict(store.opt_outs()) == {
        customer_token(DPID, "c1").name: NOW,
        device_token(uuid(1)).name: NOW,
        device_token(uuid(5)).name: NOW,
    }


def test_an_opt_in_reverses_one_and_brings_nothing_back(store: MappingStore) -> None:
    store.record([sync("c1", 1), sync("c2", 2)])
    store.opt_out(out_of("c1"))
    store.opt_out(out_of("c2"))
    assert store.opt_in([(DPID, "c1"), (DPID, "c3")], []) == 2  # with the device that went along
    assert store.devices(DPID, "c1", NOW) == []
    assert store.record([sync("c1", 1), sync("c1", 2)]) == [uuid(1), OPTED_OUT]
    assert store.opt_in([], [uuid(2)]) == 1
    assert store.record([sync("c1", 2), sync("c2", 2)]) == [uuid(2), OPTED_OUT]
    assert store.opt_in([(DPID, "c2")], []) == 1
    assert store.opt_outs() == {}


@pytest.mark.parametrize("own_first", [True, False])
def test_a_device_opted_out_on_its_own_account_stays_so(store: MappingStore, *, own_first: bool) -> None:
    store.record([sync("c1", 1)])
    opt_outs = [out_of("c1"), out_of(devices=[1], at=NOW + 1)]
    for opt_out in opt_outs[::-1] if own_first else opt_outs:
        store.opt_out(opt_out)
    assert store.opt_in([(DPID, "c1")], []) == 1
    assert store.record([sync("c1", 1), sync("c1", 2)]) == [OPTED_OUT, uuid(2)]
    assert store.opted_out([], [uuid(1)]) == [NOW + own_first]


def test_many_opt_outs_are_told_each_once(store: MappingStore) -> None:
    store.opt_out(out_of(*[f"c{number}" for number in range(5_000)]))
    assert store.opt_outs() == {customer_token(DPID, f"c{number}").name: NOW for number in range(5_000)}
    assert store.record([sync(f"c{number}", 1) for number in range(0, 5_001, 1_000)]) == [OPTED_OUT] * 5 + [uuid(1)]


# --- races -----------------------------------------------------------------------------------------------------------


TURNS = 100_000  # more than anybody needs until the opt-out is answered


def test_from_the_answer_on_no_worker_records_the_customer(kind: Kind) -> None:
    """Four workers record a customer as fast as they can; none is told of a UUID once the opt-out was answered."""
    answered = threading.Event()

    def work(number: int) -> list[str]:
        late = []
        with closing(kind.open()) as store:
            for turn in range(TURNS):
                sure = answered.is_set()
                (told,) = store.record([sync("c1", None if turn % 2 else number, NOW + turn, fresh=number)])
                late += [told] * sure
                if len(late) > 20:
                    break
        return late

    with ThreadPoolExecutor(4) as workers, closing(kind.open()) as store:
        store.record([sync("c1", 1)])
        working = [workers.submit(work, number) for number in range(1, 5)]
        store.opt_out(out_of("c1", at=NOW + 1_000, along=False))
        answered.set()
        told = [uuid for each in working for uuid in each.result()]
        assert told
        assert set(told) == {OPTED_OUT}
        assert store.devices(DPID, "c1", NOW) == []
        assert store.find([uuid(number) for number in range(1, 5)]) == []


def test_from_the_answer_on_no_worker_records_the_device(kind: Kind) -> None:
    answered = threading.Event()

    def work(number: int) -> list[str]:
        late = []
        with closing(kind.open()) as store:
            for turn in range(TURNS):
                sure = answered.is_set()
                (told,) = store.record([sync(f"c{number}", 1, NOW + turn)])
                late += [told] * sure
                if len(late) > 20:
                    break
        return late

    with ThreadPoolExecutor(4) as workers, closing(kind.open()) as store:
        working = [workers.submit(work, number) for number in range(4)]
        store.opt_out(out_of(devices=[1], at=NOW + 1_000))
        answered.set()
        told = [uuid for each in working for uuid in each.result()]
        assert told
        assert set(told) == {OPTED_OUT}
        assert rows(store) == []


# --- the whole, against a plain model --------------------------------------------------------------------------------

unused_dpids = count(2_000_000)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("sync"), st.sampled_from("ab"), st.one_of(st.none(), st.integers(1, 4))),
        st.tuples(st.just("out"), st.sampled_from("ab"), st.booleans()),
        st.tuples(st.just("device-out"), st.integers(1, 4), st.none()),
        st.tuples(st.just("in"), st.sampled_from("ab"), st.none()),
        st.tuples(st.just("device-in"), st.integers(1, 4), st.none()),
        st.tuples(st.just("sweep"), st.none(), st.none()),
    ),
    max_size=25,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(steps)
def test_any_order_of_syncs_and_opt_outs(store: MappingStore, script: list[tuple[str, object, object]]) -> None:
    """Devices have numbers of their own in each example, as they belong to no data source."""
    dpid = next(unused_dpids)
    base = dpid * 1000
    held: dict[str, dict[int, int]] = {"a": {}, "b": {}}
    customers_out: set[object] = set()
    devices_out: dict[int, str] = {}  # and with whom it went along
    for turn, (what, first, second) in enumerate(script):
        now, fresh = NOW + turn, base + 50 + turn
        if what == "sync":
            number = None if second is None else base + int(str(second))
            visible = {each: at for each, at in held[str(first)].items() if each not in devices_out}
            expected = number if number is not None else max(visible, key=lambda each: visible[each], default=fresh)
            (told,) = store.record([sync(str(first), number, now, dpid=dpid, fresh=fresh)])
            if first in customers_out or expected in devices_out:
                assert told == OPTED_OUT
            else:
                assert told == uuid(expected)
                held[str(first)][expected] = now
                while len(held[str(first)]) > 5:
                    del held[str(first)][min(held[str(first)], key=lambda each: held[str(first)][each])]
        elif what == "out":
            known = held[str(first)]
            if second and known:
                devices_out.setdefault(max(known, key=lambda each: known[each]), str(first))
            store.opt_out(out_of(str(first), at=now, along=bool(second), dpid=dpid))
            customers_out.add(first)
            known.clear()
        elif what == "device-out":
            store.opt_out(OptOut((), (uuid(base + int(str(first))),), now, takes_devices=True))
            devices_out[base + int(str(first))] = ""
        elif what == "in":
            store.opt_in([(dpid, str(first))], [])
            customers_out.discard(first)
            devices_out = {each: owner for each, owner in devices_out.items() if owner != first}
        elif what == "device-in":
            store.opt_in([], [uuid(base + int(str(first)))])
            devices_out.pop(base + int(str(first)), None)
        else:
            store.sweep(now)
            held = {name: {each: at for each, at in of.items() if each not in devices_out} for name, of in held.items()}
    now = NOW + len(script)
    visible_now = {
        name: sorted(((at, uuid(each)) for each, at in of.items() if each not in devices_out), reverse=True)
        for name, of in held.items()
    }
    for name, expected_devices in visible_now.items():
        assert store.devices(dpid, name, now) == [Device(name_, at) for at, name_ in expected_devices]
    counted = store.count(now).get(dpid, Count(0, 0))
    assert counted == Count(sum(map(bool, visible_now.values())), sum(map(len, visible_now.values())))


# --- finding, removing, leaving nothing ------------------------------------------------------------------------------


def test_find_and_remove_see_what_is_hidden_or_old(store: MappingStore) -> None:
    store.record([sync("c1", 1, NOW - 200 * DAY), sync("c1", 2), sync("c2", 1, dpid=777), sync("c3", 3)])
    store.opt_out(out_of(devices=[1]))
    found = store.find([uuid(1), uuid(9)])
    assert sorted(found) == [Pair(777, "c2", uuid(1)), Pair(DPID, "c1", uuid(1))]
    assert store.remove([*found, Pair(DPID, "c3", uuid(1)), Pair(DPID, "nobody", uuid(1))]) == 2
    assert store.find([uuid(1)]) == []
    assert [Device(uuid(2), NOW)] == store.devices(DPID, "c1", NOW)


def held_bytes(kind: Kind, servers: Sequence[RedisServer]) -> bytes:
    """Everything that the store holds, on disk or in memory."""
    if kind.url.startswith("sqlite"):
        folder = Path(kind.url.removeprefix("sqlite:///")).parent
        return b"".join(path.read_bytes() for path in folder.iterdir())
    found = []
    for server in servers:
        with server.client() as client:
            for key in client.scan_iter():
                found += [key.encode() if isinstance(key, str) else key]
                if client.type(key) in {b"hash", "hash"}:
                    found += [part for pair in client.hgetall(key).items() for part in pair]
    return b"\n".join(part.encode() if isinstance(part, str) else part for part in found)


def test_nothing_of_an_erased_id_is_left(kind: Kind, request: pytest.FixtureRequest) -> None:
    """Amid much that stays, and after rows were moved, evicted and swept: neither the ID nor its packed form."""
    servers: list[RedisServer] = []
    if kind.url.startswith("redis+cluster"):
        servers = request.getfixturevalue("shared_cluster")
    elif kind.url.startswith("redis"):
        servers = [request.getfixturevalue("shared_redis")]
    marked, device = "person-4711-wanted", int("31415926535897932384626433832795028841")
    texts = (marked.encode(), uuid(device).encode(), codec.pack_uuid(uuid(device)))
    chance = random.Random(5)
    with closing(kind.open()) as store:
        for turn in range(60):
            store.record([sync(f"other-{chance.getrandbits(40)}", turn, NOW) for _ in range(20)])
            store.record([sync(marked, turn if turn % 3 else device, NOW - turn), sync(f"c{turn}", device, NOW - turn)])
        with closing(kind.open()) as beside:  # a worker that has the store open
            beside.record([sync("c1", 1)])
            held = held_bytes(kind, servers)
            assert marked.encode() in held
            assert any(text in held for text in texts[1:])
            store.opt_out(out_of(marked, devices=[device], at=NOW))
            assert store.remove(store.find([uuid(device)])) > 10
            assert store.scrub()
            held = held_bytes(kind, servers)
            assert [text for text in texts if text in held] == []
            assert store.record([sync(marked, 1), sync("c1", device)]) == [OPTED_OUT, OPTED_OUT]
            held = held_bytes(kind, servers)
            assert [text for text in texts if text in held] == []


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_tokens_hold_no_id() -> None:
    assert customer_token(12345, "é").name == "12345:d523fe1e7c69870e2a3b103bb19bae72dc6cc4c5"
    assert device_token("0" * 37 + "1") == ("uuid:acc50a2d1f13894d2d75fcb80dc1d9136005b029", "0" * 7 + "1", "")


def test_devices_are_found_in_slices() -> None:
    numbers = [*range(20), 10**20 + 3]
    column = pa.array([uuid(number) for number in numbers])
    devices = OptedOutDevices([device_token(uuid(3)), device_token(uuid(7))])
    assert [numbers[at] for at in devices.among(column).nonzero()[0]] == [3, 7]
    assert devices.among(column.slice(5, 6)).tolist() == [False, False, True, False, False, False]
    assert not OptedOutDevices([]).among(column).any()
    assert devices.among(column.slice(0, 0)).tolist() == []
