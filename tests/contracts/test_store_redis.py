"""A Redis that stops, hangs, is full, is emptied, or is not set up to keep what it is told."""

import resource
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from idsync.errors import StoreMisconfigured, StoreUnavailable
from idsync.store.base import Count, Device
from tests.contracts.stores import DPID, NOW, OPERATIONS, Kind, rows, sync, uuid
from tests.servers import Proxy, RedisServer, redis_cluster, redis_server, wait_until


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
