"""gunicorn, set up for the endpoint: options, a worker whose log holds no request, and the run in the foreground."""

import importlib.util
import traceback
from http import HTTPStatus
from typing import Any

from gunicorn import util
from gunicorn.app.base import BaseApplication
from gunicorn.http import errors
from gunicorn.workers.gthread import ThreadWorker

from idsync import reply
from idsync.errors import IdsyncError

THREADS = 8
REQUEST_LINE_BYTES = 8190  # gunicorn's maximum: a redir may nest a URL that nests a consent string
KEEPALIVE_SECONDS = 65  # longer than nginx keeps one (60 s): nginx closes it and never meets a reset
DRAIN_SECONDS = 30

_CLIENT_FAULTS: tuple[tuple[type[Exception], int], ...] = (
    (errors.LimitRequestLine, 414),
    (errors.LimitRequestHeaders, 431),
    (errors.ExpectationFailed, 417),
    (errors.UnsupportedTransferCoding, 501),
    (errors.ParseException, 400),
)


class Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's threaded worker, but what it can't parse or answer is neither logged nor sent back.

    gunicorn logs the request line or header that it refused, and the target of a call that failed: they hold IDs.
    """

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        status = next((status for kind, status in _CLIENT_FAULTS if isinstance(exc, kind)), 500)
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            where = "".join(traceback.format_tb(exc.__traceback__))
            self.log.error("%s while answering\n%s", type(exc).__name__, where)
        else:
            self.log.warning("Refused a request that is not valid HTTP: %s", type(exc).__name__)
        phrase = HTTPStatus(status).phrase
        answer = reply.text(status, f"{phrase}\n", [("Connection", "close")])
        lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in answer.headers), "", ""]
        try:
            util.write_nonblock(client, "\r\n".join(lines).encode() + answer.body)
        except OSError:
            self.log.debug("The client was gone before it was answered")


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn around `load`, a factory of a WSGI application; it is called in each worker, after the fork.

    Only the options below apply: neither $GUNICORN_CMD_ARGS nor a gunicorn.conf.py is read.
    """

    def __init__(self, load: Any, *, bind: str, workers: int) -> None:
        self._load = load
        self._bind = bind
        self._workers = workers
        self.listening = False
        super().__init__(prog="idsync")

    def load_config(self) -> None:
        for name, value in {
            "bind": self._bind,
            "workers": self._workers,
            "worker_class": Worker,
            "threads": THREADS,
            "http_parser": "fast",  # "auto" falls back to the slow one in silence
            "limit_request_line": REQUEST_LINE_BYTES,
            "keepalive": KEEPALIVE_SECONDS,
            "graceful_timeout": DRAIN_SECONDS,
            "control_socket_disable": True,  # a way to command the server that nobody asked for
            "forwarder_headers": "",  # SCRIPT_NAME and PATH_INFO as headers would be taken from a proxy's clients
            "accesslog": None,  # targets hold IDs
            "errorlog": "-",
            "loglevel": "info",  # "debug" logs targets
            "proc_name": "idsync",
            "when_ready": self._when_ready,
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        return self._load()

    def _when_ready(self, server: Any) -> None:
        self.listening = True


def run(load: Any, *, bind: str, workers: int) -> None:
    """Serve until SIGTERM (calls in flight are answered first) or SIGINT; ends the process by SystemExit."""
    if importlib.util.find_spec("gunicorn_h1c") is None:
        # gunicorn itself would start, and then fail on every request.
        raise IdsyncError("gunicorn_h1c is not installed", mend="pip install -r requirements.txt")
    server = Server(load, bind=bind, workers=workers)
    try:
        server.run()
    except SystemExit as stop:
        if stop.code and not server.listening:
            raise IdsyncError(f"can't listen on {bind}", mend="see the line above; name another with --bind") from None
        raise
