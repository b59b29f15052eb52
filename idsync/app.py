"""The Flask application: raw target and headers -> call, decision, one write, reply.

Sync calls are told apart by the raw request target, before Flask's router sees the path: the router works on the
decoded path, where `%26` has become a separator already.
"""

import os
import time
import traceback
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException

from idsync import call, config, decision, ids, reply
from idsync.errors import IdsyncError, StoreMisconfigured, StoreUnavailable
from idsync.reply import Reply
from idsync.settings import Settings
from idsync.store.base import MappingStore

_METHODS = ("GET", "HEAD")
_ALLOW = ("Allow", ", ".join(_METHODS))


def milliseconds_now() -> int:
    return time.time_ns() // 1_000_000


def create_app(
    settings: Settings,
    store: MappingStore,
    *,
    clock: Callable[[], int] = milliseconds_now,
    entropy: Callable[[int], bytes] = os.urandom,
) -> Flask:
    """The endpoint over `store`. `clock` gives milliseconds since the epoch, `entropy(n)` n random bytes."""
    app = _Endpoint(__name__, static_folder=None)

    @app.before_request
    def sync_call() -> Response | None:
        target = _raw_target()
        if not call.is_sync_call(target):
            return None
        if request.method not in _METHODS:
            return _leave(reply.text(405, "sync calls are GET\n", [_ALLOW]))
        signals = decision.Signals(
            cookie=request.environ.get("HTTP_COOKIE", ""), sec_gpc=request.environ.get("HTTP_SEC_GPC", "")
        )
        decided = answer(target, signals)
        return _leave(decided.reply)

    def answer(target: str, signals: decision.Signals) -> decision.Decided:
        admitted = decision.admit(
            call.parse(target), signals, settings, now=clock(), entropy=entropy(ids.UUID_ENTROPY_BYTES)
        )
        if isinstance(admitted, decision.Decided):
            return admitted
        try:
            [uuid] = store.record([admitted.sync])
        except (StoreUnavailable, StoreMisconfigured):
            # Not logged call by call, that would be thousands of equal lines: /readyz tells the reason.
            return decision.unavailable()
        return decision.answer(admitted, uuid, settings)

    @app.get("/healthz")
    def healthz() -> Response:
        return _leave(reply.text(200, "ok\n"))

    @app.get("/readyz")
    def readyz() -> Response:
        try:
            store.check()
        except IdsyncError as error:
            return _leave(reply.document(503, {"ready": False, "reason": config.mask(error.problem)}))
        return _leave(reply.document(200, {"ready": True}))

    @app.get("/robots.txt")
    def robots() -> Response:
        return _leave(reply.text(200, "User-agent: *\nDisallow: /\n"))

    @app.errorhandler(HTTPException)
    def no_such_route(error: HTTPException) -> Response:
        status = error.code or 500
        extra = [_ALLOW] if status == HTTPStatus.METHOD_NOT_ALLOWED else []
        return _leave(reply.text(status, f"{HTTPStatus(status).phrase}\n", extra))

    return app


class _RawResponse(Response):
    """Leaves as it was set. Werkzeug would rewrite Location (`{` to `%7B`) and add a Content-Type to redirects."""

    default_mimetype = None

    def get_wsgi_headers(self, environ: Any) -> Headers:
        return Headers(self.headers)


class _Endpoint(Flask):
    response_class = _RawResponse

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
        self.url_map.merge_slashes = False  # a redirect to the "right" path would echo the path

    def log_exception(self, exc_info: Any) -> None:
        """Where it failed, but neither the path nor the exception's own text: both may hold an ID."""
        kind, _, trace = exc_info
        self.logger.error("%s while answering\n%s", kind.__name__, "".join(traceback.format_tb(trace)))


def _leave(answer: Reply) -> Response:
    """The one place where a reply leaves."""
    status = f"{answer.status} {HTTPStatus(answer.status).phrase}"
    return _RawResponse(answer.body, status, Headers(list(answer.headers)))


def _raw_target() -> str:
    """The request target as it came in: RAW_URI is gunicorn's name for it, REQUEST_URI that of other servers."""
    environ = request.environ
    target = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if not target:
        raise RuntimeError("the WSGI server gives neither RAW_URI nor REQUEST_URI; without it %26 can't be told from &")
    return str(target)
