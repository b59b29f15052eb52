"""The status page on both fronts, and the thread behind it."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from idsync import status
from idsync.app import create_app
from idsync.asgi import Application
from idsync.errors import StoreUnavailable
from idsync.history import History
from idsync.service import Service, open_spool
from idsync.settings import Settings
from idsync.store import open_store
from idsync.store.base import Sync
from idsync.store.optouts import OptOut
from idsync.store.spool import Waiting
from tests.idsync.samples import NOW, OTHER_UUID, UUID
from tests.idsync.status_samples import HOUR_MS, MINUTE, ROW, TOKEN, Reader, basic, endpoint_settings, read, with_token
from tests.idsync.test_app import ask
from tests.idsync.test_fronts import Call, through_asgi
from tests.servers import wait_until

# --- fronts ----------------------------------------------------------------------------------------------------------

Serve = Callable[[Settings], Service]


@pytest.fixture
def serve() -> Iterator[Serve]:
    made: list[Service] = []

    def start(settings: Settings) -> Service:
        made.append(Service(settings, open_store(settings.store), open_spool(settings), clock=lambda: NOW))
        return made[-1]

    yield start
    for service in made:
        service.close()


def test_off_it_is_a_route_like_any_unknown(tmp_path: Path, serve: Serve) -> None:
    app = create_app(serve(endpoint_settings(tmp_path)))
    for method in ("GET", "HEAD", "POST", "OPTIONS", "DELETE"):
        for headers in ({}, {"authorization": f"Bearer {TOKEN}"}):
            unknown = ask(app, "/nothing", method=method, host="localhost", **headers)
            asked = ask(app, "/status", method=method, host="localhost", **headers)
            assert asked[0] == 404
            assert (asked[0], list(asked[1]), asked[2]) == (unknown[0], list(unknown[1]), unknown[2])


def test_to_others_nothing_is_shown(tmp_path: Path, serve: Serve) -> None:
    app = create_app(serve(endpoint_settings(tmp_path, 'status = "loopback"')))
    assert ask(app, "/status", host="localhost")[0] == 200
    for headers in (
        {"x_forwarded_for": "127.0.0.1"},
        {"via": "1.1 x"},
        {"x_real_ip": "127.0.0.1"},
        {"forwarded": "for=x"},
    ):
        code, _, body = ask(app, "/status", host="localhost", **headers)
        assert code == 403
        assert b"this machine only" in body
        assert b"<" not in body


def test_a_browser_asks_for_the_token(tmp_path: Path, serve: Serve) -> None:
    app = create_app(serve(with_token(tmp_path)))
    code, headers, body = ask(app, "/status")
    assert (code, headers["WWW-Authenticate"]) == (401, 'Basic realm="idsync status", charset="UTF-8"')
    assert TOKEN.encode() not in body
    assert ask(app, "/status", authorization=basic("ops", "wrong"))[0] == 401
    assert ask(app, "/status", authorization=basic("ops", TOKEN), x_forwarded_for="203.0.113.7")[0] == 200
    assert ask(app, "/status", authorization=f"Bearer {TOKEN}")[0] == 200


def test_other_methods(tmp_path: Path, serve: Serve) -> None:
    app = create_app(serve(endpoint_settings(tmp_path, 'status = "loopback"')))
    code, headers, body = ask(app, "/status", method="HEAD", host="localhost")
    assert (code, body, headers["Content-Type"]) == (200, b"", "text/html; charset=utf-8")
    assert ask(app, "/status", method="POST", host="localhost")[0] == 405


def test_both_fronts_show_the_same(tmp_path: Path, serve: Serve) -> None:
    service = serve(endpoint_settings(tmp_path, 'status = "loopback"'))
    app = create_app(service)
    targets = ["/status", "/status?dpid=1", "/status/", "/Status"]
    hosts = [
        [("host", "localhost")],
        [("host", "sync.example.com")],
        [("host", "localhost"), ("x-forwarded-for", "::1")],
    ]
    calls = [(method, target, headers) for method in ("GET", "HEAD", "POST") for target in targets for headers in hosts]
    seen = through_asgi(Application(service), calls)
    for (method, target, headers), (code, answered, body) in zip(calls, seen, strict=True):
        given = {name.replace("-", "_"): value for name, value in headers}
        expected = ask(app, target, method=method, **given)
        assert (code, body) == (expected[0], expected[2]), (method, target, headers)
        assert answered == [(name.lower(), value) for name, value in expected[1]]
    assert {code for code, *_ in seen} == {200, 403, 404, 405}


def test_what_no_folder_is_shared_for(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under another server each process counts for itself, so there is no history, and nobody counts the store."""
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    service = serve(endpoint_settings(tmp_path, 'status = "loopback"'))
    page = Reader(ask(create_app(service), "/status", host="localhost")[2].decode()).text
    assert "only `python -m idsync serve` sums its processes up" in page
    assert "Not counted yet" in page
    assert service.status_page is not None
    assert not service.status_page._thread.is_alive()


def test_no_sync_call_comes_near_it(tmp_path: Path, serve: Serve) -> None:
    class Untouchable:
        def __getattribute__(self, name: str) -> Any:
            pytest.fail(f"a call asked for {name}")

    service = serve(endpoint_settings(tmp_path, 'status = "loopback"'))
    app, application, page = create_app(service), Application(service), service.status_page
    service.status_page = cast("Any", Untouchable())
    calls: list[Call] = [("GET", target, []) for target in ("/ibs:dpid=12345&dpuuid=a", "/ibs:", "/id", "/demoptout")]
    assert [ask(app, target)[0] for _, target, _ in calls] == [200, 400, 200, 200]
    assert [code for code, *_ in through_asgi(application, calls)] == [200, 400, 200, 200]
    service.status_page = page


def test_no_thread_and_no_file_while_it_is_off(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    assert serve(endpoint_settings(tmp_path)).status_page is None
    assert not [*tmp_path.glob("status*")]


def test_a_broken_spool_is_told(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: Any) -> Waiting:
        raise StoreUnavailable("the spool redis://x:hush@y is out of reach")

    monkeypatch.setattr("idsync.service.Service.spooled", away)
    body = ask(create_app(serve(endpoint_settings(tmp_path, 'status = "loopback"'))), "/status", host="localhost")[2]
    assert b"The spool can&#39;t be read: the spool redis://x:***@y is out of reach" in body


# --- the thread ------------------------------------------------------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that workers share."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    return folder


def program(folder: Path, script: str) -> str:
    """Stands in for Python where the store is counted."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return str(path)


def shown(service: Service) -> str:
    assert service.status_page is not None
    return read(service.status_page.facts()).text


def test_the_store_is_counted_beside_the_endpoint(tmp_path: Path, serve: Serve, shared: Path) -> None:
    settings = endpoint_settings(tmp_path, 'status = "loopback"')
    with closing(open_store(settings.store)) as store:
        store.record([Sync(12345, name, UUID, "", NOW) for name in "abc"])
        store.record([Sync(9, "a", UUID, "", NOW), Sync(0, "mid", UUID, "", NOW)])
        store.opt_out(OptOut(((777, "d"),), (), NOW, takes_devices=False))
        store.opt_out(OptOut((), (OTHER_UUID,), NOW, takes_devices=False))
    service = serve(settings)
    wait_until((shared / "status-count.json").exists, "the count")
    page = shown(service)
    assert "crm 12345 3 3 0" in page
    assert "shop 777 0 0 1" in page
    assert "not in the configuration 9 1 1 0" in page
    assert "all 4 4 1" in page
    assert "Opted-out devices: 1." in page


@pytest.mark.parametrize(
    ("script", "told"), [("kill -ALRM $$", "Too many to count for this page"), ("exit 75", "could not be counted")]
)
def test_what_can_not_be_counted_is_told(
    tmp_path: Path, serve: Serve, shared: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: str
) -> None:
    monkeypatch.setattr(sys, "executable", program(tmp_path, script))
    service = serve(endpoint_settings(tmp_path, 'status = "loopback"'))
    wait_until((shared / "status-count.json").exists, "the count")
    assert told in shown(service)
    assert status.STATS in shown(service)


def test_a_count_under_way_keeps_nobody_from_leaving(
    tmp_path: Path, serve: Serve, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", program(tmp_path, f"echo $$ > {tmp_path}/pid\nexec sleep 600"))
    service = serve(endpoint_settings(tmp_path, 'status = "loopback"'))
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "", "the count's start")
    service.close()
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
    assert not (shared / "status-count.json").exists()


def test_it_is_counted_once_an_hour(
    tmp_path: Path, serve: Serve, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many workers there are, and however often one starts."""
    script = f"""echo >> {tmp_path}/counts; echo '{{"data_sources": {{}}, "devices": 0}}'"""
    monkeypatch.setattr(sys, "executable", program(tmp_path, script))
    settings = endpoint_settings(tmp_path, 'status = "loopback"')
    first = serve(settings)
    wait_until((shared / "status-count.json").exists, "the count")
    assert first.status_page is not None
    clock = iter([NOW, NOW + HOUR_MS - 1, NOW + HOUR_MS, NOW + HOUR_MS + 1, NOW + HOUR_MS + 1])
    first.status_page._clock = lambda: next(clock)
    counts = []
    for _ in range(4):
        first.status_page._count()
        counts.append((tmp_path / "counts").read_text().count("\n"))
    assert counts == [1, 1, 2, 2]


def test_a_count_that_takes_too_long_ends_itself() -> None:
    """Here it waits for its question."""
    script = "from idsync import counting; counting.COUNT_SECONDS = 0.05; counting.main()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as child:
        assert child.wait(60) == -signal.SIGALRM


def test_a_minute_is_written_by_the_first_who_comes(tmp_path: Path, serve: Serve, shared: Path) -> None:
    settings = endpoint_settings(tmp_path, 'status = "loopback"')
    one, other = serve(settings), serve(settings)
    wait_until((shared / "status.ring").exists, "the first record")
    wait_until(lambda: "Counted since 2026-11-24 03:36" in shown(one), "its end")
    for service in (one, other):
        for target in ("/ibs:dpid=12345&dpuuid=a", "/ibs:"):
            ask(create_app(service), target)
    words = [re.sub(r"Counted at .*? UTC", "", shown(service)) for service in (one, other)]
    assert words[0] == words[1]
    assert [sample.minute for sample in History(shared, ROW).read()] == [NOW // MINUTE - 1, NOW // MINUTE]


def test_a_history_that_can_not_be_written_is_logged_once(
    tmp_path: Path, serve: Serve, shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (shared / "status.ring").mkdir()
    service = serve(endpoint_settings(tmp_path, 'status = "loopback"'))
    wait_until(lambda: "can't be written" in caplog.text, "the log")
    assert "the file of the history can't be read" in shown(service)
