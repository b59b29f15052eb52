"""A stand-in for S3 that is stricter than moto: it checks what it is sent, and fails when told to.

It refuses a PUT without `If-None-Match: *` or with a body that is not what `x-amz-checksum-sha256` and Content-Length
say, and keeps the first object under a key for ever. Signatures are not checked.
"""

import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import ClassVar
from urllib.parse import unquote, urlsplit

from moto.server import ThreadedMotoServer

TEXTS = {
    "AccessDenied": 403,
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "ConditionalRequestConflict": 409,
    "PreconditionFailed": 412,
    "BadDigest": 400,
    "InvalidRequest": 400,
    "InternalError": 500,
    "SlowDown": 503,
}


@dataclass
class StrictS3:
    """`objects` by path (/bucket/key) and `acls`; `faults` are used up one a PUT: an error code, "lose the answer",
    "hang" (never answer; nothing is kept), "hang after storing", or "" for none. `hanging` is set once one does."""

    url: str = ""
    buckets: set[str] = field(default_factory=lambda: {"inbound"})
    objects: dict[str, bytes] = field(default_factory=dict)
    acls: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    puts: int = 0
    hanging: Event = field(default_factory=Event)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: ClassVar[StrictS3]

    def do_PUT(self) -> None:
        state, path = self.state, self._path()
        state.puts += 1
        if self.headers.get("Expect") == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fault = state.faults.pop(0) if state.faults else ""
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        if code := self._objection(path, digest, fault):
            self._refuse(code)
            return
        if fault == "hang":
            self._hang()
            return
        state.objects[path] = body
        state.acls[path] = self.headers["x-amz-acl"]
        if fault == "hang after storing":
            self._hang()
            return
        if fault == "lose the answer":
            self.close_connection = True
            self.connection.close()
            return
        self._answer(200, b"", {"x-amz-checksum-sha256": digest})

    def _hang(self) -> None:
        """Until the client is gone."""
        self.state.hanging.set()
        self.close_connection = True
        with suppress(ConnectionResetError):
            self.connection.recv(1)

    def _objection(self, path: str, digest: str, fault: str) -> str | None:
        """The code with which this PUT is refused, if it is."""
        objections = {
            fault: fault in TEXTS,
            "NoSuchBucket": path.split("/")[1] not in self.state.buckets,
            "InvalidRequest": self.headers.get("If-None-Match") != "*" or not self.headers.get("x-amz-acl"),
            "BadDigest": self.headers.get("x-amz-checksum-sha256") != digest,
            "PreconditionFailed": path in self.state.objects,
        }
        return next((code for code, holds in objections.items() if holds), None)

    def do_HEAD(self) -> None:
        self._get(with_body=False)

    def do_GET(self) -> None:
        self._get(with_body=True)

    def _get(self, *, with_body: bool) -> None:
        body = self.state.objects.get(self._path())
        if body is None:
            self._refuse("NoSuchKey")
            return
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        self._answer(200, body, {"x-amz-checksum-sha256": digest}, with_body=with_body)

    def _path(self) -> str:
        return unquote(urlsplit(self.path).path)

    def _refuse(self, code: str) -> None:
        self._answer(TEXTS[code], f"<Error><Code>{code}</Code><Message>as told</Message></Error>".encode(), {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str], *, with_body: bool = True) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def strict_s3() -> Iterator[StrictS3]:
    state = StrictS3()
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def moto_s3() -> Iterator[str]:
    """The URL of a server that knows all calls, but accepts wrong checksums."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
