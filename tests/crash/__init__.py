"""A service under load, the faults that can hit it, and the account: each call answered as stored is found, no other.

A fault is a function of the stage, the load that runs, and seeded chance. It hurts the stage, sees the load go on,
mends what it hurt, and sees the load go on once more.
"""

import json
import os
import random
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

from idsync import config
from idsync.service import milliseconds_now
from idsync.store import open_store
from tests.endpoint import Endpoint
from tests.idsync.samples import configuration
from tests.load import DPID, Call, Load, Tally, load
from tests.servers import Proxy, RedisServer, free_port, wait_until

WORKERS = 2
MORE_CALLS = 150  # answered before a fault, during it and after it
_PAUSE_MILLISECONDS = 2_500  # longer than an endpoint waits for Redis
_EXCHANGE_SECONDS = 60  # more than workers may take to drain
_CUTS = 4
_CUT_BYTES = 20_000
BACK_SECONDS = 3_600

# Python runs this at its start. Not libfaketime: with its 0.9.10 Python's time.sleep fails while the monotonic clock is
# left alone, which a clock that is set back leaves alone.
_CLOCK = """
import os, time
right = time.time_ns
def time_ns():
    with open(os.environ["IDSYNC_TEST_CLOCK"]) as seconds:
        return right() + int(seconds.read()) * 1_000_000_000
time.time_ns = time_ns
time.time = lambda: time_ns() / 1e9
"""


Fault = Callable[["Stage", Load, random.Random], None]


class Stage:
    """Two workers on a port that they keep over restarts, in front of SQLite, or of Redis behind a proxy."""

    def __init__(
        self, folder: Path, store: Literal["redis", "sqlite"], redis_options: Sequence[str] = (), *, clock: bool = False
    ) -> None:
        self.redis = RedisServer(folder / "redis", redis_options)
        self.proxy: Proxy | None = None
        url = "sqlite:///idsync.db"
        if store == "redis":
            self.redis.start()
            self.proxy = Proxy(self.redis.port)
            url = f"redis://127.0.0.1:{self.proxy.port}/0"
        self.config = folder / "idsync.toml"
        self.config.write_text(configuration().replace("sqlite:///idsync.db", url))
        self._clock: Path | None = None
        if clock:
            (folder / "clock").mkdir()
            (folder / "clock" / "sitecustomize.py").write_text(_CLOCK)
            self._clock = folder / "clock" / "seconds"
            self.set_clock(0)
        self.port = free_port()
        try:
            self.start()
        except BaseException:
            self._close_store()
            raise

    def start(self) -> None:
        with patch.dict(os.environ, self._environment()):
            self.endpoint = Endpoint(self.config, ("--bind", f"127.0.0.1:{self.port}", "--workers", str(WORKERS)))

    def close(self) -> None:
        if self.endpoint.process.poll() is None:
            self.endpoint.kill()
        self._close_store()

    def set_clock(self, seconds: int) -> None:
        """So far off the right time, for a stage that was made with a clock of its own."""
        assert self._clock is not None
        new = self._clock.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self._clock)

    def account(self, tally: Tally) -> None:
        """Once the spool is empty: what was answered as stored, all of it, and beyond that only what nobody knows."""
        self.settle()
        rows = self.mappings()
        found = {row["customer_id"]: row["uuid"] for row in rows}
        assert len(found) == len(rows), f"{len(rows) - len(found)} mappings too many"
        assert not (lost := tally.stored.items() - found.items()), f"{len(lost)} of {len(tally.stored)} were lost"
        beyond = found.keys() - tally.stored.keys() - tally.unanswered
        assert not beyond, f"{len(beyond)} found that were not answered as stored"

    def mappings(self) -> list[dict[str, Any]]:
        with closing(open_store(config.load(self.config).store)) as store:
            return [row for batch in store.export(DPID, milliseconds_now()) for row in batch.to_pylist()]

    def settle(self) -> None:
        """Until the store takes writes and the spool is empty."""
        wait_until(self._is_settled, "emptying the spool", seconds=60)

    def _close_store(self) -> None:
        if self.proxy is not None:
            self.proxy.close()
        self.redis.kill()

    def _is_settled(self) -> bool:
        told = json.loads(self.endpoint.get("/readyz").body)
        return bool(told["ready"] and told["spool"]["mappings"] == 0)

    def _environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self._clock.parent), "IDSYNC_TEST_CLOCK": str(self._clock)} if self._clock else {}


@contextmanager
def staged(
    folder: Path,
    store: Literal["redis", "sqlite"] = "redis",
    redis_options: Sequence[str] = (),
    *,
    clock: bool = False,
) -> Iterator[Stage]:
    stage = Stage(folder, store, redis_options, clock=clock)
    try:
        yield stage
    finally:
        stage.close()


def play(stage: Stage, faults: Sequence[Fault], calls: Iterator[Call], chance: random.Random) -> Tally:
    """The faults one after the other, load before, during and after each; then the account."""
    with load(stage.port, calls) as running:
        for fault in faults:
            running.wait_for(MORE_CALLS)
            fault(stage, running, chance)
        running.wait_for(MORE_CALLS)
    stage.account(running.tally)
    return running.tally


def workers(endpoint: Endpoint) -> set[int]:
    pid = endpoint.process.pid
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


# --- the service -----------------------------------------------------------------------------------------------------


def kill_worker(stage: Stage, running: Load, chance: random.Random) -> None:
    """kill -9; the master starts another."""
    before = workers(stage.endpoint)
    victim = chance.choice(sorted(before))
    os.kill(victim, signal.SIGKILL)
    running.wait_for(MORE_CALLS)
    wait_until(lambda: len(workers(stage.endpoint) - {victim}) == WORKERS, "the start of another worker")


def kill_service(stage: Stage, running: Load, chance: random.Random) -> None:
    """kill -9 of master and workers."""
    stage.endpoint.kill()
    stage.start()


def restart_service(stage: Stage, running: Load, chance: random.Random) -> None:
    """SIGTERM, and started again."""
    status, output = stage.endpoint.stop()
    assert status == 0, output
    stage.start()


def replace_workers(stage: Stage, running: Load, chance: random.Random) -> None:
    """SIGHUP."""
    before = workers(stage.endpoint)
    stage.endpoint.process.send_signal(signal.SIGHUP)
    wait_until(
        lambda: len(now := workers(stage.endpoint)) == WORKERS and not now & before,
        "the exchange of the workers",
        _EXCHANGE_SECONDS,
    )


# --- Redis -----------------------------------------------------------------------------------------------------------


def stop_redis(stage: Stage, running: Load, chance: random.Random) -> None:
    stage.redis.stop()
    running.wait_for(MORE_CALLS, "stored")
    stage.redis.start()


def kill_redis(stage: Stage, running: Load, chance: random.Random) -> None:
    """kill -9."""
    stage.redis.kill()
    running.wait_for(MORE_CALLS, "stored")
    stage.redis.start()


def freeze_redis(stage: Stage, running: Load, chance: random.Random) -> None:
    """It takes connections and commands, and does not answer."""
    stage.redis.freeze()
    running.wait_for(MORE_CALLS, "stored")
    stage.redis.thaw()


def slow_redis(stage: Stage, running: Load, chance: random.Random) -> None:
    """It answers, but later than anybody waits."""
    with stage.redis.client() as client:
        client.client_pause(_PAUSE_MILLISECONDS)
    running.wait_for(MORE_CALLS, "stored")


def full_redis(stage: Stage, running: Load, chance: random.Random) -> None:
    with stage.redis.client() as client:
        client.config_set("maxmemory", 1)
        running.wait_for(MORE_CALLS, "stored")
        client.config_set("maxmemory", 0)


def read_only_redis(stage: Stage, running: Load, chance: random.Random) -> None:
    """It was made the replica of a server that is away."""
    with stage.redis.client() as client:
        client.replicaof("127.0.0.1", "1")
        running.wait_for(MORE_CALLS, "stored")
        client.replicaof("NO", "ONE")


def redis_without_replicas(stage: Stage, running: Load, chance: random.Random) -> None:
    """It takes writes only with a replica, and has none."""
    with stage.redis.client() as client:
        client.config_set("min-replicas-to-write", 1)
        running.wait_for(MORE_CALLS, "stored")
        client.config_set("min-replicas-to-write", 0)


def cut_connections(stage: Stage, running: Load, chance: random.Random) -> None:
    """In the middle of a pipeline, on its way to Redis or of its answers back, a few times."""
    proxy = stage.proxy
    assert proxy is not None
    for _ in range(_CUTS):
        goal = proxy.cuts + 1
        proxy.cut_after(chance.randrange(1, _CUT_BYTES), chance.choice(("asked", "answered")))
        wait_until(lambda goal=goal: proxy.cuts >= goal, "a cut")  # type: ignore[misc]
        running.wait_for(MORE_CALLS, "stored")


# --- disk and clock --------------------------------------------------------------------------------------------------


def full_disk(stage: Stage, running: Load, chance: random.Random) -> None:
    """No byte more for the spool, first while Redis is away: calls are refused; then with Redis back: they are not."""
    stage.redis.stop()
    running.wait_for(MORE_CALLS, "stored")
    limits = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in workers(stage.endpoint)}
    for pid, (_, hard) in limits.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
    running.wait_for(MORE_CALLS, "refused")
    stage.redis.start()
    running.wait_for(MORE_CALLS, "stored")
    for pid, limit in limits.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)


def set_clock_back(stage: Stage, running: Load, chance: random.Random) -> None:
    """By an hour, while Redis is away: what waits in the spool is of a time to come."""
    stage.redis.stop()
    running.wait_for(MORE_CALLS, "stored")
    stage.set_clock(-BACK_SECONDS)
    running.wait_for(MORE_CALLS, "stored")
    stage.redis.start()
    running.wait_for(MORE_CALLS, "stored")
    stage.set_clock(0)


HURT_THE_SERVICE: tuple[Fault, ...] = (kill_worker, kill_service, restart_service, replace_workers)
HURT_ITS_HOST: tuple[Fault, ...] = (full_disk, set_clock_back)
HURT_REDIS: tuple[Fault, ...] = (
    *(stop_redis, kill_redis, freeze_redis, slow_redis, full_redis, read_only_redis, redis_without_replicas),
    cut_connections,
)
