"""A stand-in for S3 that is stricter than moto: it checks what it is sent, and fails when told to.

It refuses a write without `If-None-Match: *`, an ACL, or a checksum, and one whose body is not what Content-Length and
the checksums say; parts that are too small, too many, unknown, out of order, or not what the whole should be. It keeps
the first object under a key for ever. Signatures are not checked.
"""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from awscrt.checksums import crc64nvme
from moto.moto_api._internal.models import moto_api_backend
from moto.server import ThreadedMotoServer

TEXTS = {
    "AccessDenied": 403,
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "NoSuchUpload": 404,
    "ConditionalRequestConflict": 409,
    "PreconditionFailed": 412,
    "BadDigest": 400,
    "EntityTooSmall": 400,
    "InvalidPart": 400,
    "InvalidPartOrder": 400,
    "InvalidRequest": 400,
    "RequestTimeout": 400,
    "InternalError": 500,
    "ServiceUnavailable": 503,
    "SlowDown": 503,
}
_POLL_SECONDS = 0.02  # how long a server takes to notice that it is to end
SMALLEST_PART = 5 << 20  # but for the last one


@dataclass
class Stored:
    """An upload in parts, under way."""

    path: str
    acl: str
    checksum: tuple[str | None, str | None]
    parts: dict[int, bytes] = field(default_factory=dict)


@dataclass
class StrictS3:
    """`objects` by path (/bucket/key), `headers` that they were put with, and `uploads` under way by ID.

    `faults` are used up one a PUT (of an object or a part), `last_faults` one a completion: an error code, "lose the
    answer", "cut" (in the middle of the body), "hang" (never answer; nothing is kept), "hang after storing", "fail in
    the answer" (200, then an error; completions only), or "" for none. `hanging` is set once one hangs. `hidden`:
    nobody may look at objects or list uploads. `attests`: tell the checksums of objects.
    """

    url: str = ""
    buckets: set[str] = field(default_factory=lambda: {"inbound"})
    objects: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    checksums: dict[str, dict[str, str]] = field(default_factory=dict)
    uploads: dict[str, Stored] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    last_faults: list[str] = field(default_factory=list)
    hidden: bool = False
    attests: bool = True
    puts: int = 0
    part_numbers: list[int] = field(default_factory=list)  # of the parts that were taken, in order
    aborted: list[str] = field(default_factory=list)
    read: int = 0  # objects that were downloaded
    begun: int = 0
    hanging: Event = field(default_factory=Event)
    lock: Lock = field(default_factory=Lock)

    @property
    def acls(self) -> dict[str, str]:
        return {path: headers["x-amz-acl"] for path, headers in self.headers.items()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: ClassVar[StrictS3]

    # --- writing ---------------------------------------------------------------------------------------------------

    def do_PUT(self) -> None:
        state, path, query = self.state, self._path(), self._query()
        with state.lock:
            state.puts += 1
            fault = state.faults.pop(0) if state.faults else ""
        if self.headers.get("Expect") == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        length = int(self.headers["Content-Length"])
        if fault == "cut":
            self.rfile.read(length // 2)
            self._cut()
            return
        body = self.rfile.read(length)
        if fault == "hang":
            self._hang()
            return
        with state.lock:
            code = fault if fault in TEXTS else self._objection(path, query, body)
            if not code:
                self._keep(path, query, body)
        if code:
            self._refuse(code)
        elif fault == "hang after storing":
            self._hang()
        elif fault == "lose the answer":
            self._cut()
        else:
            self._answer(200, b"", {"ETag": _etag(body), **(_sums(body) if self.state.attests else {})})

    def _objection(self, path: str, query: Mapping[str, str], body: bytes) -> str | None:
        """The code with which this PUT is refused, if it is."""
        if path.split("/")[1] not in self.state.buckets:
            return "NoSuchBucket"
        if code := self._mangled(body):
            return code
        if "uploadId" in query:
            upload = self.state.uploads.get(query["uploadId"])
            return None if upload and upload.path == path else "NoSuchUpload"
        if self.headers.get("If-None-Match") != "*" or not self.headers.get("x-amz-acl"):
            return "InvalidRequest"
        return "PreconditionFailed" if path in self.state.objects else None

    def _mangled(self, body: bytes) -> str | None:
        said = {name: self.headers[name] for name in _sums(b"") | {"Content-MD5": ""} if name in self.headers}
        if not said:
            return "InvalidRequest"
        really = {**_sums(body), "Content-MD5": base64.b64encode(_md5(body).digest()).decode()}
        return None if all(really[name] == value for name, value in said.items()) else "BadDigest"

    def _keep(self, path: str, query: Mapping[str, str], body: bytes) -> None:
        if "uploadId" in query:
            number = int(query["partNumber"])
            self.state.uploads[query["uploadId"]].parts[number] = body
            self.state.part_numbers.append(number)
        else:
            self._appear(path, body, {"x-amz-checksum-sha256": _sums(body)["x-amz-checksum-sha256"]})
            self.state.headers[path] = {name.lower(): value for name, value in self.headers.items()}

    def _appear(self, path: str, body: bytes, checksums: dict[str, str]) -> None:
        self.state.objects[path] = body
        self.state.checksums[path] = checksums

    def do_POST(self) -> None:
        state, path, query = self.state, self._path(), self._query()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "uploads" in query:
            with state.lock:
                state.begun += 1
                upload_id = f"upload-{state.begun}"
                checksum = self.headers.get("x-amz-checksum-algorithm"), self.headers.get("x-amz-checksum-type")
                code = "NoSuchBucket" if path.split("/")[1] not in state.buckets else None
                code = code or ("InvalidRequest" if not self.headers.get("x-amz-acl") else None)
                if not code:
                    state.uploads[upload_id] = Stored(path, self.headers["x-amz-acl"], checksum)
                    state.headers[path] = {name.lower(): value for name, value in self.headers.items()}
            if code:
                self._refuse(code)
            else:
                self._answer(200, _xml("InitiateMultipartUploadResult", f"<UploadId>{upload_id}</UploadId>"), {})
            return
        self._put_together(path, query["uploadId"], body.decode())

    def _put_together(self, path: str, upload_id: str, body: str) -> None:
        state = self.state
        with state.lock:
            fault = state.last_faults.pop(0) if state.last_faults else ""
            code = fault if fault in TEXTS else next(self._last_objections(path, upload_id, body), None)
            if not code and fault not in {"hang", "fail in the answer"}:
                upload = state.uploads.pop(upload_id)
                whole = b"".join(upload.parts[number] for number, _ in _listed(body))
                crc = {"x-amz-checksum-crc64nvme": _sums(whole)["x-amz-checksum-crc64nvme"]}
                self._appear(path, whole, {**crc, "x-amz-checksum-type": "FULL_OBJECT"} if upload.checksum[0] else {})
        if code:
            self._refuse(code)
        elif fault in {"hang", "hang after storing"}:
            self._hang()
        elif fault == "lose the answer":
            self._cut()
        elif fault == "fail in the answer":
            self._answer(200, _xml("Error", "<Code>InternalError</Code><Message>as told</Message>"), {})
        else:
            told = state.checksums[path].get("x-amz-checksum-crc64nvme")
            shown = f"<ChecksumCRC64NVME>{told}</ChecksumCRC64NVME>" if told and state.attests else ""
            self._answer(200, _xml("CompleteMultipartUploadResult", f'<ETag>"whole"</ETag>{shown}'), {})

    def _last_objections(self, path: str, upload_id: str, body: str) -> Iterator[str]:
        """What speaks against putting the parts together, first things first: the first is to be taken."""
        upload, listed = self.state.uploads.get(upload_id, Stored("", "", (None, None))), _listed(body)
        numbers = [number for number, _ in listed]
        if upload.path != path:
            yield "NoSuchUpload"
        if self.headers.get("If-None-Match") != "*" or not listed:
            yield "InvalidRequest"
        if path in self.state.objects:
            yield "PreconditionFailed"
        if numbers != sorted(set(numbers)):
            yield "InvalidPartOrder"
        if any(number not in upload.parts or _etag(upload.parts[number]) != etag for number, etag in listed):
            yield "InvalidPart"
        if any(len(upload.parts[number]) < SMALLEST_PART for number in numbers[:-1]):
            yield "EntityTooSmall"
        whole = b"".join(upload.parts[number] for number in numbers)
        if upload.checksum[0]:
            size, crc = (self.headers.get(name) for name in ("x-amz-mp-object-size", "x-amz-checksum-crc64nvme"))
            if upload.checksum != ("CRC64NVME", "FULL_OBJECT") or size != str(len(whole)):
                yield "InvalidRequest"
            if crc != _sums(whole)["x-amz-checksum-crc64nvme"]:
                yield "BadDigest"

    def do_DELETE(self) -> None:
        with self.state.lock:
            known = self.state.uploads.pop(upload_id := self._query()["uploadId"], None)
            if known:
                self.state.aborted.append(upload_id)
        if known:
            self._answer(204, b"", {})
        else:
            self._refuse("NoSuchUpload")

    # --- reading ---------------------------------------------------------------------------------------------------

    def do_HEAD(self) -> None:
        self._get(with_body=False)

    def do_GET(self) -> None:
        if "uploads" in (query := self._query()):
            self._list(query.get("prefix", ""))
        else:
            self._get(with_body=True)

    def _list(self, prefix: str) -> None:
        if self.state.hidden:
            self._refuse("AccessDenied")
            return
        shown = "".join(
            f"<Upload><Key>{key}</Key><UploadId>{upload_id}</UploadId></Upload>"
            for upload_id, upload in self.state.uploads.items()
            if (key := upload.path.split("/", 2)[2]).startswith(prefix)
        )
        self._answer(200, _xml("ListMultipartUploadsResult", shown), {})

    def _get(self, *, with_body: bool) -> None:
        path = self._path()
        body = self.state.objects.get(path)
        if self.state.hidden:
            self._refuse("AccessDenied", with_body=with_body)
        elif body is None:
            self._refuse("NoSuchKey", with_body=with_body)
        else:
            self.state.read += with_body
            self._answer(
                200, body, self.state.checksums.get(path, {}) if self.state.attests else {}, with_body=with_body
            )

    # --- answering -------------------------------------------------------------------------------------------------

    def _hang(self) -> None:
        """Until the client is gone."""
        self.state.hanging.set()
        self.close_connection = True
        with suppress(ConnectionResetError):
            self.connection.recv(1)

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _path(self) -> str:
        return unquote(urlsplit(self.path).path)

    def _query(self) -> dict[str, str]:
        found = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        return {name: values[0] for name, values in found.items()}

    def _refuse(self, code: str, *, with_body: bool = True) -> None:
        self._answer(
            TEXTS[code], _xml("Error", f"<Code>{code}</Code><Message>as told</Message>"), {}, with_body=with_body
        )

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


def _md5(body: bytes) -> "hashlib._Hash":
    return hashlib.md5(body, usedforsecurity=False)


def _etag(body: bytes) -> str:
    return f'"{_md5(body).hexdigest()}"'


def _sums(body: bytes) -> dict[str, str]:
    """As S3 names them."""
    sums = {"sha256": hashlib.sha256(body).digest(), "crc64nvme": crc64nvme(body).to_bytes(8, "big")}
    return {f"x-amz-checksum-{name}": base64.b64encode(value).decode() for name, value in sums.items()}


def _listed(body: str) -> list[tuple[int, str]]:
    """Number and ETag of each part that is to make up the object."""
    parts = re.findall(r"<Part>(.*?)</Part>", body, re.DOTALL)
    found = [
        (re.search(r"<PartNumber>(\d+)<", part), re.search(r"<ETag>(.+?)</ETag>", part, re.DOTALL)) for part in parts
    ]
    return [(int(number[1]), etag[1].replace("&quot;", '"')) for number, etag in found if number and etag]


def _xml(name: str, content: str) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?><{name}>{content}</{name}>'.encode()


@contextmanager
def strict_s3() -> Iterator[StrictS3]:
    state = StrictS3()
    with _served(type("Handler", (_Handler,), {"state": state})) as state.url:
        yield state


@dataclass
class Sts:
    """Hands out sessions about to end. `asked`: what each was asked for with. `denies`: no more from now on."""

    url: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)
    denies: bool = False


class _StsHandler(BaseHTTPRequestHandler):
    state: ClassVar[Sts]

    def do_POST(self) -> None:
        state = self.state
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        state.asked.append({name: values[0] for name, values in parse_qs(body).items()})
        if state.denies:
            status, text = 403, _xml("ErrorResponse", "<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
        else:
            end = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
            given = {"AccessKeyId": f"ROLE{len(state.asked)}", "SecretAccessKey": "s", "SessionToken": "t"}
            shown = "".join(f"<{name}>{value}</{name}>" for name, value in {**given, "Expiration": end}.items())
            result = f"<AssumeRoleResult><Credentials>{shown}</Credentials></AssumeRoleResult>"
            status, text = 200, _xml("AssumeRoleResponse", result)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def sts() -> Iterator[Sts]:
    state = Sts()
    with _served(type("Handler", (_StsHandler,), {"state": state})) as state.url:
        yield state


@contextmanager
def _served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, args=(_POLL_SECONDS,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
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
    try:
        yield f"http://{host}:{port}"
    finally:
        moto_api_backend.reset()  # what it keeps is this process's, and would be there for the next one
        server.stop()
