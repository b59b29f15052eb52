"""A server that speaks as much of S3 as uploads need, checks all that it is sent, and keeps none of it.

    python -m tests.bench.sink PORT

It refuses a body whose x-amz-content-sha256 or x-amz-checksum-* (CRC-32, CRC-64/NVME, SHA-256) is another, and one
without any checksum. Signatures are not looked at.
"""

import base64
import hashlib
import re
import sys
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qs, urlsplit

from awscrt.checksums import combine_crc64nvme, crc64nvme

_PIECE = 1 << 20
Part = tuple[int, int]  # CRC-64/NVME and length


class _Crc:
    """Like a hash of hashlib."""

    def __init__(self, function: Callable[[bytes, int], int], size: int) -> None:
        self._function, self._size, self.value = function, size, 0

    def update(self, data: bytes) -> None:
        self.value = self._function(data, self.value)

    def digest(self) -> bytes:
        return self.value.to_bytes(self._size, "big")


class Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    parts: ClassVar[dict[str, dict[int, Part]]] = {}

    def do_HEAD(self) -> None:
        self._answer(404 if urlsplit(self.path).path.count("/") > 1 else 200)

    def do_GET(self) -> None:
        self._answer(200, b"<ListMultipartUploadsResult></ListMultipartUploadsResult>")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        address = urlsplit(self.path)
        if "uploads" in address.query:
            name = address.path.replace("/", "-")
            self.parts[name] = {}
            self._answer(200, _xml("InitiateMultipartUploadResult", f"<UploadId>{name}</UploadId>"))
            return
        whole = 0
        for _, (crc, length) in sorted(self.parts.pop(parse_qs(address.query)["uploadId"][0]).items()):
            whole = combine_crc64nvme(whole, crc, length)
        sent = self.headers.get("x-amz-checksum-crc64nvme")
        told = base64.b64encode(whole.to_bytes(8, "big")).decode()
        if sent and sent != told:
            self._answer(400, _xml("Error", "<Code>BadDigest</Code>"))
            return
        content = f"<ETag>x</ETag><ChecksumCRC64NVME>{told}</ChecksumCRC64NVME><ChecksumType>FULL_OBJECT</ChecksumType>"
        self._answer(200, _xml("CompleteMultipartUploadResult", content))

    def do_PUT(self) -> None:
        digests: dict[str, Any] = {
            "x-amz-content-sha256": hashlib.sha256(),
            "x-amz-checksum-sha256": hashlib.sha256(),
            "x-amz-checksum-crc32": _Crc(zlib.crc32, 4),
            "x-amz-checksum-crc64nvme": _Crc(crc64nvme, 8),
        }
        asked = {name: digests[name] for name in digests if self.headers.get(name)}
        whole = _Crc(crc64nvme, 8)
        length = left = int(self.headers["Content-Length"])
        while left:
            piece = self.rfile.read(min(_PIECE, left))
            left -= len(piece)
            for digest in (*asked.values(), whole):
                digest.update(piece)
        right = any("checksum" in name for name in asked) and all(
            self.headers[name] == (value.hex() if "content" in name else base64.b64encode(value).decode())
            for name, value in ((name, digest.digest()) for name, digest in asked.items())
        )
        if not right:
            self._answer(400, _xml("Error", "<Code>BadDigest</Code>"))
            return
        query = parse_qs(urlsplit(self.path).query)
        if "uploadId" in query:
            self.parts[query["uploadId"][0]][int(query["partNumber"][0])] = whole.value, length
        self._answer(200, headers={"ETag": '"x"'} | {name: self.headers[name] for name in asked if "check" in name})

    def _answer(self, status: Literal[200, 400, 404], body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _xml(name: str, content: str) -> bytes:
    return re.sub(r"\s+<", "<", f'<?xml version="1.0"?><{name}>{content}</{name}>').encode()


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Sink).serve_forever()
