"""Copies of a store that is in use, and what comes back: the mappings, and no one's opt-out forgotten."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from idsync import config
from idsync.service import milliseconds_now
from idsync.store import open_store
from tests.endpoint import PATIENCE_SECONDS, Answer, run_idsync, serving
from tests.idsync.samples import configuration
from tests.servers import redis_server

ROOT = Path(__file__).parents[2]
BACKUP = ROOT / "deploy" / "backup"


def script(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    command = [sys.executable] if name.endswith(".py") else ["sh"]
    return subprocess.run(
        [*command, BACKUP / name, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env=environment,
        check=False,
    )


def done(name: str, *arguments: str | Path) -> str:
    ended = script(name, *arguments)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def held(path: Path, customer_id: str) -> bool:
    with closing(open_store(config.load(path).store)) as store:
        return bool(store.devices(12345, customer_id, milliseconds_now()))


def opt_outs(path: Path) -> int:
    with closing(open_store(config.load(path).store)) as store:
        return len(store.opt_outs())


def configured(folder: Path, url: str = "sqlite:///idsync.db") -> Path:
    path = folder / "idsync.toml"
    path.write_text(configuration().replace("sqlite:///idsync.db", url))
    return path


def morning(call: Callable[[str], Answer]) -> None:
    """Three customers, of whom two share a device, and one who has opted out already."""
    for customer, uuid in (("stays", 1), ("leaves", 2), ("leaves", 3), ("shares", 3)):
        assert call(f"/sync?dpid=12345&dpuuid={customer}&d_uuid={uuid:038}").status == 200
    assert call("/demoptout?d_cid=12345%01early").status == 200


def afternoon(call: Callable[[str], Answer]) -> None:
    """After the copy."""
    assert call("/sync?dpid=12345&dpuuid=comes").status == 200
    assert call("/demoptout?d_cid=12345%01leaves").status == 200


def test_sqlite(tmp_path: Path) -> None:
    path, database = configured(tmp_path), tmp_path / "idsync.db"
    with serving(path) as endpoint:
        morning(endpoint.get)
        copy = Path(done("sqlite.sh", database, tmp_path / "copies"))
        afternoon(endpoint.get)
        refused = script("sqlite-restore.sh", copy, database)
        assert (refused.returncode, "is in use" in refused.stderr) == (1, True)
        assert held(path, "comes")
    assert copy.stat().st_mode & 0o077 == 0
    assert [file.name for file in (tmp_path / "copies").iterdir()] == [copy.name]
    told = opt_outs(path)
    done("sqlite-restore.sh", copy, database)
    assert opt_outs(path) == told
    assert (held(path, "stays"), held(path, "leaves"), held(path, "comes")) == (True, True, False)
    assert done("settle.py", path) == "settle: 2 mappings of opted-out customers removed"
    assert (held(path, "stays"), held(path, "leaves")) == (True, False)
    assert done("settle.py", path) == "settle: 0 mappings of opted-out customers removed"
    with serving(path) as endpoint:
        assert endpoint.get("/sync?dpid=12345&dpuuid=leaves").header("X-Error") == "171"
        assert endpoint.get("/sync?dpid=12345&dpuuid=early").header("X-Error") == "171"
        assert endpoint.get("/readyz").status == 200


def test_a_database_that_is_broken_is_replaced_and_kept(tmp_path: Path) -> None:
    path, database = configured(tmp_path), tmp_path / "idsync.db"
    with serving(path) as endpoint:
        morning(endpoint.get)
        copy = done("sqlite.sh", database, tmp_path / "copies")
    database.write_bytes(b"broken" * 4096)
    assert run_idsync("stats", "--config", path).returncode == 2
    ended = script("sqlite-restore.sh", copy, database)
    assert (ended.returncode, "opt-outs since the copy are lost" in ended.stderr) == (0, True)
    assert held(path, "stays")
    assert (tmp_path / "idsync.db.before").read_bytes().startswith(b"broken")


def test_old_copies_go_as_the_erased_must_not_live_on_in_them(tmp_path: Path) -> None:
    path, database = configured(tmp_path), tmp_path / "idsync.db"
    run_idsync("stats", "--config", path)
    first = Path(done("sqlite.sh", database, tmp_path / "copies"))
    old = first.rename(first.with_name("idsync-20250101T000000Z.db"))
    os.utime(old, (0, 0))
    other = tmp_path / "copies" / "ledger-20250101T000000Z.db"
    other.write_bytes(b"")
    os.utime(other, (0, 0))
    copy = Path(done("sqlite.sh", database, tmp_path / "copies"))
    assert sorted((tmp_path / "copies").iterdir()) == sorted([copy, other])


@pytest.mark.parametrize("name", ["sqlite.sh", "sqlite-restore.sh", "redis-restore.sh"])
def test_what_is_not_there_is_told(name: str, tmp_path: Path) -> None:
    ended = script(name, tmp_path / "none", tmp_path)
    assert (ended.returncode, "no such file" in ended.stderr) == (2, True)
    assert script(name).returncode == 2


def test_redis(tmp_path: Path) -> None:
    """Two snapshots of the store, the later one of opt-outs alone; the server's disk is lost between."""
    copies = tmp_path / "copies"
    with redis_server(tmp_path / "redis") as server:
        path = configured(tmp_path, server.url)
        with serving(path) as endpoint:
            morning(endpoint.get)
            copy = done("redis.sh", "127.0.0.1", str(server.port), copies)
            afternoon(endpoint.get)
            out = done("redis.sh", "127.0.0.1", str(server.port), copies, "--opt-outs")
        told = opt_outs(path)
    new = tmp_path / "new"
    new.mkdir()
    done("redis-restore.sh", copy, new, out)
    assert [file.name for file in new.iterdir()] == ["appendonlydir"]
    refused = script("redis-restore.sh", copy, new, out)
    assert (refused.returncode, "appendonlydir is there" in refused.stderr) == (2, True)
    with redis_server(new) as server:
        path = configured(tmp_path, server.url)
        assert opt_outs(path) == told
        assert (held(path, "stays"), held(path, "leaves"), held(path, "comes")) == (True, True, False)
        done("settle.py", path)
        assert (held(path, "stays"), held(path, "leaves")) == (True, False)
        swept = run_idsync("sweep", "--config", path)
        assert (swept.returncode, json.loads(swept.stdout)["removed"]) == (0, 1)  # the device went along with who left
