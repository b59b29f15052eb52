"""`python -m idsync`: answers on stdout, everything else on stderr, and the exit status; mostly as a process."""

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from idsync import config
from idsync.__main__ import cli
from idsync.decision import MID_DPID
from idsync.service import milliseconds_now, open_spool
from idsync.store import open_store
from idsync.store.base import Sync
from idsync.store.optouts import OptOut
from tests.endpoint import run_idsync
from tests.idsync.samples import OTHER_UUID, UUID, configuration, settings

DAY = 86_400_000
EARLIER = "00000000000000000000000000000000000001"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A configuration beside an empty store."""
    path = tmp_path / "idsync.toml"
    path.write_text(configuration())
    return path


def record(path: Path, *syncs: Sync) -> None:
    with closing(open_store(config.load(path).store)) as store:
        store.record(syncs)


def answer(*arguments: str | Path) -> Any:
    done = run_idsync(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def test_lookup(path: Path) -> None:
    now = milliseconds_now() // 1000 * 1000
    record(path, Sync(12345, "a&b", UUID, UUID, now - DAY), Sync(12345, "a&b", OTHER_UUID, UUID, now + 7))
    found = answer("lookup", "crm", "a&b", "--config", path)
    assert list(found) == ["data_source", "dpid", "customer_id", "devices", "opted_out", "spooled", "job"]
    assert (found["data_source"], found["dpid"], found["customer_id"]) == ("crm", 12345, "a&b")
    assert [device["uuid"] for device in found["devices"]] == [OTHER_UUID, UUID]
    assert found["devices"][0]["last_seen"].endswith(".007Z")
    assert found == answer("lookup", "--config", path, "12345", "a&b")


def test_lookup_shows_the_time_in_utc(path: Path) -> None:
    seen = (milliseconds_now() // DAY - 1) * DAY + 3 * 3_600_000 + 123
    record(path, Sync(12345, "a", UUID, UUID, seen))
    [device] = answer("lookup", "crm", "a", "--config", path)["devices"]
    assert device["last_seen"][10:] == "T03:00:00.123Z"


def test_lookup_of_a_stranger(path: Path) -> None:
    record(path, Sync(12345, "a", UUID, UUID, milliseconds_now()))
    for source, customer in (("crm", "A"), ("crm", "b"), ("shop", "a")):
        assert answer("lookup", source, customer, "--config", path)["devices"] == []


@pytest.mark.parametrize(
    ("source", "customer", "told"),
    [
        ("crn", "a", "crm (12345), shop (777)"),
        ("012345", "a", "no data source"),
        ("crm", "", "empty or blank"),
        ("crm", "a:b", "':'"),
        ("crm", "a\tb", "a tab"),
        ("crm", "x" * 513, "longer than 512 bytes"),
        ("crm", b"\xff", "not valid UTF-8"),
    ],
)
def test_opt_out_of_what_can_not_be(path: Path, source: str, customer: str | bytes, told: str) -> None:
    done = run_idsync("opt-out", "--config", path, source, customer)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_stats(path: Path) -> None:
    now = milliseconds_now()
    record(
        path,
        Sync(12345, "a", UUID, UUID, now),
        Sync(12345, "a", OTHER_UUID, UUID, now),
        Sync(12345, "b", UUID, UUID, now),
        Sync(999, "c", UUID, UUID, now),
        Sync(MID_DPID, OTHER_UUID, UUID, UUID, now),
    )
    with closing(open_store(config.load(path).store)) as store:
        store.opt_out(OptOut(((12345, "x"), (12345, "y"), (777, "x")), (EARLIER,), now, takes_devices=True))
    nothing = {"customers": 0, "mappings": 0, "opt_outs": 0}
    assert answer("stats", "--config", path) == {
        "data_sources": [
            {"name": "crm", "dpid": 12345, "customers": 2, "mappings": 3, "opt_outs": 2},
            {"name": "shop", "dpid": 777, **nothing, "opt_outs": 1},
            *({"name": source.name, "dpid": source.dpid, **nothing} for source in settings().data_sources[2:]),
            {"name": None, "dpid": 999, "customers": 1, "mappings": 1, "opt_outs": 0},
        ],
        "customers": 3,
        "mappings": 4,
        "opt_outs": {"customers": 3, "devices": 1},
        "spool": {"mappings": 0, "age_seconds": 0.0, "opt_outs": 0},
    }


def test_stats_of_the_spool(path: Path) -> None:
    with closing(open_spool(config.load(path))) as spool:
        spool.record([Sync(12345, "a", UUID, UUID, milliseconds_now() - 60_000)])
        spool.opt_out(OptOut(((12345, "b"),), (UUID,), milliseconds_now(), takes_devices=True))
    waiting = answer("stats", "--config", path)["spool"]
    assert (waiting["mappings"], waiting["opt_outs"]) == (1, 2)
    assert 60 <= waiting["age_seconds"] < 120


def test_sweep(path: Path) -> None:
    now = milliseconds_now()
    record(path, Sync(12345, "a", UUID, UUID, now), Sync(12345, "b", EARLIER, UUID, now - 121 * DAY))
    assert answer("sweep", "--config", path) == {"removed": 1, "job": None}
    assert answer("sweep", "--config", path) == {"removed": 0, "job": None}
    assert len(answer("lookup", "crm", "a", "--config", path)["devices"]) == 1


COMMANDS = (
    *("serve", "lookup crm a", "opt-out crm a", "opt-in crm a", "erase crm a", "sign crm a", "stats", "sweep"),
    *("tag crm", "migrate sqlite:///a.db sqlite:///b.db"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    name = command.split(maxsplit=1)[0]
    done = CliRunner().invoke(cli, [name, "--help"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"Example:\n    python -m idsync {name}" in done.stdout
    assert "--config PATH" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_configuration(command: str, tmp_path: Path) -> None:
    """All faults at once, and nothing is started."""
    path = tmp_path / "idsync.toml"
    path.write_text(configuration(identity="guess", gdpr_default="perhaps"))
    done = run_idsync(*command.split(), "--config", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "guess" in done.stderr
    assert "perhaps" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_no_configuration_where_one_is_named(command: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, [*command.split(), "--config", str(tmp_path / "none.toml")])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "no such file" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["lookup"],
        ["lookup", "crm"],
        ["lookup", "crm", "a", "b"],
        ["erase"],
        ["erase", "crm"],
        ["opt-out", "crm", "a", "--uuid", UUID],
        ["opt-in", "--uuid"],
        ["stats", "--no-such-option"],
        ["serve", "--workers", "0"],
        ["serve", "--workers", "two"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    done = CliRunner().invoke(cli, arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_bind(path: Path) -> None:
    done = run_idsync("serve", "--config", path, "--bind", "8000")
    assert done.returncode == 2
    assert "HOST:PORT" in done.stderr


@pytest.mark.parametrize("command", ["lookup crm a", "opt-out crm a", "opt-in crm a", "erase crm a", "stats", "sweep"])
def test_store_out_of_reach(command: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDSYNC_STORE__URL", "redis://someone:hunter2@127.0.0.1:1/0")
    done = run_idsync(*command.split(), "--config", path)
    assert (done.returncode, done.stdout) == (75, "")
    assert "127.0.0.1:1" in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr


def test_the_configuration_is_found_by_variable_and_by_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDSYNC_CONFIG", str(path))
    assert answer("sweep") == {"removed": 0, "job": None}
    monkeypatch.delenv("IDSYNC_CONFIG")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.chdir(path.parent)
    assert answer("sweep") == {"removed": 0, "job": None}


def test_a_closed_pipe_is_no_error(path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "idsync", "stats", "--config", path],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
