"""gunicorn's options, where no request shows whether they took hold; the rest is seen in the end-to-end tests."""

import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from idsync import server
from idsync.errors import IdsyncError
from idsync.server import LIMITS, Server, read_limits, run
from tests.idsync.samples import settings


def options(limits: Path = LIMITS) -> Any:
    return Server(lambda: None, bind="127.0.0.1:0", workers=3, state=Path("var"), limits=read_limits(limits)).cfg


def test_options() -> None:
    chosen = options()
    assert chosen.http_parser == "fast"
    assert chosen.control_socket_disable is True
    assert chosen.accesslog is None
    assert chosen.forwarder_headers == []
    assert chosen.worker_class is server.Worker
    assert chosen.logger_class is server.Log
    assert chosen.asgi_lifespan == "on"
    assert chosen.workers == 3


def test_the_log_tells_the_text_of_our_own_errors_alone(capsys: pytest.CaptureFixture[str]) -> None:
    log = server.Log(options())

    def printed(error: Exception) -> str:
        try:
            raise error  # noqa: TRY301
        except Exception as caught:
            log.exception("Error handling connection: %s", caught)  # noqa: TRY401  gunicorn's own words
        return capsys.readouterr().err

    for error in (ValueError("secret-1"), UnicodeDecodeError("utf-8", b"secret-1", 0, 1, "secret-1")):
        told = printed(error)
        assert type(error).__name__ in told
        assert __name__.rpartition(".")[2] in told
        assert "secret-1" not in told
    assert "the store is away" in printed(IdsyncError("the store is away", mend="wait"))


def test_the_limits_of_the_file_hold() -> None:
    chosen = options()
    limits = {name: value for name, value in runpy.run_path(str(LIMITS)).items() if not name.startswith("_")}
    assert {"limit_request_line", "limit_request_fields", "keepalive", "backlog", "timeout"} <= limits.keys()
    assert {name: getattr(chosen, name) for name in limits} == limits
    assert chosen.limit_request_line == 8190
    assert chosen.keepalive > 60


def test_a_file_can_not_make_requests_appear_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "limits.py"
    path.write_text("accesslog = '-'\nhttp_parser = 'python'\nloglevel = 'debug'\nbacklog = 7\n")
    chosen = options(path)
    assert (chosen.accesslog, chosen.http_parser, chosen.loglevel, chosen.backlog) == (None, "fast", "info", 7)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("keep_alive = 1", "no setting keep_alive"),
        ("x = y", "'y' is not defined"),
        ("x = (", "was never closed"),
        ("timeout = 'soon'", "timeout"),
    ],
)
def test_a_wrong_file_stops_the_start(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "limits.py"
    path.write_text(content)
    with pytest.raises(IdsyncError, match=told) as caught:
        options(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(IdsyncError, match="No such file"):
        options(tmp_path / "none.py")


def test_a_setting_that_can_not_be_used_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "limits.py"
    path.write_text("logconfig = 'none.ini'")
    with pytest.raises(IdsyncError, match=r"none\.ini' not found"):
        run(settings(tmp_path), bind="127.0.0.1:0", workers=1, limits=path)


def test_the_environment_changes_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--access-logfile=- --http-parser=python")
    assert (options().accesslog, options().http_parser) == (None, "fast")


def test_without_the_fast_parser_nothing_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """gunicorn would start, and then fail on every request."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(IdsyncError, match="gunicorn_h1c is not installed"):
        run(settings(tmp_path), bind="127.0.0.1:0", workers=1)


def test_folders_of_dead_services_are_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for pid in (os.getpid(), ended.pid):
        (tmp_path / f"metrics-{pid}").mkdir()
        (tmp_path / f"metrics-{pid}" / "counter_1.db").touch()
    (tmp_path / "metrics-mine").mkdir()
    server._remove_folders_of_the_dead(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"metrics-{os.getpid()}", "metrics-mine"])
