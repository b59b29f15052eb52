"""One store and many who use it at a time: threads, processes, forks, and one that is killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from idsync.store.base import Count, Device, MappingStore
from tests.contracts.stores import DPID, NOW, Kind, customers_elsewhere, elsewhere, rows, sync, uuid


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
