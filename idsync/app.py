"""The Flask application: raw target and headers -> call, decision, one write, reply.

Sync calls are told apart by the raw request target, before Flask's router sees the path: the router works on the
decoded path, where `%26` has become a separator already.
"""

import time
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from flask import Flask, Response, request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException

from idsync import access, call, metrics, reply, signals, tag
from idsync.decision import Admitted
from idsync.defects import log_defect
from idsync.reply import Reply
from idsync.service import METHODS, NOTHING_TO_RECORD, Service
from idsync.signals import Signals

_HEADERS = {f"HTTP_{header.upper().replace('-', '_')}": field for header, field in signals.FIELDS.items()}


_TAG = Path(__file__).parent / "static" / "idsync.js"
_JAVASCRIPT = "text/javascript; charset=utf-8"


def create_app(service: Service) -> Flask:
    """The endpoint, whole, for any WSGI server."""
    app = _Endpoint(__name__, static_folder=None)
    scripts = tag.scripts(_TAG.read_text(), service.settings)

    @app.before_request
    def sync_call() -> Response | None:
        target = _raw_target()
        is_opt_out = call.is_opt_out(target)
        if not is_opt_out and not call.is_sync_call(target):
            return None
        given = _signals()
        if request.method not in METHODS:
            return _leave(service.no_call(request.method, given))
        start = time.perf_counter()
        admitted = service.opt_out(target, given) if is_opt_out else service.admit(target, given)
        if isinstance(admitted, Admitted):
            work = admitted.work()
            recorded = service.recorder.record(work) if work else NOTHING_TO_RECORD
            admitted = service.answer(admitted, recorded)
        elif not is_opt_out:
            admitted = service.keep(admitted)
        return _leave(service.leave(admitted, given, time.perf_counter() - start))

    @app.get("/healthz")
    def healthz() -> Response:
        return _leave(reply.text(200, "ok\n"))

    @app.get("/readyz")
    def readyz() -> Response:
        return _leave(service.readiness())

    @app.get("/metrics")
    def exposition() -> Response:
        body, content_type = metrics.expose(service.spooled)
        return _leave(reply.content(200, body, content_type))

    if service.status_page:
        page = service.status_page

        @app.get("/status")
        def status() -> Response:
            return _leave(page.answer(access.asker(request.environ.get("REMOTE_ADDR", ""), request.headers)))

    @app.get("/robots.txt")
    def robots() -> Response:
        return _leave(reply.text(200, "User-agent: *\nDisallow: /\n"))

    @app.get(tag.PATH)
    def website_tag() -> Response:
        # Flask's own reading of a query fails on bytes that are not UTF-8.
        asked = parse_qs(request.query_string.decode("latin-1"), keep_blank_values=True)
        script = scripts.get(asked.get("data_source", [None])[0])
        if script is None:
            return _leave(reply.text(404, "there is no such data source here, or it has no placement\n"))
        if request.if_none_match.contains_weak(script.etag):
            return _leave(reply.not_modified(script.etag, tag.MAX_AGE_SECONDS))
        return _leave(reply.cached(script.body, _JAVASCRIPT, script.etag, tag.MAX_AGE_SECONDS))

    @app.errorhandler(HTTPException)
    def no_such_route(error: HTTPException) -> Response:
        status = error.code or 500
        extra = [("Allow", ", ".join(METHODS))] if status == HTTPStatus.METHOD_NOT_ALLOWED else []
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
        log_defect(exc_info[1])


def _leave(answer: Reply) -> Response:
    """The one place where a reply leaves."""
    status = f"{answer.status} {HTTPStatus(answer.status).phrase}"
    # In a list: to a bare body Werkzeug adds its length, which no 204 or 304 may have.
    return _RawResponse([answer.body], status, Headers(list(answer.headers)))


def _signals() -> Signals:
    environ = request.environ
    found = {field: environ.get(key, "") for key, field in _HEADERS.items()}
    return Signals(**found, peer=environ.get("REMOTE_ADDR", ""))


def _raw_target() -> str:
    """The request target as it came in: RAW_URI is gunicorn's name for it, REQUEST_URI that of other servers."""
    environ = request.environ
    target = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if not target:
        raise RuntimeError("the WSGI server gives neither RAW_URI nor REQUEST_URI; without it %26 can't be told from &")
    return str(target)
