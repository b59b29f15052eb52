"""What every mapping store promises (`idsync.store.base.MappingStore`), on each kind of store."""

import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.crc import key_slot

from idsync import config
from idsync.errors import ConfigError, StoreMisconfigured, StoreUnavailable
from idsync.store import codec
from idsync.store.base import Count, Device, MappingStore, Sync
from tests.contracts.stores import DPID, LIFETIME, NOW, Kind, rows, sync, uuid
from tests.servers import Proxy, RedisServer, free_port, redis_cluster, redis_server, settled, wait_until

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


def test_racing_processes_agree_on_the_uuid_of_a_new_customer(kind: Kind) -> None:
    """Eight connections, twenty new customers each asks for at once."""
    stores = [kind.open() for _ in range(8)]
    with ThreadPoolExecutor(len(stores)) as pool:
        for customer in range(20):
            asked = [
                pool.submit(each.record, [sync(f"new{customer}", None, fresh=100 + number)])
                for number, each in enumerate(stores)
            ]
            assert len({answer.result()[0] for answer in asked}) == 1
    assert stores[0].count(NOW) == {DPID: Count(20, 20)}
    for each in stores:
        each.close()


def test_many_writers_lose_nothing(kind: Kind) -> None:
    def write(number: int) -> None:
        own = kind.open()
        for at in range(40):
            own.record([sync(f"c{at}", number + 1, NOW - at), sync(f"own{number}-{at}", 1)])
        own.close()

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(write, range(5)))
    store = kind.open()
    assert store.count(NOW) == {DPID: Count(customers=40 + 200, mappings=40 * 5 + 200)}
    store.close()


RACER = f"""
import sys
from idsync.settings import Store
from idsync.store import open_store
from idsync.store.base import Sync
url, number = sys.argv[1], int(sys.argv[2])
store = open_store(Store(url=url, buckets=64, devices_per_customer=5))
print("ready", flush=True)
sys.stdin.readline()
for at in range(100):
    new = Sync({DPID}, f"new{{at}}", None, str(100 + number).zfill(38), {NOW})
    shared = Sync({DPID}, f"c{{at}}", str(number + 1).zfill(38), "", {NOW} - at)
    own = Sync({DPID}, f"own{{number}}-{{at}}", "1".zfill(38), "", {NOW})
    print(store.record([new, shared, own])[0])
"""


def test_racing_processes_lose_nothing_and_agree(kind: Kind) -> None:
    """Processes, not threads: SQLite settles the two in different ways. None of them closes its store."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, kind.url, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=120)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert len(answers[0]) == 100
    assert answers[0] == answers[1] == answers[2] == answers[3]
    store = kind.open()
    assert store.count(NOW) == {DPID: Count(customers=100 + 100 + 400, mappings=100 + 400 + 400)}
    store.close()


def elsewhere(kind: Kind, statement: str) -> str:
    """What another process prints, that opens `store`, runs `statement` and closes it."""
    program = (
        "import sys\n"
        "from idsync.settings import Store\n"
        "from idsync.store import open_store\n"
        "from idsync.store.base import Sync\n"
        "store = open_store(Store(url=sys.argv[1], buckets=64, devices_per_customer=5))\n"
        f"{statement}\n"
        "store.close()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program, kind.url], check=True, timeout=60, capture_output=True, text=True
    ).stdout


def customers_elsewhere(kind: Kind) -> set[str]:
    found = elsewhere(kind, f"for batch in store.export({DPID}, {NOW}): print(*batch.column(0).to_pylist())")
    return set(found.split())


@pytest.mark.parametrize("subset", [None, ["before"]])
def test_what_is_recorded_after_an_export_is_kept(
    store: MappingStore, kind: Kind, subset: Sequence[str] | None
) -> None:
    """A second SQLite library in the process, for the export, dropped the locks of the first: see `store.sqlite`."""
    store.record([sync("before", 1)])
    assert len(rows(store, customer_ids=subset)) == 1
    elsewhere(kind, f"store.record([Sync({DPID}, 'other', '{uuid(2)}', '', {NOW})])")
    store.record([sync("after", 3)])
    assert customers_elsewhere(kind) == {"before", "other", "after"}


def test_an_answered_sync_survives_the_death_of_its_process(kind: Kind) -> None:
    """The child records, tells so, and is killed -9 by itself before it could close anything."""
    program = (
        "import os, signal, sys\n"
        "from idsync.settings import Store\n"
        "from idsync.store import open_store\n"
        "from idsync.store.base import Sync\n"
        "store = open_store(Store(url=sys.argv[1], buckets=64))\n"
        f"store.record([Sync({DPID}, 'c1', '{uuid(1)}', '', {NOW})])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, kind.url], check=False, timeout=60)
    assert ended.returncode == -9
    store = kind.open()
    assert store.devices(DPID, "c1", NOW) == [Device(uuid(1), NOW)]
    store.close()


def test_a_store_opened_before_a_fork_works_on_both_sides(store: MappingStore) -> None:
    store.record([sync("before", 1)])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            store.record([sync("child", 2)])
            code = 0 if store.devices(DPID, "before", NOW) else 1
        finally:
            os._exit(code)
    store.record([sync("parent", 3)])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert {row[0] for row in rows(store)} == {"before", "child", "parent"}


def test_a_fork_loses_nothing_when_the_parent_ends_first(store: MappingStore, kind: Kind) -> None:
    store.record([sync("before", 1)])
    to_child, from_child = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        store.record([sync("first", 2)])
        os.write(from_child[1], b"x")
        os.read(to_child[0], 1)
        store.record([sync("second", 3)])
        os.kill(os.getpid(), signal.SIGKILL)
    os.read(from_child[0], 1)
    store.close()
    os.write(to_child[1], b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    for end in (*to_child, *from_child):
        os.close(end)
    assert customers_elsewhere(kind) == {"before", "first", "second"}


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

OPERATIONS: dict[str, Callable[[MappingStore], object]] = {
    "record": lambda store: store.record([sync("c1", 1)]),
    "devices": lambda store: store.devices(DPID, "c1", NOW),
    "latest": lambda store: store.latest([(DPID, "c1")], NOW),
    "export": lambda store: list(store.export(DPID, NOW)),
    "subset": lambda store: list(store.export(DPID, NOW, customer_ids=["c1"])),
    "sweep": lambda store: store.sweep(NOW),
    "count": lambda store: store.count(NOW),
    "check": lambda store: store.check(),
}


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


def test_redis_that_stops_and_comes_back(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        store = Kind(server.url).open()
        store.record([sync("c1", 1)])
        server.stop()
        for operation in OPERATIONS.values():
            with pytest.raises(StoreUnavailable):
                operation(store)
        server.start()
        assert store.devices(DPID, "c1", NOW) == [Device(uuid(1), NOW)]
        store.record([sync("c2", 2)])  # the scripts are unknown to the new process
        store.check()
        store.close()


def test_redis_killed_after_an_answer_still_has_the_mapping(tmp_path: Path) -> None:
    """With `everysec` it may not: while a sync is under way Redis answers without writing to its log."""
    with redis_server(tmp_path, "--appendfsync", "always") as server:
        store = Kind(server.url).open()
        store.record([sync("c1", 1)])
        server.kill()
        server.start()
        assert store.devices(DPID, "c1", NOW) == [Device(uuid(1), NOW)]
        store.close()


def test_redis_that_takes_no_writes_can_be_read(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server, server.client() as client:
        first = Kind(server.url).open()
        first.record([sync("c1", 1)])
        first.close()
        client.config_set("maxmemory", "1")
        store = Kind(server.url).open()
        assert rows(store) == rows(store, customer_ids=["c1"]) == [("c1", uuid(1), NOW)]
        assert store.count(NOW) == {DPID: Count(1, 1)}
        store.close()


def test_redis_that_takes_no_writes(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server, server.client() as client:
        store = Kind(server.url).open()
        store.record([sync("c1", 1)])
        client.config_set("maxmemory", "1")
        for operation in ("record", "check"):
            with pytest.raises(StoreUnavailable, match="memory"):
                OPERATIONS[operation](store)
        client.config_set("maxmemory", "0")
        client.replicaof("127.0.0.1", "1")
        for operation in ("record", "check"):
            with pytest.raises(StoreUnavailable, match="read only"):
                OPERATIONS[operation](store)
        store.close()


AT_ONCE = ("--repl-diskless-sync-delay", "0")  # no waiting for more replicas to arrive


def test_a_replica_as_the_store_can_be_read_but_not_written(tmp_path: Path) -> None:
    with redis_server(tmp_path / "primary", *AT_ONCE) as primary, redis_server(tmp_path / "replica") as replica:
        Kind(primary.url).open().record([sync("c1", 1)])
        with replica.client() as client:
            client.replicaof("127.0.0.1", str(primary.port))
        wait_until(lambda: replica.replication().get("master_link_status") == "up", "the replica's link")
        for patient in (True, False):
            store = Kind(replica.url).open(patient=patient)
            assert rows(store) == [("c1", uuid(1), NOW)]
            for operation in ("record", "check"):
                with pytest.raises(StoreUnavailable, match="read only"):
                    OPERATIONS[operation](store)
            store.close()


def test_a_full_redis_refuses_and_recovers(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server, server.client() as client:
        store = Kind(server.url).open(patient=False)
        client.config_set("maxmemory", str(client.info("memory")["used_memory"] + 4_000_000))
        answered: set[str] = set()

        def fill() -> None:
            for number in range(1000):
                batch = [f"c{number}-{at}-{'x' * 200}" for at in range(200)]
                store.record([sync(customer, 1) for customer in batch])
                answered.update(batch)

        with pytest.raises(StoreUnavailable, match="memory"):
            fill()
        assert answered
        client.config_set("maxmemory", "0")
        store.record([sync("after", 1)])
        assert answered | {"after"} <= {row[0] for row in rows(store)}
        store.check()
        store.close()


@pytest.mark.parametrize("clustered", [False, True])
def test_readiness_wants_persistence_and_no_eviction(
    clustered: bool, shared_redis: RedisServer, shared_cluster: list[RedisServer]
) -> None:
    """Of a cluster: on every primary."""
    server = shared_cluster[2] if clustered else shared_redis
    for each in [shared_redis, *shared_cluster]:
        with each.client() as client:
            client.flushall()
    url = f"redis+cluster://127.0.0.1:{shared_cluster[0].port}" if clustered else shared_redis.url
    store, lenient = Kind(url).open(), Kind(url).open(persistence="unchecked")
    with server.client() as client:
        try:
            client.config_set("maxmemory-policy", "allkeys-lru")
            for each_store in (store, lenient):
                with pytest.raises(
                    StoreMisconfigured, match=rf"{server.port}.*maxmemory-policy is allkeys-lru"
                ) as caught:
                    each_store.check()
                assert "deploy/redis.conf" in caught.value.mend
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("appendonly", "no")
            lenient.check()
            with pytest.raises(StoreMisconfigured, match=rf"{server.port}.*appendonly is off") as caught:
                store.check()
            assert "deploy/redis.conf" in caught.value.mend
        finally:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("appendonly", "yes")
    store.check()
    store.close()
    lenient.close()


def test_a_redis_whose_disk_is_full_refuses_and_recovers(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        store = Kind(server.url).open(patient=False)
        store.record([sync("c1", 1)])
        answered = {"c1"}

        def refused() -> bool:  # Redis notices with the first write that fails, which it answers still
            try:
                store.record([sync(f"c{len(answered)}-more", 1)])
            except StoreUnavailable:
                return True
            answered.add(f"c{len(answered)}-more")
            return False

        server.limit_files(1)
        wait_until(refused, "the refusal")
        with pytest.raises(StoreUnavailable, match="append-only file failed"):
            store.check()
        server.limit_files(resource.RLIM_INFINITY)
        wait_until(lambda: not refused(), "the recovery")
        store.check()
        server.stop()
        server.start()
        assert answered <= {row[0] for row in rows(store)}
        store.close()


def test_a_restart_leaves_an_impatient_store_usable(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--appendfsync", "always") as server:
        store = Kind(server.url).open(patient=False)
        store.record([sync("c1", 1)])
        server.stop()
        server.start()
        store.record([sync("c2", 2)])  # on a fresh connection: a closed one is noticed before it is used
        server.kill()
        for operation in ("record", "check"):
            with pytest.raises(StoreUnavailable):
                OPERATIONS[operation](store)
        server.start()
        store.check()
        assert {row[0] for row in rows(store)} == {"c1", "c2"}
        store.close()


@pytest.mark.parametrize("clustered", [False, True])
def test_a_redis_that_hangs_is_given_up_within_two_seconds(tmp_path: Path, clustered: bool) -> None:
    """And what it says to the call that was given up is not taken for the answer to the next."""
    with ExitStack() as stack:
        if clustered:
            nodes = stack.enter_context(redis_cluster(tmp_path))
            url = f"redis+cluster://127.0.0.1:{nodes[0].port}"
        else:
            nodes = [stack.enter_context(redis_server(tmp_path))]
            url = nodes[0].url
        store = Kind(url).open(patient=False)
        store.record([sync(f"c{number}", 1) for number in range(50)])
        nodes[0].freeze()
        for operation in (lambda: store.record([sync(f"c{number}", 2) for number in range(50)]), store.check):
            start = time.monotonic()
            with pytest.raises(StoreUnavailable):
                operation()
            assert time.monotonic() - start < 2.2
        fresh = Kind(url).open(patient=False)
        start = time.monotonic()
        with pytest.raises(StoreUnavailable):
            fresh.record([sync("c1", 1)])
        assert time.monotonic() - start < 2.2
        nodes[0].thaw()
        wait_until(lambda: not clustered or all(node.in_agreement() for node in nodes), "the cluster's agreement")
        assert store.record([sync(f"c{number}", 3) for number in range(50)]) == [uuid(3)] * 50
        store.check()
        store.close()
        fresh.close()


def test_answers_of_a_call_that_was_given_up_are_not_taken_for_the_next(tmp_path: Path) -> None:
    """Two nodes hang; the first fails the call, so that the second owes answers that nobody has read."""
    with redis_cluster(tmp_path, extra=("--cluster-node-timeout", "15000")) as nodes:
        store = Kind(f"redis+cluster://127.0.0.1:{nodes[0].port}").open(patient=False)
        store.record([sync(f"c{number}", 1) for number in range(50)])
        [first] = [node for node in nodes if node.serves("ids:meta")]  # asked, and read, before the others
        second = next(node for node in nodes if node is not first)
        first.freeze()
        second.freeze()
        with pytest.raises(StoreUnavailable):
            store.record([sync(f"c{number}", 2) for number in range(50)])
        first.thaw()
        late = threading.Timer(0.2, second.thaw)
        late.start()
        assert store.record([sync(f"c{number}", 3) for number in range(50)]) == [uuid(3)] * 50
        late.join()
        store.close()


@pytest.mark.parametrize("way", ["asked", "answered"])
def test_a_connection_that_breaks_in_the_middle_of_a_pipeline(shared_redis: RedisServer, way: str) -> None:
    with shared_redis.client() as client:
        client.flushall()
    proxy = Proxy(shared_redis.port)
    url = f"redis://127.0.0.1:{proxy.port}/0"
    store, patient = Kind(url).open(patient=False), Kind(url).open()
    store.record([sync("c0", 0)])
    patient.record([sync("c0", 0)])
    for number, bytes_more in enumerate((0, 1, 7, 30, 100, 300, 500), start=1):
        batch = [sync(f"c{number}-{at}", 1000 * number + at) for at in range(30)]
        cuts = proxy.cuts
        proxy.cut_after(bytes_more, way)
        with pytest.raises(StoreUnavailable):
            store.record(batch)
        assert proxy.cuts == cuts + 1
        assert store.record(batch) == [each.uuid for each in batch]
        proxy.cut_after(bytes_more, way)
        assert patient.record(batch) == [each.uuid for each in batch]
        assert proxy.cuts == cuts + 2
    assert store.count(NOW) == {DPID: Count(1 + 7 * 30, 1 + 7 * 30)}
    store.close()
    patient.close()
    proxy.close()


def test_a_record_waits_for_as_many_replicas_as_asked_for(tmp_path: Path) -> None:
    with redis_server(tmp_path / "primary", *AT_ONCE) as primary, redis_server(tmp_path / "replica") as replica:
        store = Kind(primary.url).open(replicas=1, patient=False)
        with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
            store.record([sync("c1", 1)])
        with replica.client() as client:
            client.replicaof("127.0.0.1", str(primary.port))
        wait_until(lambda: replica.replication().get("master_link_status") == "up", "the replica's link")
        assert store.record([sync("c1", 1), sync("c2", 2)]) == [uuid(1), uuid(2)]
        store.check()
        replica.freeze()
        for _ in range(2):  # a second time there is nothing left to change, and still nobody to acknowledge it
            with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
                store.record([sync("c3", 3)])
        with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
            store.check()
        replica.thaw()
        wait_until(lambda: primary.replication()["connected_slaves"] == 1, "the replica's return")
        assert store.record([sync("c3", 3)]) == [uuid(3)]
        assert {row[0] for row in rows(Kind(replica.url).open())} == {"c1", "c2", "c3"}
        store.close()


def test_a_primary_killed_under_load_loses_nothing_that_a_replica_acknowledged(tmp_path: Path) -> None:
    with redis_cluster(tmp_path, replicas=1, extra=AT_ONCE) as nodes:
        victim = nodes[0]  # where the stores learn the cluster from, too
        kind = Kind(f"redis+cluster://127.0.0.1:{victim.port}")
        key = next(f"k{number}" for number in count() if victim.serves(f"k{number}"))
        answered: list[Sync] = []
        refused = count()
        stop = threading.Event()

        def write(number: int) -> None:
            store = kind.open(replicas=1, patient=False)
            for at in count():
                if stop.is_set():
                    break
                batch = [sync(f"c{number}-{at}-{each}", each, NOW - at) for each in range(5)]
                until = time.monotonic() + 60
                while True:
                    try:
                        assert store.record(batch) == [each.uuid for each in batch]
                        break
                    except StoreUnavailable:
                        next(refused)
                        if time.monotonic() > until:
                            raise
                answered.extend(batch)
            store.close()

        with ThreadPoolExecutor(4) as pool:
            writers = [pool.submit(write, number) for number in range(4)]
            try:
                wait_until(lambda: len(answered) > 500, "500 syncs")
                victim.kill()
                wait_until(lambda: any(node.serves(key) for node in nodes[1:]), "the failover")
                victim.start()
                wait_until(lambda: settled(nodes, 3, 1), "the return of the killed node", 40)
                before = len(answered)
                wait_until(lambda: len(answered) > before + 500, "500 syncs after the failover", 40)
            finally:
                stop.set()
            for writer in writers:
                writer.result()
        assert next(refused) > 0
        assert victim.replication()["role"] == "slave"
        store = kind.open(replicas=1)
        assert sorted(rows(store)) == sorted((each.customer_id, each.uuid, each.seen) for each in answered)
        store.check()
        store.close()


def test_a_slot_on_its_way_to_another_node_is_followed(tmp_path: Path) -> None:
    """The keys that have left answer ASK, once the slot has moved MOVED; both are written where they are now."""
    with redis_cluster(tmp_path) as nodes:  # of its own: nodes may take a while to agree on who has the slot
        store = Kind(f"redis+cluster://127.0.0.1:{nodes[0].port}", buckets=1).open(patient=False)
        store.record([sync("c1", 1)])
        key = codec.bucket_key(DPID, 0)
        slot = key_slot(key.encode())
        [source] = [node for node in nodes if node.serves(key)]
        target = next(node for node in nodes if node is not source)
        with source.client() as old, target.client() as new:
            names = {
                node.port: client.execute_command("CLUSTER MYID").decode()
                for node, client in ((source, old), (target, new))
            }
            new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", names[source.port])
            old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", names[target.port])
            old.execute_command("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
            assert store.record([sync("c2", 2)]) == [uuid(2)]
            for client in (new, old):
                client.execute_command("CLUSTER SETSLOT", slot, "NODE", names[target.port])
            assert store.record([sync("c3", 3)]) == [uuid(3)]
            assert {row[0] for row in rows(store)} == {"c1", "c2", "c3"}
        store.close()


def test_a_node_of_a_cluster_is_not_taken_for_a_server(shared_cluster: list[RedisServer]) -> None:
    store = Kind(next(node.url for node in shared_cluster if not node.serves("ids:meta"))).open()
    with pytest.raises(StoreMisconfigured, match="node of a cluster") as caught:
        store.record([sync("c1", 1)])
    assert "redis+cluster://" in caught.value.mend


@dataclass(frozen=True)
class Certificates:
    ca: Path
    cert: Path
    key: Path


def certificates(folder: Path) -> Certificates:
    """An authority, and a certificate of its for 127.0.0.1 that serves both ends."""
    folder.mkdir()
    run = partial(subprocess.run, check=True, capture_output=True, cwd=folder, timeout=60)
    new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run([*new, "-x509", "-days", "2", "-keyout", "ca.key", "-out", "ca.crt", "-subj", f"/CN={folder.name}"])
    run([*new, "-keyout", "node.key", "-out", "node.csr", "-subj", "/CN=node"])
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
    run(["openssl", "x509", "-req", "-in", "node.csr", *signed, "-out", "node.crt"])
    return Certificates(folder / "ca.crt", folder / "node.crt", folder / "node.key")


def with_tls(files: Certificates, port: int, clients: str) -> list[str]:
    paths = ["--tls-ca-cert-file", str(files.ca), "--tls-cert-file", str(files.cert), "--tls-key-file", str(files.key)]
    return ["--tls-port", str(port), "--tls-auth-clients", clients, *paths]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("tls") / "ours")


def test_tls_checks_the_authority_and_the_name(authority: Certificates, tmp_path: Path) -> None:
    port = free_port()
    with redis_server(tmp_path / "redis", *with_tls(authority, port, "no")):
        kind = Kind(f"rediss://127.0.0.1:{port}/0")
        store = kind.open(tls_ca_file=authority.ca)
        store.record([sync("c1", 1)])
        assert rows(store) == [("c1", uuid(1), NOW)]
        store.check()
        store.close()
        stranger = certificates(tmp_path / "stranger")
        named = Kind(f"rediss://localhost:{port}/0")  # the certificate is for 127.0.0.1
        for broken in (kind.open(), kind.open(tls_ca_file=stranger.ca), named.open(tls_ca_file=authority.ca)):
            with pytest.raises(StoreMisconfigured, match="CERTIFICATE_VERIFY_FAILED") as caught:
                broken.record([sync("c1", 1)])
            assert "store.tls_ca_file" in caught.value.mend
            broken.close()


def test_tls_shows_its_own_certificate(authority: Certificates, tmp_path: Path) -> None:
    port = free_port()
    with redis_server(tmp_path / "redis", *with_tls(authority, port, "yes")):
        kind = Kind(f"rediss://127.0.0.1:{port}/0")
        store = kind.open(tls_ca_file=authority.ca, tls_cert_file=authority.cert, tls_key_file=authority.key)
        store.check()
        store.close()
        without = kind.open(tls_ca_file=authority.ca)
        with pytest.raises(StoreUnavailable) as caught:
            without.check()
        assert "store.tls_cert_file" in caught.value.mend
        without.close()


def test_a_cluster_with_tls(authority: Certificates, tmp_path: Path) -> None:
    port = free_port()
    options = [*with_tls(authority, port, "yes"), "--cluster-enabled", "yes", "--tls-cluster", "yes"]
    with redis_server(tmp_path / "redis", *options) as node, node.client() as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        wait_until(node.in_agreement, "the cluster's agreement")
        store = Kind(f"rediss+cluster://127.0.0.1:{port}").open(
            tls_ca_file=authority.ca, tls_cert_file=authority.cert, tls_key_file=authority.key
        )
        store.record([sync("c1", 1)])
        assert rows(store) == [("c1", uuid(1), NOW)]
        store.check()
        store.close()


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ('url = "redis://h"\ntls_ca_file = "ca.crt"', "store.tls_ca_file: store.url has no TLS"),
        ('url = "rediss://h"\ntls_key_file = "own.key"', "store.tls_cert_file: missing"),
        ('url = "sqlite:///a.db"\nreplicas = 1', "store.replicas = 1: SQLite has none"),
    ],
)
def test_settings_that_would_have_no_effect_are_faults(lines: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(f"[store]\n{lines}", environ={}, base=Path("/"))
    assert any(each.startswith(fault) for each in caught.value.faults)


def test_a_tls_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreMisconfigured, match=r"store\.tls_ca_file .*nowhere"):
        Kind("rediss://127.0.0.1:1/0").open(tls_ca_file=tmp_path / "nowhere")


def test_a_wrong_password_is_told_without_showing_it(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis", "--requirepass", "correct-horse") as server:
        right = tmp_path / "password"
        right.write_text("correct-horse\n")
        kind = Kind(server.url)
        with_file = kind.open(password_file=right)
        with_file.record([sync("c1", 1)])
        with_file.close()
        for broken in (kind, Kind(server.url.replace("//", "//user:staple-battery@"))):
            store = broken.open()
            with pytest.raises(StoreMisconfigured) as caught:
                store.record([sync("c1", 1)])
            assert "staple" not in str(caught.value)
            assert "password" in caught.value.mend
            store.close()


@pytest.mark.parametrize("cluster", [False, True])
def test_another_number_of_buckets_is_refused(
    shared_redis: RedisServer, shared_cluster: list[RedisServer], cluster: bool
) -> None:
    url = f"redis+cluster://127.0.0.1:{shared_cluster[0].port}" if cluster else shared_redis.url
    for server in [shared_redis, *shared_cluster]:
        with server.client() as client:
            client.flushall()
    first = Kind(url).open()
    first.record([sync("c1", 1)])
    first.close()
    second = replace(Kind(url), buckets=128).open()
    with pytest.raises(StoreMisconfigured, match=r"made with 64 buckets, but store.buckets is 128"):
        second.record([sync("c1", 1)])
    second.close()


def test_redis_emptied_under_a_running_process_is_usable_and_knows_its_data_sources(shared_redis: RedisServer) -> None:
    with shared_redis.client() as client:
        client.flushall()
        store = Kind(shared_redis.url).open()
        store.record([sync("c1", 1)])
        client.flushall()
        client.script_flush()
        store.record([sync("c2", 2)])
        assert store.count(NOW) == {DPID: Count(1, 1)}
        other = replace(Kind(shared_redis.url), buckets=128).open()
        with pytest.raises(StoreMisconfigured):
            other.check()
        store.close()
        other.close()


def test_redis_emptied_and_taken_by_others_is_left_alone(shared_redis: RedisServer) -> None:
    with shared_redis.client() as client:
        client.flushall()
        store, other = Kind(shared_redis.url).open(), replace(Kind(shared_redis.url), buckets=128).open()
        store.record([sync("c1", 1)])
        client.flushall()
        other.record([sync("c2", 2)])
        with pytest.raises(StoreMisconfigured, match="128 buckets"):
            store.record([sync("c1", 1)])
        store.close()
        other.close()


@pytest.mark.parametrize("url", ["redis://me:sec/ret@127.0.0.1:1/0", "redis://me:secret@127.0.0.1:port/0"])
@pytest.mark.parametrize("cluster", [False, True])
def test_a_url_that_can_not_be_read_is_told_without_its_password(url: str, cluster: bool) -> None:
    store = Kind(url.replace("redis:", "redis+cluster:") if cluster else url).open()
    with pytest.raises(StoreMisconfigured) as caught:
        store.check()
    assert "sec" not in caught.value.problem
    assert "127.0.0.1" in caught.value.problem


def test_a_password_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreMisconfigured, match="nowhere"):
        Kind("redis://127.0.0.1:1/0").open(password_file=tmp_path / "nowhere")


def test_a_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk."""
    limits = "resource.getrlimit(resource.RLIMIT_FSIZE)"
    program = f"""
import resource
from idsync.errors import StoreUnavailable
soft, hard = {limits}
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
refused = 0
for number in range(20):
    try:
        store.record([Sync({DPID}, f"c{{number}}-{{at}}", "1" * 38, "", {NOW}) for at in range(100)])
    except StoreUnavailable:
        refused += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
store.record([Sync({DPID}, "after", "1" * 38, "", {NOW})])
print(refused, store.count({NOW})[{DPID}].mappings)
"""
    refused, mappings = map(int, elsewhere(Kind(f"sqlite:///{tmp_path / 'idsync.db'}"), program).split())
    assert refused
    assert mappings == (20 - refused) * 100 + 1  # a refused list is refused whole


def test_rows_of_another_program_are_not_taken_for_mappings(tmp_path: Path) -> None:
    store = Kind(f"sqlite:///{tmp_path / 'idsync.db'}").open()
    store.record([sync("c1", 1)])
    with sqlite3.connect(tmp_path / "idsync.db") as db:
        db.execute("INSERT INTO mappings VALUES (?, 'c2', '12', ?)", (DPID, NOW))
    with pytest.raises(StoreMisconfigured, match="did not write"):
        list(store.export(DPID, NOW))
    store.close()
    db.close()


HAMMER = f"store.check(); print('ready', flush=True)\nwhile True: store.record([Sync(7, 'c', '{'1' * 38}', '', {NOW})])"


def test_beside_a_busy_writer_everyone_gets_a_turn(tmp_path: Path) -> None:
    """With SQLite's own waiting, writes beside this writer failed as "locked"."""
    kind = Kind(f"sqlite:///{tmp_path / 'idsync.db'}")
    program = (
        "import sys\nfrom idsync.settings import Store\nfrom idsync.store import open_store\n"
        f"from idsync.store.base import Sync\nstore = open_store(Store(url=sys.argv[1]))\n{HAMMER}"
    )
    busy = subprocess.Popen([sys.executable, "-c", program, kind.url], stdout=subprocess.PIPE, text=True)
    try:
        assert busy.stdout is not None
        assert busy.stdout.readline() == "ready\n"
        store = kind.open()
        for number in range(50):
            store.record([sync(f"c{number}", 1, NOW - LIFETIME)])
        assert store.sweep(NOW) == 50
        assert busy.poll() is None
        store.close()
    finally:
        busy.kill()
        busy.communicate()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "idsync.db"
    path.write_bytes(b"certainly not a database, but long enough to be one" * 100)
    with pytest.raises(StoreMisconfigured, match="not a database"):
        Kind(f"sqlite:///{path}").open().check()


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    store = Kind(f"sqlite:///{tmp_path / 'idsync.db'}").open()
    store.check()
    store.close()
    with sqlite3.connect(tmp_path / "idsync.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreMisconfigured, match="newer version"):
        store.check()


def test_a_sync_waits_for_another_writer_for_a_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idsync.store.sqlite._BUSY_SECONDS", 0.05)
    store = Kind(f"sqlite:///{tmp_path / 'idsync.db'}").open()
    store.check()
    other = sqlite3.connect(tmp_path / "idsync.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        store.record([sync("c1", 1)])
    other.execute("COMMIT")
    other.close()
    store.record([sync("c1", 1)])
    store.close()
