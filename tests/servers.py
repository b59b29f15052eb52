"""Real servers on 127.0.0.1 and free ports, started and stopped by their own process handles."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import redis

REDIS_CONF = Path(__file__).parent.parent / "deploy" / "redis.conf"
START_SECONDS = 20
HIGHEST_PORT = 55_535


def free_port() -> int:
    """A port that is free now, and low enough for a cluster node, which takes the one 10,000 above it, too."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port <= HIGHEST_PORT:
            return port


def wait_until(ready: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Ask again and again, for a bounded time."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} took more than {seconds} seconds")
        time.sleep(0.02)


class RedisServer:
    """redis-server with the settings of deploy/redis.conf, in its own folder. Can be stopped and started again."""

    def __init__(self, folder: Path, extra: Sequence[str] = ()) -> None:
        self._folder, self._extra = folder, extra
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> "redis.Redis":
        return redis.Redis(port=self.port)

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        arguments = ["--port", str(self.port), "--dir", str(self._folder), *self._extra]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(["redis-server", REDIS_CONF, *arguments], stdout=log, stderr=log)
        wait_until(self._answers, "redis-server's start")

    def stop(self) -> None:
        """As an operator would."""
        self._end("terminate")

    def kill(self) -> None:
        """kill -9"""
        self._end("kill")

    def in_agreement(self) -> bool:
        """Whether this node sees its cluster as complete."""
        with self.client() as client:
            return bool(client.cluster("INFO")["cluster_state"] == "ok")

    def _end(self, how: str) -> None:
        if self._process is not None:
            getattr(self._process, how)()
            self._process.wait(START_SECONDS)
            self._process = None

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(f"redis-server ended: {(self._folder / 'log').read_text()[-500:]}")
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.exceptions.AuthenticationError:
                return True
            except redis.exceptions.ConnectionError:
                return False


@contextmanager
def redis_server(folder: Path, *extra: str) -> Iterator[RedisServer]:
    server = RedisServer(folder, extra)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextmanager
def redis_cluster(folder: Path, masters: int = 3) -> Iterator[list[RedisServer]]:
    """A cluster without replicas, its slots shared out evenly."""
    nodes = [RedisServer(folder / str(number), ("--cluster-enabled", "yes")) for number in range(masters)]
    try:
        for node in nodes:
            node.start()
        addresses = [f"127.0.0.1:{node.port}" for node in nodes]
        subprocess.run(
            ["redis-cli", "--cluster", "create", *addresses, "--cluster-yes"],
            check=True,
            capture_output=True,
            timeout=60,
        )
        for node in nodes:
            wait_until(node.in_agreement, "the cluster's agreement")
        yield nodes
    finally:
        for node in nodes:
            node.kill()
