"""The fast front: answers sync calls itself, and hands every other route to the Flask application.

A sync call costs one pass through this module, without threads or a router. Routes that people and monitors ask for may
take their time.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from a2wsgi import WSGIMiddleware

from idsync import call, signals
from idsync.app import create_app
from idsync.decision import Admitted
from idsync.reply import Reply
from idsync.service import METHODS, NOTHING_TO_RECORD, Service

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# ASGI tells path and query only, and `/ibs:dpid=1&dpuuid=a?` from the same without `?` no more: our server adds this.
RAW_TARGET = "idsync.raw_target"
_ROUTE_THREADS = 4


class Application:
    """An ASGI application over `service`, which it closes when the server shuts down."""

    def __init__(self, service: Service) -> None:
        self.service = service
        flask = create_app(service)

        def mounted(environ: Any, start_response: Any) -> Any:
            environ["RAW_URI"] = _raw_target(environ["asgi.scope"])
            return flask(environ, start_response)

        self._mounted: Any = WSGIMiddleware(mounted, workers=_ROUTE_THREADS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            peer = scope["client"][0] if scope.get("client") else ""
            answer = await self.reply(scope["method"], _raw_target(scope), scope["headers"], peer)
            if answer is None:
                await self._mounted(scope, receive, send)
            else:
                await _leave(answer, send, bodiless=scope["method"] == "HEAD")
        elif kind == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close"})

    async def reply(self, method: str, target: str, headers: Iterable[tuple[bytes, bytes]], peer: str) -> Reply | None:
        """The reply to a sync call; None for what is none, and belongs to the mounted application.

        `target` as it came in, names of `headers` in lower case.
        """
        if not call.is_sync_call(target):
            return None
        given = signals.from_raw(headers, peer)
        if method not in METHODS:
            return self.service.no_call(method, given)
        start = time.perf_counter()
        admitted = self.service.admit(target, given)
        if isinstance(admitted, Admitted):
            work = admitted.work()
            recorded = await self.service.recorder.record_soon(work) if work else NOTHING_TO_RECORD
            admitted = self.service.answer(admitted, recorded)
        elif admitted.opt_out:
            admitted = await asyncio.to_thread(self.service.keep, admitted)
        return self.service.leave(admitted, given, time.perf_counter() - start)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.service.close()
        await send({"type": "lifespan.shutdown.complete"})


def _raw_target(scope: Scope) -> str:
    target: str = scope["extensions"][RAW_TARGET]
    return target


async def _leave(answer: Reply, send: Send, *, bodiless: bool) -> None:
    """Where a reply leaves as messages of ASGI. `server` writes it to the connection itself.

    gunicorn would drop the body of a reply to HEAD, and warn of it each time: anybody could fill the log.
    """
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if bodiless else answer.body})
