"""A person's no, and a person's traces: on the real endpoint, its real workers and stores."""

import re
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from threading import Event

import pytest

from idsync import config
from idsync.service import milliseconds_now, open_spool
from idsync.store import open_store
from idsync.store.base import OPTED_OUT, MappingStore, Sync
from tests.endpoint import Answer, Endpoint, run_idsync, serving
from tests.idsync.samples import OTHER_UUID, UUID, configuration
from tests.servers import RedisServer, wait_until

CALLERS = 6
LATE_CALLS = 40  # of each caller, once the opt-out was answered


@pytest.fixture(params=["sqlite", "redis"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    url = "sqlite:///idsync.db"
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("shared_redis")
        with server.client() as client:
            client.flushall()
        url = server.url
    return configured(tmp_path, url)


def configured(folder: Path, url: str) -> Path:
    path = folder / "idsync.toml"
    path.write_text(configuration().replace("sqlite:///idsync.db", url))
    return path


def opened(path: Path) -> MappingStore:
    return open_store(config.load(path).store)


def held(path: Path, *customers: str) -> list[str]:
    with closing(opened(path)) as store:
        return [each.uuid for customer in customers for each in store.devices(12345, customer, milliseconds_now())]


# --- from the answer on ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "call"),
    [
        ("/demoptout?d_cid=12345%01user-1", "/ibs:dpid=12345&dpuuid=user-1&d_uuid={uuid}"),
        (f"/demoptout?d_uuid={UUID}", f"/ibs:dpid=12345&dpuuid=user-{{caller}}&d_uuid={UUID}"),
        ("/demoptout?d_cid_ic=acme-crm%01user-1", "/ibs:d_cid=12345%01user-1&d_cid=777%01user-{caller}"),
    ],
)
def test_no_worker_stores_an_opted_out_id(path: Path, asked: str, call: str) -> None:
    """Visitors go on calling on all workers while somebody opts out; then everything is killed at once."""
    answered = Event()

    def visit(endpoint: Endpoint, caller: int) -> list[Answer]:
        target = call.format(uuid=f"{caller:038}", caller=caller)
        late: list[Answer] = []
        while len(late) < LATE_CALLS:
            sure = answered.is_set()
            answer = endpoint.get(target)
            late += [answer] * sure
        return late

    with serving(path, "--workers", "3") as endpoint:
        with ThreadPoolExecutor(CALLERS) as pool:
            visitors = [pool.submit(visit, endpoint, caller) for caller in range(1, CALLERS + 1)]
            wait_until(lambda: bool(held(path, "user-1", "user-2")), "the first sync")
            assert endpoint.get(asked).status == 200
            answered.set()
            late = [answer for visitor in visitors for answer in visitor.result()]
        endpoint.kill()
    assert len(late) == CALLERS * LATE_CALLS
    assert {(answer.status, answer.header("X-Error"), answer.header("Set-Cookie")) for answer in late} == {
        (200, "171", None)
    }
    assert held(path, *(f"user-{caller}" for caller in range(1, CALLERS + 1))) == []
    with serving(path, "--workers", "1") as endpoint:
        again = endpoint.get(call.format(uuid=f"{1:038}", caller=1))
        assert again.header("X-Error") == "171"


def test_an_opt_out_while_the_store_is_away(tmp_path: Path) -> None:
    """It is answered, holds on every worker at once, survives kill -9, and reaches the store when that is back."""
    server = RedisServer(tmp_path / "redis")
    path = configured(tmp_path, server.url)
    server.start()
    try:
        with ExitStack() as stack:
            endpoint = stack.enter_context(serving(path, "--workers", "2"))
            assert endpoint.get(f"/ibs:dpid=12345&dpuuid=user-1&d_uuid={UUID}").status == 200
            server.stop()
            assert endpoint.get("/demoptout?d_cid=12345%01user-1").status == 200
            for number in range(20):
                answer = endpoint.get(f"/ibs:dpid=12345&dpuuid=user-1&d_uuid={number + 1:038}")
                assert (answer.status, answer.header("X-Error")) == (200, "171")
            endpoint.kill()
        server.start()
        with serving(path, "--workers", "2"):
            with closing(open_spool(config.load(path))) as spool:
                wait_until(lambda: not spool.opt_outs_wait(), "the spool to empty")
            with closing(opened(path)) as store:
                assert None not in store.opted_out([(12345, "user-1")], [UUID])
                assert store.devices(12345, "user-1", milliseconds_now()) == []
                assert store.record([Sync(12345, "user-1", OTHER_UUID, "", milliseconds_now())]) == [OPTED_OUT]
    finally:
        server.stop()


def test_the_command_line_opts_out_a_running_endpoint(path: Path) -> None:
    with serving(path, "--workers", "2") as endpoint:
        target = f"/ibs:dpid=12345&dpuuid=user-1&d_uuid={UUID}"
        assert endpoint.get(target).header("X-Error") is None
        assert run_idsync("opt-out", "crm", "user-1", "--config", path).returncode == 0
        assert {endpoint.get(target).header("X-Error") for _ in range(10)} == {"171"}
        assert run_idsync("opt-in", "crm", "user-1", "--config", path).returncode == 0
        assert {endpoint.get(target).header("X-Error") for _ in range(10)} == {None}


# --- no trace in what operators see ----------------------------------------------------------------------------------

MARK = "hush7f3a"
MARKED_UUID = "7" * 30 + "12345678"
MARKED_ADDRESS = "203.0.113.77"
TOKEN = "5a" * 32
PAGES = ("/readyz", "/metrics", "/healthz", "/status")
HEADERS = [
    f"Cookie: __Host-idsync={MARKED_UUID}; other={MARK}",
    f"Referer: https://www.{MARK}.example/page?{MARK}",
    f"User-Agent: Mozilla/5.0 {MARK}",
    f"X-Forwarded-For: {MARKED_ADDRESS}",
    f"X-{MARK}: {MARK}",
]
ID = f"dpid=12345&dpuuid={MARK}"
TARGETS = [
    *(f"/ibs:{ID}", f"/sync?{ID}", f"/event?{ID}", f"/id?{ID}", f"/ibs:{ID}&d_rtbd=json", f"/ibs:{ID}&d_cb={MARK}"),
    *(f"/ibs:d_cid=12345%01{MARK}-2&d_cid_ic=acme-crm%01{MARK}-3&d_mid={MARKED_UUID}", f"/ibs:dpid={MARK}&dpuuid=a"),
    *(f"/ibs:{ID}%40example.com", f"/ibs:{ID}%FF", f"/ibs:{ID}&d_uuid={MARK}", f"/ibs:{ID}&gdpr=1&gdpr_consent={MARK}"),
    *(
        f"/ibs:{ID}&gpp={MARK}&gpp_sid=7",
        f"/ibs:{ID}&us_privacy={MARK}",
        f"/ibs:{ID}&{MARK}={MARK}",
        f"/ibs:{ID}?{MARK}",
    ),
    f"/ibs:{ID}&redir=https%3A%2F%2Fdpm.demdex.net%2F{MARK}%3Fu%3D%24%7BDD_UUID%7D",
    f"/ibs:{ID}&redir=https%3A%2F%2F{MARK}.example%2F",
    *(f"/demoptout?d_cid=12345%01{MARK}-9", f"/demoptout.jpg?d_uuid={MARKED_UUID[::-1]}", f"/demoptout?d_cid={MARK}"),
    *(f"/idsync.js?data_source={MARK}", f"/{MARK}", f"/healthz?{MARK}", f"/readyz?{MARK}", f"/metrics?{MARK}"),
    *(f"/robots.txt?{MARK}", f"/status?{MARK}", f"/{MARK}" + "x" * 40_000, f"http://{MARK}.example/ibs:{ID}"),
]


def client_hello() -> bytes:
    """What a browser says first where it takes the port for one with TLS; it names the host."""
    sent = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname=f"{MARK}.example").do_handshake()
    return sent.read()


GARBAGE = [
    client_hello(),
    f"{MARK} {MARK}\r\n\r\n".encode(),
    f"GET /ibs:{ID} HTTP/9\r\n\r\n".encode(),
    f"GET /{MARK} HTTP/1.1\r\n{MARK}\r\n\r\n".encode(),
    f"GET /{MARK} HTTP/1.1\r\nX-{MARK}: {MARK * 5_000}\r\n\r\n".encode(),
    f"PROXY TCP4 {MARKED_ADDRESS} 192.0.2.1 1 2\r\nGET /ibs:{ID} HTTP/1.1\r\n\r\n".encode(),
]
METHODS = ("GET", "HEAD", "OPTIONS", "POST")


@pytest.fixture
def marked(tmp_path: Path) -> Iterator[tuple[Path, RedisServer]]:
    server = RedisServer(tmp_path / "redis")
    server.start()
    try:
        path = configured(tmp_path, server.url)
        text = path.read_text() + '\n[abuse]\ntrusted_proxies = ["127.0.0.1"]\nuuids_per_customer_id = 2\n'
        (tmp_path / "token").write_text(TOKEN)
        (tmp_path / "token").chmod(0o600)
        status = '[endpoint]\nstatus = "token"\nstatus_token_file = "token"\n'
        path.write_text(text.replace("[endpoint]\n", status))
        yield path, server
    finally:
        server.stop()


def test_logs_metrics_and_pages_hold_nothing_of_a_caller(marked: tuple[Path, RedisServer]) -> None:
    """Every route with marked values in ID, UUID, query, headers and address; the store there, away, and back."""
    path, server = marked
    traces = re.compile(f"{MARK}|{MARKED_UUID}|{MARKED_UUID[::-1]}|{re.escape(MARKED_ADDRESS)}", re.IGNORECASE)
    with serving(path, "--workers", "2") as endpoint:

        def drive() -> set[int]:
            return {endpoint.get(target, *HEADERS, method=method).status for target in TARGETS for method in METHODS}

        def seen() -> list[bytes]:
            answers = [endpoint.get(page, f"Authorization: Bearer {TOKEN}") for page in PAGES]
            assert answers[-1].status == 200
            return [answer.body for answer in answers]

        statuses = drive()
        server.kill()
        statuses |= drive()
        pages = seen()
        server.start()
        with closing(open_spool(config.load(path))) as spool:
            wait_until(lambda: spool.waiting(0)[0] == 0, "the spool to empty")
        for _ in range(50):
            with endpoint.connect() as connection:
                connection.send(f"GET /ibs:{ID} HTTP/1.1\r\nHost: {MARK}\r\n\r\n".encode() * 5)
                connection.abort()
        statuses |= drive()
        pages += seen()
        for garbage in GARBAGE:
            with endpoint.connect() as connection:
                connection.send(garbage)
                statuses.add(connection.receive().status)
        stopped, output = endpoint.stop()
    assert stopped == 0
    assert {200, 204, 302, 400, 404, 405} <= statuses
    assert 500 not in statuses
    assert "calls go to the spool" in output
    assert 'File "' not in output  # the place of a defect
    for text in (output, *(page.decode() for page in pages)):
        assert not traces.search(text), traces.search(text)
    with closing(opened(path)) as store:
        assert store.find([MARKED_UUID])  # the calls were real, though the device has opted out since
        assert store.opted_out([(12345, f"{MARK}-9")], [])[0]
