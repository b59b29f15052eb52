"""deploy/nginx/idsync.conf as it is, but for ports and paths: a real nginx before a real endpoint."""

import getpass
import grp
import http.client
import os
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from idsync import config
from idsync.service import milliseconds_now
from idsync.store import open_store
from tests.endpoint import Answer, Endpoint, serving
from tests.idsync.samples import configuration
from tests.servers import free_port, wait_until

CONF = Path(__file__).parents[2] / "deploy" / "nginx" / "idsync.conf"
MARK = "marked-4711"
PATIENCE_SECONDS = 30
# what a test can't have: ports below 1024, files of the system, the endpoint's usual port, 250 calls within a second
OUTSIDE = {
    r"listen 443 ssl http2 default_server;": "listen 127.0.0.1:{tls} ssl http2 default_server;",
    r"listen 80 default_server;": "listen 127.0.0.1:{plain} default_server;",
    r"listen 127.0.0.1:8081;": "listen 127.0.0.1:{operators};",
    r"\n *listen \[::\]:[^;]*;": "",
    r"server 127.0.0.1:8000;": "server 127.0.0.1:{endpoint};",
    r"/etc/letsencrypt/live/sync.example.com/": "{folder}/",
    r"/var/log/nginx/": "{folder}/",
    r"rate=50r/s;": "rate=1r/s;",
}
FRAME = """
daemon off;
user {user};
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log notice;
events {{ worker_connections 256; }}
http {{
    access_log {folder}/distribution.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/idsync.conf;
}}
"""


@dataclass(frozen=True)
class Front:
    """A running nginx. `folder` holds all that it ever wrote."""

    folder: Path
    tls: int
    plain: int
    operators: int

    def get(self, target: str, *headers: str) -> Answer:
        """Over TLS; `target` goes out as it stands."""
        context = ssl.create_default_context(cafile=str(self.folder / "fullchain.pem"))
        with (
            socket.create_connection(("127.0.0.1", self.tls), timeout=PATIENCE_SECONDS) as raw,
            context.wrap_socket(raw, server_hostname="sync.example.com") as connection,
        ):
            return ask(connection, target, *headers)

    def get_plainly(self, port: int, target: str) -> Answer:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as connection:
            return ask(connection, target)

    def lines(self) -> list[str]:
        """Of the access log."""
        return (self.folder / "idsync.log").read_text().splitlines()


def ask(connection: socket.socket, target: str, *headers: str) -> Answer:
    lines = [f"GET {target} HTTP/1.1", "Host: sync.example.com", "Connection: close", *headers, "", ""]
    connection.sendall("\r\n".join(lines).encode("latin-1"))
    with closing(http.client.HTTPResponse(connection)) as response:
        response.begin()
        given = [(name.lower(), value) for name, value in response.getheaders()]
        return Answer(response.status, given, response.read())


@contextmanager
def fronting(folder: Path, endpoint_port: int) -> Iterator[Front]:
    folder.mkdir()
    front = Front(folder, free_port(), free_port(), free_port())
    name = "/CN=sync.example.com"
    openssl = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]
    files: list[str | Path] = ["-keyout", folder / "privkey.pem", "-out", folder / "fullchain.pem"]
    subject: list[str | Path] = ["-subj", name, "-addext", "subjectAltName=DNS:sync.example.com"]
    subprocess.run([*openssl, *files, *subject], check=True, capture_output=True)
    text = CONF.read_text()
    for pattern, other in OUTSIDE.items():
        ports = {"tls": front.tls, "plain": front.plain, "operators": front.operators, "endpoint": endpoint_port}
        text, count = re.subn(pattern, other.format(folder=folder, **ports), text)
        assert count, pattern
    (folder / "idsync.conf").write_text(text)
    (folder / "nginx.conf").write_text(FRAME.format(folder=folder, user=user()))
    command = ["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "start.log")]
    tried = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert tried.returncode == 0, tried.stderr
    assert "[warn]" not in tried.stderr.replace('the "user" directive makes sense only', "")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: listens(front.tls), "nginx' start")
        yield front
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def user() -> str:
    """Who may read the test's folder."""
    return f"{getpass.getuser()} {grp.getgrgid(os.getgid()).gr_name}"


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fronted") / "idsync.toml"
    path.write_text(configuration() + '\n[abuse]\ntrusted_proxies = ["127.0.0.1"]\n')
    return path


@pytest.fixture(scope="module")
def endpoint(path: Path) -> Iterator[Endpoint]:
    with serving(path) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def front(path: Path, endpoint: Endpoint) -> Iterator[Front]:
    with fronting(path.parent / "nginx", endpoint.port) as front:
        yield front


def stored(path: Path, customer_id: str) -> bool:
    with closing(open_store(config.load(path).store)) as store:
        return bool(store.devices(12345, customer_id, milliseconds_now()))


# --- what passes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "customer_id"),
    [
        ("/ibs:dpid=12345&dpuuid=a%26b%3dc", "a&b=c"),
        ("/ibs:dpid=12345&dpuuid=a%2Fb", "a/b"),
        ("/ibs:dpid=12345&dpuuid=a//b", "a//b"),
        ("/ibs:dpid=12345&dpuuid=a/./b/../c", "a/./b/../c"),
        ("/ibs:dpid=12345&dpuuid=a%2525", "a%25"),
        ("/ibs:dpid=12345&dpuuid=a%20b", "a b"),
        ("/sync?dpid=12345&dpuuid=q%26b%3Fc", "q&b?c"),
        ("/sync?dpid=12345&dpuuid=q%2F..%2F..%2F..%2Fc", "q/../../../c"),
        ("/event?dpid=12345&dpuuid=q+c", "q+c"),
        ("/id?dpid=12345&dpuuid=%C3%A9", "é"),
    ],
)
def test_the_target_arrives_as_it_was_sent(front: Front, path: Path, target: str, customer_id: str) -> None:
    assert front.get(target).status == 200
    assert stored(path, customer_id)


def test_a_redirect_comes_back_as_it_was_written(front: Front) -> None:
    redir = (
        "https%3A%2F%2Fdpm.demdex.net%2Fibs%3Adpid%3D1%26u%3D%24%7BDD_UUID%7D%26next%3Dhttps%253A%252F%252Fx.example"
    )
    answer = front.get(f"/ibs:dpid=12345&dpuuid=redirected&redir={redir}")
    assert answer.status == 302
    location = answer.header("Location")
    assert location is not None
    assert re.fullmatch(r"https://dpm\.demdex\.net/ibs:dpid=1&u=[0-9]{38}&next=https%3A%2F%2Fx\.example", location), (
        location
    )
    assert answer.header("Strict-Transport-Security")


def test_the_longest_request_and_the_longest_reply_pass(front: Front, path: Path) -> None:
    """8,190 bytes of request line, with a cookie header of 8 KB; a Location as long as `redir` may be."""
    start, end = "/sync?dpid=12345&dpuuid=long&gpp=", " HTTP/1.1"
    target = start + "x" * (8190 - len("GET ") - len(start) - len(end))
    judged = front.get(target, "Cookie: " + "c=" + "y" * 8000)
    assert (judged.status, (judged.header("X-Error") or "")[:3]) == (200, "315")  # by the endpoint
    longest = f"/sync?dpid=12345&dpuuid=long&redir=https://dpm.demdex.net/{'r' * 4000}"
    answer = front.get(longest, "Cookie: " + "c=" + "y" * 8000)
    assert (answer.status, len(answer.header("Location") or "")) == (302, len("https://dpm.demdex.net/") + 4000)
    assert stored(path, "long")


def test_the_endpoint_hears_the_visitors_address_and_no_other(front: Front, tmp_path: Path) -> None:
    """What the visitor says of its own address must not count, nor reach the endpoint."""
    with heard_by_a_listener(tmp_path) as (other, heard):
        other.get("/ibs:dpid=12345&dpuuid=addressed", "X-Forwarded-For: 192.0.2.7", "Forwarded: for=192.0.2.8")
    [request] = heard
    fields = [line for line in request.split("\r\n") if "orwarded" in line]
    assert sorted(fields) == ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: https"]
    assert request.startswith("GET /ibs:dpid=12345&dpuuid=addressed HTTP/1.1\r\n")


@contextmanager
def heard_by_a_listener(folder: Path) -> Iterator[tuple[Front, list[str]]]:
    """nginx before a socket that closes each connection when it has read a request."""
    heard: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_SECONDS)
        with fronting(folder / "nginx", listener.getsockname()[1]) as front:

            def listen() -> None:
                connection, _ = listener.accept()
                with connection:
                    heard.append(connection.recv(65_536).decode("latin-1"))

            thread = threading.Thread(target=listen)
            thread.start()
            yield front, heard
            thread.join(PATIENCE_SECONDS)


# --- what does not ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        *(
            "/metrics",
            "/metrics?x",
            "//metrics",
            "/%6detrics",
            "/./metrics",
            "/x/../metrics",
            "/metrics/",
            "/metrics#x",
        ),
        *("/healthz", "/readyz", "/status", "/", "/syncs", "/sync/../metrics", "https://sync.example.com/metrics"),
        *("/ibs", "/IBS:dpid=12345", "/idsync.js/../metrics", "/demoptout.png"),
    ],
)
def test_what_is_not_for_the_world_is_404(front: Front, target: str) -> None:
    answer = front.get(target)
    assert answer.status == 404
    assert b"idsync_" not in answer.body


def test_a_target_that_nginx_would_tidy_up_into_another_route_stays_what_it_is(front: Front) -> None:
    answer = front.get("/ibs:dpid=12345&dpuuid=a/../metrics")
    assert (answer.status, answer.header("Content-Type")) == (200, "image/gif")


def test_operators_have_metrics_and_readiness_on_a_port_of_their_own(front: Front) -> None:
    assert b"idsync_calls_total" in front.get_plainly(front.operators, "/metrics").body
    assert front.get_plainly(front.operators, "/readyz").status == 200
    assert front.get_plainly(front.operators, "/healthz").body == b"ok\n"
    assert front.get_plainly(front.operators, "/ibs:dpid=12345&dpuuid=operated").status == 404


def test_plain_http_stores_nothing(front: Front, path: Path) -> None:
    assert front.get_plainly(front.plain, "/ibs:dpid=12345&dpuuid=in-the-clear").status == 403
    assert not stored(path, "in-the-clear")


def test_who_calls_too_often_is_told_so(endpoint: Endpoint, tmp_path: Path) -> None:
    """More calls than the burst at once. A limit of the endpoint's own would need 1,200."""
    with fronting(tmp_path / "nginx", endpoint.port) as front:
        answers = [front.get("/robots.txt") for _ in range(260)]
        limited = [answer for answer in answers if answer.status == 429]
        assert {answer.status for answer in answers} == {200, 429}
        assert answers[0].status == 200
        assert {(answer.header("Retry-After"), answer.header("Cache-Control")) for answer in limited} == {
            ("1", "no-store")
        }


@pytest.mark.parametrize(
    ("ciphers", "taken"), [("ECDHE-ECDSA-AES128-GCM-SHA256", True), ("ECDHE-ECDSA-AES128-SHA", False)]
)
def test_old_ciphers_are_refused(front: Front, ciphers: str, taken: bool) -> None:
    """Without those before GCM no protocol before TLS 1.2 has any to choose from."""
    context = ssl.create_default_context(cafile=str(front.folder / "fullchain.pem"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers)
    with socket.create_connection(("127.0.0.1", front.tls), timeout=PATIENCE_SECONDS) as raw:
        try:
            context.wrap_socket(raw, server_hostname="sync.example.com").close()
        except ssl.SSLError:
            assert not taken
        else:
            assert taken


# --- what is written -------------------------------------------------------------------------------------------------


def test_no_log_holds_an_id(path: Path, tmp_path: Path) -> None:
    """Calls that are answered, refused, limited, malformed, too long, and made to an endpoint that is away."""
    with serving(path) as endpoint, fronting(tmp_path / "nginx", endpoint.port) as front:
        front.get(f"/ibs:dpid=12345&dpuuid={MARK}", f"Referer: https://www.example.com/{MARK}", f"User-Agent: {MARK}")
        front.get(f"/sync?dpid=12345&dpuuid={MARK}&redir=https://{MARK}.example/")
        front.get(f"/unknown/{MARK}")
        front.get(f"/ibs:dpid=12345&dpuuid={MARK}/../../../../..")
        front.get(f"/ibs:dpid=12345&dpuuid={MARK}%00")
        front.get(f"/ibs:dpid=12345&dpuuid={MARK}{'x' * 20_000}")
        front.get(f"/ibs:dpid=12345&dpuuid={MARK}", f"Cookie: {MARK}={'x' * 20_000}")
        front.get(f"/ibs:dpid=12345&dpuuid={MARK}", "Content-Length: 9999999")
        front.get_plainly(front.plain, f"/ibs:dpid=12345&dpuuid={MARK}")
        front.get_plainly(front.tls, f"/ibs:dpid=12345&dpuuid={MARK}")
        front.get_plainly(front.operators, f"/{MARK}")
        statuses = {front.get(f"/sync?dpid=12345&dpuuid={MARK}").status for _ in range(300)}
        assert 429 in statuses
        endpoint.stop()
        away = wait_for_away(front)
        assert (away.status, away.header("Retry-After"), away.header("Cache-Control")) == (503, "5", "no-store")
        lines = front.lines()
    assert {line.split()[1] for line in lines} >= {"200", "400", "403", "404", "429", "503"}
    written = [file for file in (tmp_path / "nginx").rglob("*") if file.is_file()]
    assert {file.name for file in written} >= {"idsync.log", "error.log"}
    assert [file.name for file in written if MARK.encode() in file.read_bytes()] == []
    assert [line for line in lines if "127.0.0.1" in line] == []
    assert not (tmp_path / "nginx" / "distribution.log").exists() or not (
        (tmp_path / "nginx" / "distribution.log").read_bytes()
    )


def wait_for_away(front: Front) -> Answer:
    """Past the rate limit, which the calls before have used up."""
    answers = [front.get(f"/sync?dpid=12345&dpuuid={MARK}")]

    def told() -> bool:
        answers.append(front.get(f"/sync?dpid=12345&dpuuid={MARK}"))
        return answers[-1].status != 429

    wait_until(told, "a call that is not limited")
    return answers[-1]


def test_the_log_tells_what_happened(front: Front) -> None:
    before = len(front.lines())
    front.get("/id?dpid=12345&dpuuid=logged")
    wait_until(lambda: len(front.lines()) > before, "a line in the log")
    _, status, route, seconds, upstream, *_ = front.lines()[-1].split()
    assert (status, route, upstream) == ("200", "id", "200")
    assert float(seconds) < PATIENCE_SECONDS
