"""Replicas that acknowledge, and clusters whose nodes die, move slots, or are taken for servers."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
from redis.crc import key_slot

from idsync.errors import StoreMisconfigured, StoreUnavailable
from idsync.store import codec
from idsync.store.base import Sync
from tests.contracts.stores import DPID, NOW, OPERATIONS, Kind, rows, sync, uuid
from tests.servers import RedisServer, redis_cluster, redis_server, settled, wait_until

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
