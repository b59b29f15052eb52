"""A database in a file: full disks, busy writers, rows and files of other programs."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from idsync.errors import StoreMisconfigured, StoreUnavailable
from tests.contracts.stores import DPID, LIFETIME, NOW, Kind, elsewhere, sync


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


def test_an_index_of_another_program_does_not_change_the_order(tmp_path: Path) -> None:
    store = Kind(f"sqlite:///{tmp_path / 'idsync.db'}").open()
    store.record([sync(name, number, NOW - number) for number in range(3) for name in ("c1", "c2")])
    with sqlite3.connect(tmp_path / "idsync.db") as db:
        db.execute("CREATE INDEX by_time ON mappings (dpid, seen)")
    latest = [batch.to_pydict() for batch in store.export(DPID, NOW, latest_only=True)]
    assert [name for batch in latest for name in batch["customer_id"]] == ["c1", "c2"]
    assert {seen for batch in latest for seen in batch["last_seen"]} == {NOW}
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
