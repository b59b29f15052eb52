"""A real endpoint for a test: `python -m idsync serve` on a free port, raw HTTP to it, and all that it printed."""

import http.client
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

PATIENCE_SECONDS = 60
_LISTENING = "Listening at: "


@dataclass(frozen=True)
class Answer:
    """`headers` as they came, names in lower case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header that may be there once."""
        values = [value for key, value in self.headers if key == name.lower()]
        assert len(values) <= 1, values
        return values[0] if values else None


class Connection:
    """One TCP connection, over which requests are sent byte for byte."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def abort(self) -> None:
        """Close with a reset: what was sent and not read yet is answered to nobody."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def receive(self, method: str = "GET") -> Answer:
        with http.client.HTTPResponse(self._socket, method=method) as response:
            response.begin()
            headers = [(name.lower(), value) for name, value in response.getheaders()]
            return Answer(response.status, headers, response.read())


class Gunicorn:
    """A running server. It is a process group of its own, so that it can be stopped or killed without any other."""

    def __init__(self, command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
        self._lines: list[str] = []
        self._told = threading.Condition()
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        line = self.wait_for(_LISTENING)
        self.port = int(line.partition(_LISTENING)[2].split()[0].rpartition(":")[2])

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with self._told:
                    self._lines.append(line)
                    self._told.notify_all()
        with self._told:
            self._lines.append("")
            self._told.notify_all()

    def wait_for(self, text: str) -> str:
        """The first line printed, or yet to be printed, that holds `text`."""

        def found() -> str | None:
            return next((line for line in self._lines if text in line), None)

        with self._told:
            self._told.wait_for(lambda: found() or "" in self._lines, timeout=PATIENCE_SECONDS)
            line = found()
            assert line is not None, f"{text!r} was not printed:\n{''.join(self._lines)}"
            return line

    def connect(self) -> Connection:
        return Connection(self.port)

    def get(self, target: str, *headers: str, method: str = "GET") -> Answer:
        """`target` goes out as it stands; `headers` are lines."""
        lines = [f"{method} {target} HTTP/1.1", "Host: sync.example.com", "Connection: close", *headers, "", ""]
        with self.connect() as connection:
            connection.send("\r\n".join(lines).encode("latin-1"))
            return connection.receive(method)

    def stop(self) -> tuple[int, str]:
        """SIGTERM, then exit status and all output. Safe to call again."""
        if self.process.poll() is None:
            self.process.terminate()
        status = self.process.wait(timeout=PATIENCE_SECONDS)
        self._reader.join(timeout=PATIENCE_SECONDS)
        return status, "".join(self._lines)

    def kill(self) -> None:
        """SIGKILL to master and workers, all at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=PATIENCE_SECONDS)
        self._reader.join(timeout=PATIENCE_SECONDS)


class Endpoint(Gunicorn):
    """`python -m idsync serve`."""

    def __init__(self, config: Path, options: Sequence[str] = ()) -> None:
        serve = (sys.executable, "-m", "idsync", "serve")
        command: list[str | Path] = [*serve, "--config", config, "--bind", "127.0.0.1:0", *options]
        super().__init__(command, {})


@contextmanager
def serving(config: Path, *options: str) -> Iterator[Endpoint]:
    endpoint = Endpoint(config, options)
    with stopping(endpoint):
        yield endpoint


@contextmanager
def stopping(server: Gunicorn) -> Iterator[None]:
    try:
        yield
    finally:
        if server.process.poll() is None:
            server.stop()


def run_idsync(*arguments: str | Path | bytes, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m idsync …` to its end; its output as text."""
    return subprocess.run(
        [sys.executable, "-m", "idsync", *arguments],
        capture_output=True,
        text=True,
        input=stdin,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
