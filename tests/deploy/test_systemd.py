"""deploy/systemd: systemd itself reads the units; what they start exists; a restart behind the socket loses no call."""

import http.client
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event

import pytest

from tests.deploy import commands
from tests.endpoint import PATIENCE_SECONDS
from tests.idsync.samples import configuration
from tests.servers import wait_until

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "deploy" / "systemd"
NAMES = sorted(path.name for path in UNITS.glob("*.*") if path.suffix in {".service", ".timer", ".socket"})
SERVICES = [name for name in NAMES if name.endswith(".service")]
OURS = [name for name in SERVICES if name != "idsync-failed@.service"]


def settings(name: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", (UNITS / name).read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units as they are, but for where the project lies."""
    folder = tmp_path_factory.mktemp("units")
    python = folder / "project" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    for name in NAMES:
        (folder / name).write_text((UNITS / name).read_text().replace("/opt/idsync", str(folder / "project")))
    return folder


def test_there_are_units_for_endpoint_and_jobs() -> None:
    assert {"idsync.service", "idsync.socket", "reconcile@.service", "reconcile@.timer", "idsync-sweep.timer"} <= {
        *NAMES
    }


def test_systemd_finds_no_fault(installed: Path) -> None:
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *(str(installed / name) for name in NAMES)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (told.returncode, told.stderr) == (0, "")


def test_the_user_of_the_services_is_made() -> None:
    conf = UNITS / "sysusers.conf"
    told = subprocess.run(
        ["systemd-sysusers", "--dry-run", conf], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert told.returncode == 0, told.stderr
    assert {user for name in OURS for user in settings(name, "User")} == {conf.read_text().split("\nu ")[1].split()[0]}


@pytest.mark.parametrize("name", OURS)
def test_the_services_are_fenced_in(installed: Path, name: str) -> None:
    """systemd's own measure, from 0 (nothing to be had) to 10."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=16", "--no-pager", str(installed / name)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert told.returncode == 0, told.stdout[-200:]


@pytest.mark.parametrize("name", OURS)
def test_what_they_start_exists(name: str) -> None:
    started = settings(name, "ExecStart")
    assert started
    for line in started:
        [(program, arguments)] = commands.named_in(line.replace("%i", "crm-daily"))
        commands.check(program, arguments)
        assert line.startswith("/opt/idsync/.venv/bin/python -m ")
    assert settings(name, "WorkingDirectory") == ["/opt/idsync"]
    assert settings(name, "StateDirectory") == ["idsync"]
    assert settings(name, "ProtectSystem") == ["strict"]


@pytest.mark.parametrize("name", OURS)
def test_what_fails_is_told(name: str) -> None:
    """And what no repetition mends is not repeated."""
    assert settings(name, "OnFailure") == ["idsync-failed@%n.service"]
    [never] = settings(name, "RestartPreventExitStatus")
    assert "2" in never.split()
    assert "75" not in never.split()


def test_every_timer_has_its_service() -> None:
    for name in NAMES:
        if name.endswith((".timer", ".socket")):
            assert re.sub(r"\.\w+$", ".service", name) in SERVICES
            assert settings(name, "WantedBy")


def test_the_master_has_the_time_that_its_workers_may_take() -> None:
    limits = (ROOT / "deploy" / "gunicorn.conf.py").read_text()
    graceful = int(re.findall(r"^graceful_timeout = (\d+)", limits, re.MULTILINE)[0])
    assert int(settings("idsync.service", "TimeoutStopSec")[0]) > graceful
    assert settings("idsync.service", "KillMode") == ["mixed"]


# --- behind the socket -----------------------------------------------------------------------------------------------


@contextmanager
def activated(config: Path, listener: socket.socket, notified: socket.socket) -> Iterator["subprocess.Popen[bytes]"]:
    """What systemd does: the socket as file descriptor 3, where to say READY, and the command of the unit."""
    [line] = settings("idsync.service", "ExecStart")
    command = line.replace("/opt/idsync/.venv/bin/python", sys.executable)
    command = command.replace("/etc/idsync/idsync.toml", str(config))
    descriptor = listener.fileno()
    with (config.parent / "log").open("ab") as log:
        server = subprocess.Popen(
            ["bash", "-c", f"exec 3<&{descriptor}; LISTEN_FDS=1 LISTEN_PID=$$ exec {command}"],
            env={**os.environ, "NOTIFY_SOCKET": notified.getsockname()},
            pass_fds=(descriptor,),
            stdout=log,
            stderr=log,
        )
    try:
        assert notified.recv(4096).startswith(b"READY=1")
        yield server
    finally:
        server.terminate()
        server.wait(PATIENCE_SECONDS)


def status_of(port: int, target: str) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)) as connection:
        connection.request("GET", target)
        return connection.getresponse().status


def test_a_restart_turns_no_call_away(tmp_path: Path) -> None:
    config = tmp_path / "idsync.toml"
    config.write_text(configuration())
    enough, answered = Event(), [0]
    with (
        socket.create_server(("127.0.0.1", 0), backlog=2048) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
        ThreadPoolExecutor(3) as pool,
    ):
        port = listener.getsockname()[1]
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(PATIENCE_SECONDS)

        def visit() -> set[int]:
            statuses: set[int] = set()
            while not enough.is_set():
                statuses.add(status_of(port, f"/sync?dpid=12345&dpuuid=caller-{answered[0]}"))
                answered[0] += 1
            return statuses

        try:
            with activated(config, listener, notified) as first:
                visitors = [pool.submit(visit) for _ in range(3)]
                wait_until(lambda: answered[0] > 20, "the first calls")
            assert first.returncode == 0
            with activated(config, listener, notified) as second:
                before = answered[0]
                wait_until(lambda: answered[0] > before + 20, "calls after the restart")
                [reload] = settings("idsync.service", "ExecReload")
                subprocess.run(reload.replace("$MAINPID", str(second.pid)).split(), check=True)
                wait_until(lambda: b"Hang up" in (tmp_path / "log").read_bytes(), "the reload")
                before = answered[0]
                wait_until(lambda: answered[0] > before + 20, "calls after the reload")
                enough.set()
                assert [visitor.result() for visitor in visitors] == [{200}] * 3
        finally:
            enough.set()
