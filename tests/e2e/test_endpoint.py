"""The endpoint as it is run: `python -m idsync serve`, gunicorn and a SQLite store, over real sockets."""

import http.client
import json
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from itertools import cycle
from pathlib import Path
from threading import Barrier
from typing import Any
from urllib.parse import quote, unquote

import pytest

from idsync import config
from idsync.server import LIMITS
from idsync.service import milliseconds_now
from idsync.store import open_store
from idsync.store.base import Device
from tests.endpoint import Answer, Connection, Endpoint, Gunicorn, run_idsync, serving, stopping
from tests.idsync.samples import OTHER_UUID, UUID, configuration
from tests.servers import wait_until

PIXEL = bytes.fromhex(
    "47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b"  # 43 bytes
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("endpoint") / "idsync.toml"
    path.write_text(configuration())
    return path


@pytest.fixture(scope="module")
def endpoint(path: Path) -> Iterator[Endpoint]:
    with serving(path) as endpoint:
        yield endpoint


@pytest.fixture
def asking_audience_manager(tmp_path: Path) -> Iterator[Endpoint]:
    path = tmp_path / "idsync.toml"
    path.write_text(configuration(identity="audience-manager"))
    with serving(path, "--workers", "1") as endpoint:
        yield endpoint


def devices(path: Path, customer_id: str) -> list[Device]:
    with closing(open_store(config.load(path).store)) as store:
        return store.devices(12345, customer_id, milliseconds_now())


def test_pixel(endpoint: Endpoint, path: Path) -> None:
    answer = endpoint.get("/ibs:dpid=12345&dpuuid=pixel")
    assert (answer.status, answer.body) == (200, PIXEL)
    assert len(PIXEL) == 43
    assert answer.header("Content-Type") == "image/gif"
    assert answer.header("Cache-Control") == "no-store"
    [device] = devices(path, "pixel")
    assert answer.header("Set-Cookie") == (
        f"__Host-idsync={device.uuid}; Path=/; Max-Age=10368000; Secure; HttpOnly; SameSite=None"
    )


@pytest.mark.parametrize(
    ("target", "customer"),
    [
        ("/ibs:dpid=12345&dpuuid=a%26b%3dc", "a&b=c"),
        ("/sync?dpid=12345&dpuuid=q%26b%3Fc", "q&b?c"),
        ("/ibs:dpid=12345&dpuuid=a+b%20c", "a+b c"),
        ("/sync?dpid=12345&dpuuid=q+b%20c", "q+b c"),
        ("/ibs:dpid=12345&dpuuid=a//b/../c/./%2e%2e", "a//b/../c/./.."),
        ("/ibs:dpid=12345&dpuuid=007", "007"),
        ("/ibs:dpid=12345&dpuuid=1e5", "1e5"),
        ("/ibs:dpid=12345&dpuuid=%F0%9F%98%80", "\U0001f600"),
        ("http://elsewhere.example/ibs:dpid=12345&dpuuid=absolute%26form", "absolute&form"),
    ],
)
def test_customer_ids_arrive_byte_for_byte(endpoint: Endpoint, path: Path, target: str, customer: str) -> None:
    assert endpoint.get(target).status == 200
    assert len(devices(path, customer)) == 1


def test_a_uuid_keeps_its_leading_zero(endpoint: Endpoint, path: Path) -> None:
    cookie = f"Cookie: __Host-idsync={OTHER_UUID}"
    answer = endpoint.get(f"/ibs:dpid=12345&dpuuid=zero&d_uuid={UUID}&d_rtbd=json", cookie)
    assert UUID.startswith("0")
    assert json.loads(answer.body) == {"uuid": UUID, "stored": 1, "errors": []}
    assert answer.header("Set-Cookie") is None
    found = json.loads(run_idsync("lookup", "--config", path, "crm", "zero").stdout)
    assert [device["uuid"] for device in found["devices"]] == [UUID]


def test_location_is_what_was_checked(endpoint: Endpoint) -> None:
    redir = "https://dpm.demdex.net/ibs:dpid=1&dpuuid=${DD_UUID}&redir=https%3A%2F%2Fx%2F%24%7BDD_UUID%7D#{|}"
    answer = endpoint.get(f"/ibs:dpid=12345&dpuuid=l&d_uuid={UUID}&redir={quote(redir, safe='')}")
    assert (answer.status, answer.body) == (302, b"")
    assert answer.header("Location") == redir.replace("${DD_UUID}", UUID)


def test_redir_not_allowed(endpoint: Endpoint, path: Path) -> None:
    for redir in (
        "https%3A%2F%2Fevil.example%2F",
        "%2F%09%2Fevil.example",
        "https%3A%2F%2Fevil.example%5C@dpm.demdex.net",
    ):
        answer = endpoint.get(f"/ibs:dpid=12345&dpuuid=evil&redir={redir}")
        assert answer.status == 400
        assert answer.header("Location") is None
    assert devices(path, "evil") == []


def test_refusals_carry_their_codes(endpoint: Endpoint) -> None:
    for target, x_error in (
        ("/ibs:", "104"),
        ("/ibs:dpid=12345&dpuuid=a:b", "300"),
        ("/ibs:dpid=54321&dpuuid=a", "302"),
        ("/ibs:dpid=12345&dpuuid=%FF", "311"),
        ("/ibs:dpid=12345&dpuuid=a&d_uuid=1", "102"),
    ):
        answer = endpoint.get(target)
        assert (answer.status, answer.header("X-Error")) == (400, x_error)
        assert json.loads(answer.body)["errors"][0]["code"] == int(x_error)


def test_consent_denied(endpoint: Endpoint, path: Path) -> None:
    for target, header in (("", "Sec-GPC: 1"), ("&gdpr=1&gdpr_consent=CA", "X: y")):
        redir = quote("https://dpm.demdex.net/?u=${DD_UUID}&v=1", safe="")
        answer = endpoint.get(f"/ibs:dpid=12345&dpuuid=denied{target}&redir={redir}", header)
        assert (answer.status, answer.header("X-Error")) == (302, "315")
        assert answer.header("Location") == "https://dpm.demdex.net/?u=&v=1"
        assert answer.header("Set-Cookie") is None
    assert devices(path, "denied") == []


def test_concurrent_calls_of_a_new_customer_agree_on_one_uuid(endpoint: Endpoint, path: Path) -> None:
    start = Barrier(8)

    def call(customer: int) -> str:
        start.wait()
        answer = endpoint.get(f"/sync?dpid=12345&dpuuid=new-{customer}&d_rtbd=json")
        return str(json.loads(answer.body)["uuid"])

    with ThreadPoolExecutor(8) as pool:
        for customer in range(5):
            uuids = set(pool.map(call, [customer] * 8))
            assert len(uuids) == 1
            assert [device.uuid for device in devices(path, f"new-{customer}")] == list(uuids)


def test_a_connection_is_kept(endpoint: Endpoint) -> None:
    request = b"GET /ibs:dpid=12345&dpuuid=kept HTTP/1.1\r\nHost: h\r\n\r\n"
    with endpoint.connect() as connection:
        for _ in range(3):
            connection.send(request)
            assert connection.receive().body == PIXEL


def test_head(endpoint: Endpoint) -> None:
    answer = endpoint.get("/ibs:dpid=12345&dpuuid=head", method="HEAD")
    assert (answer.status, answer.header("Content-Length"), answer.body) == (200, "43", b"")


def test_small_routes(endpoint: Endpoint) -> None:
    assert endpoint.get("/healthz").status == 200
    empty = {"mappings": 0, "age_seconds": 0.0, "opt_outs": 0}
    assert json.loads(endpoint.get("/readyz").body) == {"ready": True, "spool": empty}
    assert b"Disallow: /" in endpoint.get("/robots.txt").body
    assert endpoint.get("/").status == 404
    answer = endpoint.get("/ibs:dpid=12345&dpuuid=x", method="POST")
    assert (answer.status, answer.header("Allow")) == (405, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
def test_another_protocol_is_not_taken_up(endpoint: Endpoint, protocol: str) -> None:
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    lines = ["Connection: Upgrade", f"Upgrade: {protocol}", key, "Sec-WebSocket-Version: 13"]
    request = "\r\n".join(["GET /ibs:dpid=12345&dpuuid=upgrade HTTP/1.1", "Host: h", *lines, "", ""])
    with endpoint.connect() as connection:
        for _ in range(2):
            connection.send(request.encode())
            answer = connection.receive()
            assert (answer.status, answer.header("Cache-Control"), answer.body) == (200, "no-store", PIXEL)


def test_a_long_line_is_served_up_to_the_limit(endpoint: Endpoint) -> None:
    fixed = len("GET /ibs:dpid=12345&dpuuid=long&pad= HTTP/1.1")
    for length, status in ((8190, 200), (8300, 414)):
        answer = endpoint.get(f"/ibs:dpid=12345&dpuuid=long&pad={'x' * (length - fixed)}")
        assert answer.status == status
        assert answer.header("Cache-Control") == "no-store"


def test_the_round_trip_through_audience_manager(asking_audience_manager: Endpoint) -> None:
    """Our side of it: what the browser is sent to, read as Audience Manager reads it, and what it brings back."""
    redir = "https://dpm.demdex.net/end?u=${DD_UUID}"
    target = f"/ibs:dpid=12345&dpuuid=r%26t&redir={quote(redir, safe='')}"
    answer = asking_audience_manager.get(target, f"Cookie: __Host-idsync={OTHER_UUID}")
    location = answer.header("Location") or ""
    sent = re.fullmatch(r"https://dpm\.demdex\.net/ibs:dpid=12345&dpuuid=r%26t&redir=([^&]*)", location)
    assert sent is not None
    back = unquote(sent[1]).removeprefix("https://sync.example.com")
    for uuid, status in ((UUID, 302), ("", 400)):
        answer = asking_audience_manager.get(back.replace("${DD_UUID}", uuid))
        assert answer.status == status
        assert answer.header("Set-Cookie") is None
        assert answer.header("Location") == (f"https://dpm.demdex.net/end?u={UUID}" if uuid else None)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_lets_a_request_in_flight_finish(path: Path, workers: str) -> None:
    with serving(path, "--workers", workers) as endpoint, endpoint.connect() as connection:
        connection.send(b"GET /ibs: HTTP/1.1\r\nHost: h\r\n\r\n")
        assert connection.receive().status == 400  # a worker has this connection
        connection.send(b"GET /ibs:dpid=12345&dpuuid=in-flight HTTP/1.1\r\n")
        endpoint.process.send_signal(signal.SIGTERM)
        endpoint.wait_for("Handling signal: term")
        connection.send(b"Host: h\r\n\r\n")
        assert connection.receive().body == PIXEL
        status, _ = endpoint.stop()
    assert status == 0
    assert len(devices(path, "in-flight")) == 1


def test_a_drain_says_so_and_does_not_wait_for_idle_connections(path: Path) -> None:
    with serving(path, "--workers", "1") as endpoint, ExitStack() as opened:
        kept = [opened.enter_context(endpoint.connect()) for _ in range(8)]
        for connection in kept:
            connection.send(b"GET /ibs: HTTP/1.1\r\nHost: h\r\n\r\n")
            assert connection.receive().status == 400
        start = time.monotonic()
        endpoint.process.send_signal(signal.SIGTERM)
        answer = first_refusal(kept[1:])
        assert (answer.status, json.loads(answer.body)["reason"]) == (503, "shutting down")
        assert answer.header("Connection") == "close"
        status, _ = endpoint.stop()
        assert status == 0
        assert time.monotonic() - start < 10  # the time-out is 25, and a kept connection may be idle for 65


@pytest.mark.parametrize("pause", [0, 2])
def test_workers_that_are_still_starting_stop_as_well(path: Path, tmp_path: Path, pause: int) -> None:
    """Also those that were only just forked, and still have the master's handlers."""
    limits = tmp_path / "gunicorn.conf.py"
    forked = f"post_fork = lambda master, worker: _time.sleep({pause})"
    limits.write_text(f"{LIMITS.read_text()}\nimport time as _time\n{forked}\n")
    with serving(path, "--workers", "4", "--gunicorn-conf", str(limits)) as endpoint:
        start = time.monotonic()
        status, _ = endpoint.stop()  # the master listens, its workers are not there yet
    assert status == 0
    assert time.monotonic() - start < 15  # the time-out is 25


def first_refusal(connections: list[Connection]) -> Answer:
    """The first answer of /readyz that is not 200. The signal takes its way through the master, and a connection whose
    answer it meets on the way out is closed after that answer.
    """
    for connection in cycle(connections):
        with suppress(ConnectionError, http.client.BadStatusLine):
            connection.send(b"GET /readyz HTTP/1.1\r\nHost: h\r\n\r\n")
            answer = connection.receive()
            if answer.status != 200:
                return answer
    raise AssertionError("no connection")


def test_new_workers_take_over(path: Path) -> None:
    with serving(path, "--workers", "1") as endpoint:
        endpoint.process.send_signal(signal.SIGHUP)
        endpoint.wait_for("Worker exiting")
        assert endpoint.get("/ibs:dpid=12345&dpuuid=after-hup").body == PIXEL
        assert 'idsync_calls_total{data_source="crm",outcome="stored"} 1.0' in metrics(endpoint)
        status, output = endpoint.stop()
    assert status == 0
    assert "Traceback" not in output


def test_who_says_nothing_is_not_waited_for(endpoint: Endpoint) -> None:
    start = time.monotonic()
    with endpoint.connect() as silent, endpoint.connect() as slow:
        slow.send(b"GET /healthz HTTP/1.1\r\n")
        for connection in (silent, slow):
            with pytest.raises((ConnectionError, http.client.BadStatusLine)):
                connection.receive()
    assert 8 < time.monotonic() - start < 30


def metrics(endpoint: Endpoint) -> str:
    answer = endpoint.get("/metrics")
    assert (answer.status, answer.header("Cache-Control")) == (200, "no-store")
    return answer.body.decode()


def test_who_leaves_before_the_answer_is_not_logged(path: Path) -> None:
    """Their requests were valid, and there is nobody to answer."""
    with serving(path, "--workers", "1") as endpoint:
        for target in ("/healthz", "/metrics", "/demoptout", "/nothing") * 10:
            with socket.create_connection(("127.0.0.1", endpoint.port)) as connection:
                connection.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass
        assert endpoint.get("/healthz").status == 200
        status, output = endpoint.stop()
    assert status == 0
    assert "Refused" not in output


def test_metrics_of_all_workers(tmp_path: Path) -> None:
    path = tmp_path / "idsync.toml"
    path.write_text(configuration())
    with serving(path, "--workers", "2") as endpoint:
        [folder] = (tmp_path / "var").glob("metrics-*")
        wait_until(lambda: len(list(folder.glob("counter_*.db"))) == 2, "both workers")
        for number in range(40):
            endpoint.get(f"/ibs:dpid=12345&dpuuid=customer-{number}")
        endpoint.get("/ibs:dpid=999&dpuuid=secret")
        endpoint.get("/ibs:dpid=777&dpuuid=a", "Sec-GPC: 1")
        told = metrics(endpoint)
        endpoint.stop()
        assert not folder.exists()
    for line in (
        'idsync_calls_total{data_source="crm",outcome="stored"} 40.0',
        'idsync_calls_total{data_source="none",outcome="data-source-unknown"} 1.0',
        'idsync_calls_total{data_source="shop",outcome="consent-denied"} 1.0',
        "idsync_call_seconds_count 42.0",
        "idsync_batch_calls_sum 40.0",
        "idsync_spool_mappings 0.0",
    ):
        assert line in told.splitlines(), told
    assert "secret" not in told


def test_metrics_of_a_killed_service_do_not_stay(tmp_path: Path) -> None:
    path = tmp_path / "idsync.toml"
    path.write_text(configuration())
    with serving(path, "--workers", "1") as endpoint:
        endpoint.get("/ibs:dpid=12345&dpuuid=a")
        [left] = (tmp_path / "var").glob("metrics-*")
        endpoint.kill()
    assert left.exists()
    with serving(path, "--workers", "1") as endpoint:
        assert not left.exists()
        assert 'outcome="stored"} 1.0' not in metrics(endpoint)


def test_no_control_socket_is_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "idsync.toml"
    path.write_text(configuration())
    for variable in ("HOME", "XDG_RUNTIME_DIR", "TMPDIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    with serving(path, "--workers", "1"):
        assert not [found for found in tmp_path.rglob("*") if found.is_socket()]


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[tuple[Gunicorn, Path]]:
    """The Flask application alone, on gunicorn as anyone would run it."""
    path = tmp_path / "idsync.toml"
    path.write_text(configuration())
    command = [sys.executable, "-m", "gunicorn", "-c", str(LIMITS), "-k", "gthread", "--threads", "4"]
    command += ["--no-control-socket", "-b", "127.0.0.1:0", "idsync.wsgi:app()"]
    server = Gunicorn(command, {"IDSYNC_CONFIG": str(path)})
    with stopping(server):
        yield server, path


def test_the_flask_application_alone_answers_alike(
    plain: tuple[Gunicorn, Path], endpoint: Endpoint, path: Path
) -> None:
    flask, flask_path = plain
    names = ["pixel", "a%26b", "a+b", "%FF", "a:b", "x?", "caf%C3%A9", "%F0%9F%98%80", "", "x" * 513]
    targets = [
        f"{start}dpid={dpid}&dpuuid=alike-{name}{more}&d_uuid={UUID}"
        for start in ("/ibs:", "/sync?", "http://h/ibs:")
        for dpid in (777, 999)
        for name in names
        for more in (
            "",
            "&d_rtbd=json",
            "&gdpr=1",
            f"&redir={quote('https://dpm.demdex.net/{|}?u=${DD_UUID}', safe='')}",
        )
    ]
    targets += ["/", "/sync", "/sync?", "/healthz", "/healthz?", "/robots.txt", "//ibs:", "/ibs:?", "/ibs:#x"]
    for target in targets:
        for method in ("GET", "HEAD", "POST"):
            answers = []
            for server in (flask, endpoint):
                answer = server.get(target, "Cookie: a=b", "Sec-GPC: 0", method=method)
                headers = [header for header in answer.headers if header[0] not in {"server", "date", "connection"}]
                answers.append((answer.status, headers, answer.body))
            assert answers[0] == answers[1], (method, target)
    stored = [
        sorted(
            (row["customer_id"], row["uuid"])
            for batch in exported(where, 777)
            for row in batch.to_pylist()
            if row["customer_id"].startswith("alike-")
        )
        for where in (flask_path, path)
    ]
    assert stored[0] == stored[1]
    assert len(stored[0]) == 7


def exported(path: Path, dpid: int) -> list[Any]:
    with closing(open_store(config.load(path).store)) as store:
        return list(store.export(dpid, milliseconds_now()))


def test_an_answer_outlives_the_processes(path: Path) -> None:
    with serving(path) as endpoint:
        uuid = json.loads(endpoint.get("/sync?dpid=12345&dpuuid=killed&d_rtbd=json").body)["uuid"]
        endpoint.kill()
    assert [device.uuid for device in devices(path, "killed")] == [uuid]


def test_nothing_of_a_request_is_printed(tmp_path: Path) -> None:
    """Whatever comes in, well formed or not, answered or failed: neither targets nor headers reach the log."""
    path = tmp_path / "idsync.toml"
    path.write_text(configuration())
    secret = "4711sesame"
    with serving(path) as endpoint:
        assert endpoint.get(f"/ibs:dpid=12345&dpuuid={secret}").status == 200
        redir = quote(f"https://dpm.demdex.net/{secret}", safe="")
        assert endpoint.get(f"/ibs:dpid=12345&dpuuid={secret}&redir={redir}").status == 302
        for target in (f"/{secret}?{secret}", f"/healthz/{secret}", f"/ibs:dpid=12345&dpuuid={secret}%FF"):
            assert endpoint.get(target).status in {400, 404}
        for request, status in (
            (f"GET /ibs:dpuuid={secret}\x01 HTTP/1.1\r\n\r\n", 400),
            (f"GET /ibs:dpuuid={secret}\xe9 HTTP/1.1\r\n\r\n", 400),
            (f"GET {secret} HTTP/1.1\r\n\r\n", 400),
            (f"GET http://[{secret}/ibs: HTTP/1.1\r\n\r\n", 400),
            (f"GET /ibs:dpuuid={secret} HTTP/{secret}\r\n\r\n", 400),
            (f"get{secret} /ibs:dpuuid={secret} HTTP/1.1\r\n\r\n", 400),
            (f"{secret}\r\n\r\n", 400),
            (f"GET /ibs:dpuuid={secret} HTTP/1.1\r\n{secret} x: {secret}\r\n\r\n", 400),
            (f"GET /ibs:dpuuid={secret} HTTP/1.1\r\nCookie: __Host-idsync={secret}\x00\r\n\r\n", 400),
            (f"GET /ibs:dpuuid={secret} HTTP/1.1\r\nCookie: {secret}\r\n {secret}\r\n\r\n", 400),
            (f"GET /ibs:dpuuid={secret} HTTP/1.1\r\nContent-Length: {secret}\r\n\r\n", 400),
            (f"GET /ibs:dpuuid={secret} HTTP/1.1\r\nTransfer-Encoding: {secret}\r\n\r\n", 400),
            (f"GET /ibs:dpuuid={secret} HTTP/1.1\r\nExpect: {secret}\r\n\r\n", 400),
            (f"GET /ibs:dpuuid={secret} HTTP/1.1\r\nHost: a\r\nHost: {secret}\r\n\r\n", 400),
            (f"GET /ibs:dpid=12345&dpuuid={secret} HTTP/1.1\r\nHost: h\r\nSCRIPT_NAME: /{secret}\r\n\r\n", 200),
            (f"GET /ibs:{secret * 900} HTTP/1.1\r\n\r\n", 414),
            (f"GET /ibs: HTTP/1.1\r\nCookie: {secret * 900}\r\n\r\n", 431),
        ):
            with endpoint.connect() as connection:
                connection.send(request.encode("latin-1"))
                answer = connection.receive()
            assert answer.status == status, request
            assert answer.header("Cache-Control") == "no-store"
            assert secret.encode() not in answer.body
        with endpoint.connect() as connection:
            connection.send(f"GET /ibs:dpuuid={secret}".encode())  # … and goes away
        status, output = endpoint.stop()
    assert status == 0
    assert "Refused a request" in output
    assert secret not in output
    assert "/ibs:" not in output


def test_a_store_that_can_never_work_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "idsync.toml"
    path.write_text(configuration())
    (tmp_path / "idsync.db").write_bytes(b"not a database" * 100)
    done = run_idsync("serve", "--config", path, "--bind", "127.0.0.1:0")
    assert done.returncode == 2
    assert "idsync.db" in done.stderr


def test_the_endpoint_starts_though_the_store_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "idsync.toml"
    path.write_text(configuration())
    monkeypatch.setenv("IDSYNC_STORE__URL", "redis://someone:hunter2@127.0.0.1:1/0")
    with serving(path, "--workers", "1") as endpoint:
        assert endpoint.get("/healthz").status == 200
        assert endpoint.get("/ibs:dpid=12345&dpuuid=4711sesame").body == PIXEL
        answer = endpoint.get("/readyz")
        assert answer.status == 503
        assert json.loads(answer.body)["spool"]["mappings"] == 1
        assert "127.0.0.1:1" in json.loads(answer.body)["reason"]
        assert b"hunter2" not in answer.body
        status, output = endpoint.stop()
    assert status == 0
    assert "/readyz tells" in output
    assert "hunter2" not in output
    assert "4711sesame" not in output


def test_an_address_in_use_stops_the_start(endpoint: Endpoint, path: Path) -> None:
    done = run_idsync("serve", "--config", path, "--bind", f"127.0.0.1:{endpoint.port}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "can't listen on" in done.stderr
    assert "Traceback" not in done.stderr
