"""gunicorn, set up for the endpoint: its ASGI worker, with a log that holds no request; the run in the foreground."""

import asyncio
import gc
import importlib.util
import logging
import os
import runpy
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import uvloop
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.asgi.protocol import (
    _CACHED_SERVER_HEADER,
    ASGIProtocol,
    _get_cached_date_header,
    _get_cached_status_line,
)
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers.gasgi import ASGIWorker

from idsync import access, metrics, reply
from idsync.asgi import RAW_TARGET, Application
from idsync.defects import log_defect, told
from idsync.errors import IdsyncError
from idsync.reply import Reply
from idsync.service import open_service
from idsync.settings import Settings

LIMITS = Path(__file__).parent.parent / "deploy" / "gunicorn.conf.py"
FIRST_REQUEST_SECONDS = 10
_IDLE_SECONDS = 1.0
_METRICS = "metrics-"
_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
# A call leaves no cycles behind; Python would look for some after every 700 objects, which is each 20 calls.
_GARBAGE_OBJECTS = 50_000

# gunicorn asks a subclass for its parser, but looks the answer up in the class itself
ASGIProtocol._check_h1c_protocol_available()


class Protocol(ASGIProtocol):  # type: ignore[misc]
    """gunicorn's connection, but a request that is not valid HTTP is neither logged nor sent back, and none is waited
    for without end.
    """

    def __init__(self, worker: Any) -> None:
        super().__init__(worker)
        self._in_request = False
        self._request_ready: asyncio.Event
        self._first_request: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.worker.connections.add(self)
        # gunicorn limits the wait for the second request of a connection (keepalive), not for the first
        self._first_request = self.worker.loop.call_later(FIRST_REQUEST_SECONDS, self._give_up_waiting)

    def _start_http1(self, buffered: bytes = b"") -> None:
        super()._start_http1(buffered)
        if not self._request_ready.is_set():
            self._request_ready = _Ready(self.worker.loop)

    def connection_lost(self, exc: Exception | None) -> None:
        self.worker.connections.discard(self)
        self._cancel_first_request()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._in_request = True
        super().data_received(data)

    def close_if_idle(self) -> None:
        """Close, unless a request has begun to come in or is being answered."""
        if self._awaiting_request and not self._in_request and not self._request_ready.is_set():
            self._keepalive_timeout()

    def _feed_callback_parser(self, data: bytes) -> bool:
        """Where the caller has left, what it had sent ahead is let go: gunicorn would ask who it was, and fail."""
        return not self._closed and super()._feed_callback_parser(data)

    def _on_message_complete(self) -> None:
        self._in_request = False
        self._cancel_first_request()
        super()._on_message_complete()

    def _is_websocket_upgrade(self, _: Any) -> bool:
        """A server may pass over the wish, and then the reply is one of ours, with our headers."""
        return False

    def _build_http_scope(self, request: Any, *addresses: Any) -> dict[str, Any]:
        scope: dict[str, Any] = super()._build_http_scope(request, *addresses)
        scope["extensions"] = {RAW_TARGET: request.uri}
        return scope

    async def _serve_http_request(self, request: Any, sockname: Any, peername: Any) -> bool:
        """Whether the connection may be kept. A sync call is answered here; all else goes gunicorn's way.

        gunicorn starts a task for each request, for applications that go on working when they have answered. Ours
        does not, and a task is a sixth of what gunicorn spends on a request. A third goes into the messages of ASGI,
        which a reply that is complete from the start has no need of.
        """
        if request.method == "GET" and (self._body_receiver is None or self._body_receiver._complete):
            peer = peername[0] if isinstance(peername, tuple) else ""
            answer = await self.worker.asgi.reply("GET", request.uri, request.headers_bytes, peer)
            if answer is not None:
                return await self._leave(answer, request)
        keep: bool = await self._handle_http_request(request, sockname, peername)
        return keep

    async def _leave(self, answer: Reply, request: Any) -> bool:
        """Write a reply whole, with what gunicorn adds to one, unless the client is gone by now."""
        close: bool = self._will_close(request, False)
        if not self._closed:
            fields = "".join([f"{name}: {value}\r\n" for name, value in answer.headers])
            parts = (
                _get_cached_status_line(request.version, answer.status),
                fields.encode("latin-1"),
                _CACHED_SERVER_HEADER,
                _get_cached_date_header(),
                b"Connection: close\r\n\r\n" if close else b"\r\n",
                answer.body,
            )
            self.transport.write(b"".join(parts))
            if self._flow_control is not None and self._flow_control.write_paused:
                await self._flow_control.drain()
        return not close

    def _cancel_first_request(self) -> None:
        if self._first_request is not None:
            self._first_request.cancel()
            self._first_request = None

    def _give_up_waiting(self) -> None:
        if self._awaiting_request:
            self._keepalive_timeout()

    def _send_error_response(self, status: int, message: str, extra_headers: Any = ()) -> None:
        """gunicorn's `message` quotes the request. It also comes here where the caller left before the reply."""
        if self._closed:
            return
        self.log.warning("Refused a request that is not valid HTTP: %d", status)
        phrase = HTTPStatus(status).phrase
        answer = reply.text(status, f"{phrase}\n", [*extra_headers, ("Connection", "close")])
        lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in answer.headers), "", ""]
        self._safe_write("\r\n".join(lines).encode() + answer.body)


class Log(Logger):  # type: ignore[misc]
    """gunicorn's, but of an error that we did not word only the kind and the place: its text may quote a request."""

    def exception(self, msg: str, *arguments: Any, **options: Any) -> None:
        error = sys.exc_info()[1]
        if error is None or isinstance(error, IdsyncError):
            super().exception(msg, *arguments, **options)
        else:
            self.error("%s", told(error))


class _Ready(asyncio.Event):
    """Knows its loop. Python 3.11 seeks it anew for each wait, and asks the system for the process to be sure."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop

    def _get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop


class _Loop(uvloop.Loop):
    """gunicorn's worker names its protocol in a call of this method, and nowhere else."""

    def __init__(self, worker: Any) -> None:
        super().__init__()
        self._worker = worker

    async def create_server(self, _: Any, *arguments: Any, **options: Any) -> Any:  # type: ignore[override]
        return await super().create_server(lambda: Protocol(self._worker), *arguments, **options)


class Worker(ASGIWorker):  # type: ignore[misc]
    """gunicorn's ASGI worker. On SIGTERM it says that it is leaving, and closes idle connections rather than wait."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.connections: set[Protocol] = set()

    def init_process(self) -> None:
        # A loop that does not run yet forgets signals: a worker that is told to stop while it starts would go on, and
        # be waited for until the time-out.
        for number in _STOPPING:
            signal.signal(number, self._stop_before_start)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
        super().init_process()

    def init_signals(self) -> None:
        """Once the loop is about to run."""

    def run(self) -> None:
        super().init_signals()
        super().run()

    def _stop_before_start(self, *_: Any) -> None:
        self.alive = False

    def handle_exit_signal(self) -> None:
        self.asgi.service.draining = True
        super().handle_exit_signal()

    def _setup_event_loop(self) -> None:
        self.loop = _Loop(self)
        self.loop.set_exception_handler(_log_fault)
        asyncio.set_event_loop(self.loop)

    async def _shutdown(self) -> None:
        for server in self.servers:
            server.close()
        if not self._quick_shutdown:
            # A connection that was just accepted, or is just being used again, is not idle.
            await asyncio.sleep(_IDLE_SECONDS)
        for connection in list(self.connections):
            connection.close_if_idle()
        await super()._shutdown()


class _Master(Arbiter):  # type: ignore[misc]
    """gunicorn's master. A worker that was only just forked still has its handlers, which would forget a signal: until
    it has its own, see `Worker.init_process`, signals wait.
    """

    def spawn_worker(self) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        try:
            pid: int = super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
        return pid


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn around `load`, a factory of an ASGI application; it is called in each worker, after the fork.

    Only the options here and `limits` apply: neither $GUNICORN_CMD_ARGS nor a gunicorn.conf.py of the working
    directory is read.
    """

    def __init__(
        self, load: Callable[[], Any], *, bind: str, workers: int, state: Path, limits: Mapping[str, Any]
    ) -> None:
        self._load, self._limits = load, limits
        self._bind, self._workers = bind, workers
        self._metrics = state / f"{_METRICS}{os.getpid()}"
        self.listening = False
        super().__init__(prog="idsync")

    def load_config(self) -> None:
        fixed = {
            "bind": self._bind,
            "workers": self._workers,
            "worker_class": Worker,
            "asgi_lifespan": "on",
            "http_parser": "fast",  # "auto" falls back to the slow one in silence
            "control_socket_disable": True,  # a way to command the server that nobody asked for
            "forwarder_headers": "",  # SCRIPT_NAME and PATH_INFO as headers would be taken from a proxy's clients
            "accesslog": None,  # targets hold IDs
            "errorlog": "-",
            "logger_class": Log,
            "loglevel": "info",  # "debug" logs targets
            "proc_name": "idsync",
            "on_starting": self._on_starting,
            "when_ready": self._when_ready,
            "child_exit": lambda _, worker: metrics.forget_worker(worker.pid),
            "on_exit": lambda _: shutil.rmtree(self._metrics, ignore_errors=True),
        }
        for name, value in {**self._limits, **fixed}.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        return self._load()

    def run(self) -> None:
        """As gunicorn's own, with `_Master`. Raises IdsyncError for settings that nothing can start with."""
        try:
            _Master(self).run()
        except RuntimeError as error:  # of settings that can be set, and not be used
            raise IdsyncError(f"gunicorn can't start: {error}", mend="see gunicorn's settings") from None

    def _on_starting(self, _: Any) -> None:
        _remove_folders_of_the_dead(self._metrics.parent)
        metrics.prepare(self._metrics)

    def _when_ready(self, _: Any) -> None:
        self.listening = True


def run(settings: Settings, *, bind: str, workers: int, limits: Path = LIMITS) -> None:
    """Serve until SIGTERM (calls in flight are answered first) or SIGINT; ends the process by SystemExit."""
    if importlib.util.find_spec("gunicorn_h1c") is None:
        # gunicorn itself would start, and then fail on every request.
        raise IdsyncError("gunicorn_h1c is not installed", mend="pip install -r requirements.txt")

    access.read_token(settings.endpoint)  # a fault in it stops the start, not each worker

    def load() -> Application:
        _log_to_stderr()
        application = Application(open_service(settings))
        # What is loaded now stays. Looking through all of it for garbage takes 20 ms, in which no call is answered.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GARBAGE_OBJECTS)
        return application

    server = Server(load, bind=bind, workers=workers, state=settings.endpoint.spool.parent, limits=read_limits(limits))
    try:
        server.run()
    except SystemExit as stop:
        if stop.code and not server.listening:
            raise IdsyncError(f"can't listen on {bind}", mend="see the line above; name another with --bind") from None
        raise


def read_limits(path: Path) -> dict[str, Any]:
    """gunicorn's settings in a Python file, each known to gunicorn and of a value that it takes."""
    try:
        limits = {name: value for name, value in runpy.run_path(str(path)).items() if not name.startswith("_")}
    except (OSError, SyntaxError, NameError) as error:
        raise IdsyncError(f"{path}: {error}", mend="name a readable file of gunicorn's settings") from None
    trial = Config()
    for name, value in limits.items():
        try:
            trial.set(name, value)
        except AttributeError:
            raise IdsyncError(f"{path}: gunicorn has no setting {name}", mend="see deploy/gunicorn.conf.py") from None
        except (TypeError, ValueError) as error:
            raise IdsyncError(f"{path}: {name} = {value!r}: {error}", mend="see gunicorn's settings") from None
    return limits


def _remove_folders_of_the_dead(state: Path) -> None:
    """What a service that was killed could not take away."""
    for folder in state.glob(f"{_METRICS}*"):
        pid = folder.name.removeprefix(_METRICS)
        if pid.isdecimal() and not _is_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _log_fault(_: Any, context: dict[str, Any]) -> None:
    """asyncio's own handler prints the error's text, and the gist of what was called."""
    if error := context.get("exception"):
        log_defect(error)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _log_to_stderr() -> None:
    """What our own modules log, in gunicorn's form."""
    handler = logging.StreamHandler(sys.stderr)
    form = "%(asctime)s [%(process)d] [%(levelname)s] %(message)s"
    handler.setFormatter(logging.Formatter(form, "[%Y-%m-%d %H:%M:%S %z]"))
    logger = logging.getLogger("idsync")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
