"""What leaves: status, headers and body bytes, in the few shapes that the endpoint knows.

A Reply is complete (Content-Length included): a front writes it out as it is and adds nothing.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# One transparent point, 43 bytes. A byte less is possible, without the end code that strict decoders want.
PIXEL = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAICRAEAOw==")

# Each call must reach us, so nothing may be cached. A target may hold an ID, so it must not travel on as a Referer.
_ALWAYS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
)


class Reply(NamedTuple):
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def pixel(status: int, extra: Sequence[tuple[str, str]] = ()) -> Reply:
    return _reply(status, PIXEL, [("Content-Type", "image/gif"), *extra])


def document(status: int, content: Mapping[str, object], extra: Sequence[tuple[str, str]] = ()) -> Reply:
    """`content` as JSON on one line."""
    body = json.dumps(content, ensure_ascii=False).encode() + b"\n"
    return _reply(status, body, [("Content-Type", "application/json"), *extra])


def content(status: int, body: bytes, content_type: str) -> Reply:
    return _reply(status, body, [("Content-Type", content_type)])


def text(status: int, content: str, extra: Sequence[tuple[str, str]] = ()) -> Reply:
    return _reply(status, content.encode(), [("Content-Type", "text/plain; charset=utf-8"), *extra])


def redirect(location: str, extra: Sequence[tuple[str, str]] = ()) -> Reply:
    """A 302 to `location`, which must be checked already: it leaves byte for byte."""
    return _reply(302, b"", [("Location", location), *extra])


def _reply(status: int, body: bytes, headers: Sequence[tuple[str, str]]) -> Reply:
    return Reply(status, (*headers, *_ALWAYS, ("Content-Length", str(len(body)))), body)
