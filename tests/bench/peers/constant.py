"""The ceiling: a pixel, with the headers of a sync call's reply, for whatever is asked. Run: gunicorn, ASGI worker."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from idsync import identity, reply
from idsync.settings import Endpoint

_ANSWER = reply.pixel(200, [("Set-Cookie", identity.set_cookie(Endpoint(), "0" * 38, 120))])
_HEADERS = [(name.encode(), value.encode()) for name, value in _ANSWER.headers]


async def app(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": _ANSWER.status, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": _ANSWER.body})
