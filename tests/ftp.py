"""An FTP server on 127.0.0.1, plain or with TLS, that can be told to fail."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it brings its own asyncore for Python 3.12 and newer
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import DTPHandler, FTPHandler, TLS_DTPHandler, TLS_FTPHandler
    from pyftpdlib.servers import FTPServer

USER, PASSWORD = "acme", "open sesame"
ALL_RIGHTS = "elradfmwMT"
_POLL_SECONDS = 0.02

logging.getLogger("pyftpdlib").setLevel(logging.CRITICAL)


@dataclass
class Ftp:
    """`folder` is what the user sees. Faults, each once: `cut_after` so many bytes of an upload; `lose` the answer to a
    command, after doing it. `stored`: offsets that uploads began at."""

    folder: Path
    port: int = 0
    cut_after: int | None = None
    lose: str = ""
    stored: list[int] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


def _handler(base: Any, data_base: Any, state: Ftp, unknown: frozenset[str]) -> Any:
    class Data(data_base):  # type: ignore[misc]
        def handle_read_event(self) -> None:
            super().handle_read_event()
            if state.cut_after is not None and self.get_transmitted_bytes() >= state.cut_after:
                state.cut_after = None
                self.cmd_channel.close()
                self.close()

    class Handler(base):  # type: ignore[misc]
        dtp_handler = Data
        proto_cmds = {name: about for name, about in base.proto_cmds.items() if name not in unknown}  # noqa: RUF012

        def pre_process_command(self, line: str, cmd: str, arg: str) -> None:
            state.commands.append(cmd)
            if cmd == "STOR":
                state.stored.append(self._restart_position)
            super().pre_process_command(line, cmd, arg)

        def respond(self, resp: str, logfun: Any = None) -> None:
            if state.lose and state.commands and state.commands[-1] == state.lose and resp.startswith("2"):
                state.lose = ""
                self.close()
                return
            super().respond(resp)

    return Handler


@contextmanager
def ftp_server(
    folder: Path,
    *,
    certificate: Path | None = None,
    rights: str = ALL_RIGHTS,
    unknown: frozenset[str] = frozenset(),
) -> Iterator[Ftp]:
    """With TLS, and only with it, where there is a `certificate` (PEM, with its key). `unknown`: commands it lacks."""
    folder.mkdir(parents=True, exist_ok=True)
    state = Ftp(folder)
    handler = _handler(*((TLS_FTPHandler, TLS_DTPHandler) if certificate else (FTPHandler, DTPHandler)), state, unknown)
    handler.authorizer = DummyAuthorizer()
    handler.authorizer.add_user(USER, PASSWORD, str(folder), perm=rights)
    handler.auth_failed_timeout = 0
    if certificate:
        handler.certfile = str(certificate)
        handler.tls_control_required = handler.tls_data_required = True
    server = FTPServer(("127.0.0.1", 0), handler)
    state.port = server.address[1]
    ended = Event()

    def serve() -> None:
        while not ended.is_set():
            server.ioloop.loop(_POLL_SECONDS, blocking=False)
        server.close_all()

    thread = Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        ended.set()
        thread.join()
