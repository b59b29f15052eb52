"""A real browser, headless, and the web that it sees: hosts with TLS on 127.0.0.1, a site, Audience Manager's place.

The browser finds no other host. What it sent to a host is taken down where TLS ends, so that also counts what a page
sends while it goes away, which the browser itself no longer tells.
"""

import asyncio
import re
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import unquote

from playwright.sync_api import BrowserContext, Playwright, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
# Without a window Chromium says so, and the endpoint takes it for a robot.
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36"
START_SECONDS = 20
_CHUNK = 65_536


class Asked(NamedTuple):
    """A request as it came. Header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]


class Web:
    """Ends TLS for some hosts and hands their bytes on to plain servers, each on its own port of 127.0.0.1."""

    def __init__(self, folder: Path, servers: Mapping[str, int]) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*_certificate(folder))
        self._servers = servers
        self._asked: dict[str, list[Asked]] = {host: [] for host in servers}
        self._ports: dict[str, int] = {}
        self._listeners: list[asyncio.Server] = []
        self._open: set[asyncio.Task[None] | None] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(START_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(START_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS)
        self._loop.close()

    def asked(self, host: str, part: str = "") -> list[Asked]:
        """What a host was asked for so far, of the targets that hold `part`."""
        return [asked for asked in self._asked[host] if part in asked.target]

    def browser_options(self) -> list[str]:
        """Leads the browser here, for every host that there is."""
        rules = [f"MAP {host}:443 127.0.0.1:{port}" for host, port in self._ports.items()]
        return [f"--host-resolver-rules={', '.join([*rules, 'MAP * ~NOTFOUND'])}", "--ignore-certificate-errors"]

    async def _listen(self) -> None:
        for host in self._servers:
            server = await asyncio.start_server(self._handler(host), "127.0.0.1", 0, ssl=self._context)
            self._listeners.append(server)
            self._ports[host] = server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        for server in self._listeners:
            server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _handler(self, host: str) -> Any:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._open.add(asyncio.current_task())  # asyncio itself would let go of it while it waits
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._servers[host])
            heads = _Heads(self._asked[host])
            with suppress(OSError, asyncio.CancelledError):
                await asyncio.gather(_pump(reader, server_writer, heads), _pump(server_reader, writer))
            for end in (writer, server_writer):
                end.transport.abort()
            self._open.discard(asyncio.current_task())

        return handle


class _Heads:
    """Takes down the requests of one connection. Those that have a body are of no interest here."""

    def __init__(self, asked: list[Asked]) -> None:
        self._asked = asked
        self._rest = b""

    def __call__(self, data: bytes) -> None:
        *heads, self._rest = (self._rest + data).split(b"\r\n\r\n")
        for head in heads:
            first, *lines = head.decode("latin-1").split("\r\n")
            if match := re.fullmatch(r"(GET|HEAD) (\S+) HTTP/1\.1", first):
                fields = (line.partition(": ") for line in lines)
                headers = {name.lower(): value for name, _, value in fields}
                self._asked.append(Asked(match[1], match[2], headers))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heads: _Heads | None = None) -> None:
    while data := await reader.read(_CHUNK):
        if heads is not None:
            heads(data)
        writer.write(data)
        await writer.drain()
    writer.close()


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A throw-away one, which the browser is told not to look at."""
    cert, key = folder / "web.crt", folder / "web.key"
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command = [*new, "-days", "2", "-subj", "/CN=web", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True, timeout=START_SECONDS)
    return cert, key


# --- stand-ins -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    body: str
    headers: Mapping[str, str]


class Site:
    """A customer's website: pages that a test puts there, and the reports of a Content-Security-Policy."""

    def __init__(self) -> None:
        self.reports: list[str] = []
        self._pages: dict[str, Page] = {}

    def put(self, path: str, body: str, headers: Mapping[str, str] | None = None) -> None:
        kind = "text/javascript" if path.endswith(".js") else "text/html; charset=utf-8"
        self._pages[path] = Page(body, {"Content-Type": kind, **(headers or {})})

    def answer(self, target: str) -> tuple[int, Mapping[str, str], bytes]:
        page = self._pages.get(target.partition("?")[0])
        return (200, page.headers, page.body.encode()) if page else (404, {}, b"")


class AudienceManager:
    """What dpm.demdex.net does with a sync call: fills in its UUID for the macro, and sends the visitor back."""

    def __init__(self, uuid: str) -> None:
        self._uuid = uuid

    def answer(self, target: str) -> tuple[int, Mapping[str, str], bytes]:
        call = re.fullmatch(r"/ibs:dpid=\d+&dpuuid=[^&]+&redir=([^&]+)", target)
        if call is None:
            return 400, {}, b""
        location = unquote(call[1]).replace("${DD_UUID}", self._uuid)
        return 302, {"Location": location}, b""


@contextmanager
def standing_in(stand_in: Site | AudienceManager) -> Iterator[int]:
    """Serves it on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = stand_in.answer(self.path)
            self.send_response(status)
            for name, value in {"Cache-Control": "no-store", **headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if isinstance(stand_in, Site):
                stand_in.reports.append(body.decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """A test's output is its own."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join(START_SECONDS)
        server.server_close()


class Chromium:
    """`browser` gives out private windows; it blocks third-party cookies there."""

    def __init__(self, playwright: Playwright, options: Sequence[str]) -> None:
        self._type, self._options = playwright.chromium, ["--no-sandbox", f"--user-agent={USER_AGENT}", *options]
        self.browser = self._type.launch(executable_path=CHROMIUM, args=self._options)

    @contextmanager
    def profile(self, folder: Path) -> Iterator[BrowserContext]:
        """An ordinary window, which is told to let them pass."""
        preferences = folder / "Default" / "Preferences"
        preferences.parent.mkdir(parents=True)
        preferences.write_text('{"profile": {"cookie_controls_mode": 0, "block_third_party_cookies": false}}')
        with self._type.launch_persistent_context(folder, executable_path=CHROMIUM, args=self._options) as context:
            yield context


@contextmanager
def browsing(web: Web) -> Iterator[Chromium]:
    """While it runs, the thread has an event loop: no asyncio.run beside it."""
    with sync_playwright() as playwright:
        chromium = Chromium(playwright, web.browser_options())
        with chromium.browser:
            yield chromium
