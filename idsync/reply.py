"""What leaves: status, headers and body bytes, in the few shapes that the endpoint knows.

A Reply is complete (Content-Length included): a front writes it out as it is and adds nothing.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import NamedTuple

# One transparent point, 43 bytes. A byte less is possible, without the end code that strict decoders want.
PIXEL = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAICRAEAOw==")

_JSON = "application/json"

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


# For what pages of other sites load: those that isolate themselves would not get it otherwise.
_FOR_ALL_SITES = ("Cross-Origin-Resource-Policy", "cross-origin")


def pixel(status: int, extra: Sequence[tuple[str, str]] = ()) -> Reply:
    return _reply(status, PIXEL, [("Content-Type", "image/gif"), _FOR_ALL_SITES, *extra])


def document(status: int, content: Mapping[str, object], extra: Sequence[tuple[str, str]] = ()) -> Reply:
    """`content` as JSON on one line."""
    body = json.dumps(content, ensure_ascii=False).encode() + b"\n"
    return _reply(status, body, [("Content-Type", _JSON), *extra])


def script(callback: str, content: Mapping[str, object], extra: Sequence[tuple[str, str]] = ()) -> Reply:
    """`content` as a script that calls `callback`, which must be checked already. The comment in front keeps the caller
    from choosing the first bytes, by which some programs tell the kind of a file.
    """
    body = f"/**/{callback}({json.dumps(content)});\n".encode()
    return _reply(200, body, [("Content-Type", "text/javascript; charset=utf-8"), _FOR_ALL_SITES, *extra])


def with_cors(reply: Reply, origin: str, origins: Sequence[str]) -> Reply:
    """Lets pages of `origins` read a JSON reply, cookie included. Caches are told that it differs by origin."""
    if ("Content-Type", _JSON) not in reply.headers:
        return reply
    allowed = _allowing(origin) if origin in origins else ()
    return reply._replace(headers=(*reply.headers, *allowed, ("Vary", "Origin")))


def options(methods: str, origin: str, origins: Sequence[str]) -> Reply:
    """What may be asked, and whether a page of `origin` may read it."""
    headers = [("Allow", methods)]
    if origins:
        headers.append(("Vary", "Origin"))
    if origin in origins:
        headers += [*_allowing(origin), ("Access-Control-Allow-Methods", methods), ("Access-Control-Max-Age", "600")]
    return _reply(204, b"", headers)


def content(status: int, body: bytes, content_type: str) -> Reply:
    return _reply(status, body, [("Content-Type", content_type)])


def text(status: int, content: str, extra: Sequence[tuple[str, str]] = ()) -> Reply:
    return _reply(status, content.encode(), [("Content-Type", "text/plain; charset=utf-8"), *extra])


def cached(body: bytes, content_type: str, etag: str, seconds: int) -> Reply:
    """The exception from no-store: what is the same for everybody, holds no ID, and may be used by any site."""
    headers = [("Content-Type", content_type), *_caching(etag, seconds), ("Content-Length", str(len(body)))]
    return Reply(200, tuple(headers), body)


def not_modified(etag: str, seconds: int) -> Reply:
    """To whoever has the body of `cached` already. A length would be taken for that body's."""
    return Reply(304, _caching(etag, seconds), b"")


def redirect(location: str, extra: Sequence[tuple[str, str]] = ()) -> Reply:
    """A 302 to `location`, which must be checked already: it leaves byte for byte."""
    return _reply(302, b"", [("Location", location), *extra])


def _allowing(origin: str) -> tuple[tuple[str, str], ...]:
    return ("Access-Control-Allow-Origin", origin), ("Access-Control-Allow-Credentials", "true")


def _caching(etag: str, seconds: int) -> tuple[tuple[str, str], ...]:
    return (
        ("Cache-Control", f"public, max-age={seconds}"),
        ("ETag", f'"{etag}"'),
        ("X-Content-Type-Options", "nosniff"),
        _FOR_ALL_SITES,
    )


def _reply(status: int, body: bytes, headers: Sequence[tuple[str, str]]) -> Reply:
    # A 204 has no body, and must not speak of its length either.
    length = () if status == HTTPStatus.NO_CONTENT else (("Content-Length", str(len(body))),)
    return Reply(status, (*headers, *_ALWAYS, *length), body)
