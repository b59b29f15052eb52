"""Real servers on 127.0.0.1 and free ports, started and stopped by their own process handles."""

import itertools
import os
import random
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

REDIS_CONF = Path(__file__).parent.parent / "deploy" / "redis.conf"
START_SECONDS = 20
BUS_ABOVE = 10_000  # a node of a Redis Cluster also listens so far above its port
LOWEST_PORT, PORTS_EACH, SHARES = 10_000, 2_000, 6  # with the buses: 10,000 to 31,999


def free_port() -> int:
    """A port that is free now, as is the one that a cluster node would take besides.

    Both lie below 32,768, where Linux begins to hand out ports to connections, and in a share of this worker's own:
    so nobody takes one between this answer and the server's start. A kernel's own choice of port can't promise that.
    """
    for port in itertools.islice(_ports, PORTS_EACH):
        with suppress(OSError), socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + BUS_ABOVE))
            return port
    raise RuntimeError(f"none of {PORTS_EACH:,} ports is free")


def _ports_in_turn() -> Iterator[int]:
    """One after the other, round and round; from anywhere, so that two runs at a time seldom ask for the same."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first, start = LOWEST_PORT + worker % SHARES * PORTS_EACH, random.randrange(PORTS_EACH)
    for number in itertools.count(start):
        yield first + number % PORTS_EACH


_ports = _ports_in_turn()


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
            # Python ignores SIGXFSZ; handed down, a write past the limit of `limit_files` fails rather than kills.
            self._process = subprocess.Popen(
                ["redis-server", REDIS_CONF, *arguments], stdout=log, stderr=log, restore_signals=False
            )
        wait_until(self._answers, "redis-server's start")

    def stop(self) -> None:
        """As an operator would."""
        self._end("terminate")

    def kill(self) -> None:
        """kill -9"""
        self._end("kill")

    def freeze(self) -> None:
        """Connections stay open and are even taken, but nothing is answered."""
        self._signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._running().pid, os.WSTOPPED | os.WNOWAIT)  # it may be about to answer

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def limit_files(self, size: int) -> None:
        """No file grows past `size` bytes: stands in for a full disk. RLIM_INFINITY makes room again."""
        resource.prlimit(self._running().pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def in_agreement(self) -> bool:
        """Whether this node sees its cluster as complete."""
        with self.client() as client:
            return bool(client.cluster("INFO")["cluster_state"] == "ok")

    def replication(self) -> dict[str, object]:
        with self.client() as client:
            return dict(client.info("replication"))

    def serves(self, key: str) -> bool:
        """Whether this node is the primary that holds `key`."""
        with self.client() as client:
            try:
                client.exists(key)
            except redis.exceptions.ResponseError:  # moved, or not sure of its cluster
                return False
            return True

    def _signal(self, number: int) -> None:
        self._running().send_signal(number)

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise RuntimeError("redis-server does not run")
        return self._process

    def _end(self, how: str) -> None:
        if self._process is not None:
            getattr(self._process, how)()
            self._process.wait(START_SECONDS)
            self._process = None

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(f"redis-server ended: {(self._folder / 'log').read_text()[-500:]}")
        with redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0)) as client:
            try:
                # another server may have taken the port first
                return self._process is not None and client.info("server")["process_id"] == self._process.pid
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
def redis_cluster(
    folder: Path, masters: int = 3, replicas: int = 0, extra: Sequence[str] = ()
) -> Iterator[list[RedisServer]]:
    """A cluster with so many replicas for each primary, its slots shared out evenly, quick to notice a death."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", *extra)
    nodes = [RedisServer(folder / str(number), options) for number in range(masters * (1 + replicas))]
    try:
        for node in nodes:
            node.start()
        addresses = [f"127.0.0.1:{node.port}" for node in nodes]
        create = ["redis-cli", "--cluster", "create", *addresses, "--cluster-replicas", str(replicas), "--cluster-yes"]
        subprocess.run(create, check=True, capture_output=True, timeout=60)
        wait_until(lambda: settled(nodes, masters, replicas), "the cluster's agreement")
        yield nodes
    finally:
        for node in nodes:
            node.kill()


def settled(nodes: Sequence[RedisServer], masters: int, replicas: int) -> bool:
    """Whether all nodes see the cluster as complete, and each primary has its replicas in step."""
    if not all(node.in_agreement() for node in nodes):
        return False
    told = [node.replication() for node in nodes]
    primaries = [each for each in told if each["role"] == "master"]
    followers = [each for each in told if each["role"] == "slave"]
    return (
        len(primaries) == masters
        and all(each["connected_slaves"] == replicas for each in primaries)
        and all(each["master_link_status"] == "up" for each in followers)
    )


class Proxy:
    """Hands bytes on to a server, until it is told to cut every connection after so many more."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._left: dict[str, int | None] = {"asked": None, "answered": None}
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, count: int, way: str) -> None:
        """Once: after `count` more bytes on the `way` to the server ("asked") or back ("answered")."""
        self._left[way] = count

    def close(self) -> None:
        with suppress(OSError):  # wakes the thread that accepts
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # the server is away: so is this one, until it is back
                client.close()
                continue
            for ends in ((client, server, "asked"), (server, client, "answered")):
                threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, way: str) -> None:
        try:
            while data := source.recv(65_536):
                left = self._left[way]
                if left is not None and left <= len(data):
                    self._left[way] = None
                    self.cuts += 1
                    target.sendall(data[:left])
                    break
                if left is not None:
                    self._left[way] = left - len(data)
                target.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, target):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
