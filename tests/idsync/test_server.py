"""gunicorn's options, where no request shows whether they took hold; the rest is seen in the end-to-end tests."""

import importlib.util

import pytest

from idsync.errors import IdsyncError
from idsync.server import Server, run


def test_options() -> None:
    options = Server(lambda: None, bind="127.0.0.1:0", workers=3).cfg
    assert options.http_parser == "fast"
    assert options.control_socket_disable is True
    assert options.accesslog is None
    assert options.forwarder_headers == []
    assert options.worker_class.__module__ == "idsync.server"
    assert (options.workers, options.threads) == (3, 8)
    assert options.keepalive > 60


def test_the_environment_changes_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--access-logfile=- --http-parser=python")
    options = Server(lambda: None, bind="127.0.0.1:0", workers=1).cfg
    assert (options.accesslog, options.http_parser) == (None, "fast")


def test_without_the_fast_parser_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """gunicorn would start, and then fail on every request."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(IdsyncError, match="gunicorn_h1c is not installed"):
        run(lambda: None, bind="127.0.0.1:0", workers=1)
