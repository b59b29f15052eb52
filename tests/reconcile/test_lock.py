"""One run of a feed at a time, on one host and on several that share a store."""

import os
import signal
import threading
from pathlib import Path

import pytest

from idsync.errors import StoreUnavailable
from reconcile.errors import RunLocked
from reconcile.failpoints import Point
from reconcile.lock import Tenure, sole
from reconcile.state import FeedState
from tests.crash.deaths import begin
from tests.reconcile.samples import SIGNALS, World, uuid
from tests.servers import RedisServer, wait_until

LEASE_SECONDS = 3  # the least that settings allow
FEED = SIGNALS + f"diagnose = false\n[reconcile]\nlease_seconds = {LEASE_SECONDS}\n"


# --- two hosts, one Redis --------------------------------------------------------------------------------------------


@pytest.fixture
def hosts(tmp_path: Path, shared_redis: RedisServer) -> tuple[World, World]:
    with shared_redis.client() as client:
        client.flushall()
    made = World(tmp_path / "a", FEED, shared_redis.url), World(tmp_path / "b", FEED, shared_redis.url)
    made[0].sync(("c1", uuid(1)))
    for world in made:
        world.put("a.csv", [("c1", "f", "", "")])
    made[1].now += 1000
    return made


def can_run(world: World) -> bool:
    try:
        world.run()
    except RunLocked:
        return False
    return True


def is_stopped(pid: int) -> bool:
    return "\nState:\tT" in Path(f"/proc/{pid}/status").read_text()


@pytest.mark.parametrize("point", [Point.PLANNED, Point.FROZEN, Point.OFFERED])
def test_two_hosts_cannot_run_one_feed_at_once(hosts: tuple[World, World], point: Point) -> None:
    first, second = hosts
    begun = begin(World.run, first, until=(point, 1), by=signal.SIGSTOP)
    wait_until(lambda: is_stopped(begun.pid), "the run's way to its point")
    with pytest.raises(RunLocked, match="under way on another host") as caught:
        second.run()
    assert caught.value.exit_status == 75
    os.kill(begun.pid, signal.SIGCONT)
    life = begun.end()
    assert not life.failure, life.failure
    assert len(list(first.delivered.iterdir())) == 1
    assert can_run(second)  # a lease is given back


def test_two_hosts_never_give_one_name_to_two_files(hosts: tuple[World, World]) -> None:
    """Their ledgers know nothing of each other, and the clock of one is behind."""
    first, second = hosts
    first.run()
    second.now = first.now - 5_000
    second.run()
    (one,), (other,) = (list(world.delivered.iterdir()) for world in hosts)
    assert other.name > one.name
    first.put("b.csv", [("c1", "m", "", "")])
    first.run()
    assert max(path.name for path in first.delivered.iterdir()) > other.name


def test_a_host_that_died_frees_the_feed_when_its_lease_ends(hosts: tuple[World, World]) -> None:
    first, second = hosts
    assert begin(World.run, first, until=(Point.FROZEN, 1)).end().killed
    with pytest.raises(RunLocked, match=f"its lease ends within {LEASE_SECONDS} seconds"):
        second.run()
    wait_until(lambda: can_run(second), "the end of the dead host's lease")
    assert len(list(second.delivered.iterdir())) == 1


def test_a_host_that_died_goes_on_at_once_when_it_is_back(hosts: tuple[World, World]) -> None:
    """Its lock file tells that the one who held the lease is gone."""
    first, _ = hosts
    assert begin(World.run, first, until=(Point.FROZEN, 1)).end().killed
    first.run()
    assert first.last.settled
    assert len(list(first.delivered.iterdir())) == 1


@pytest.mark.parametrize("point", [Point.PLANNED, Point.FROZEN, Point.REACHED, Point.OFFERED])
def test_a_run_that_was_paused_for_too_long_offers_nothing(hosts: tuple[World, World], point: Point) -> None:
    first, second = hosts
    begun = begin(World.run, first, until=(point, 1), by=signal.SIGSTOP)
    wait_until(lambda: is_stopped(begun.pid), "the run's way to its point")
    wait_until(lambda: can_run(second), "the end of the paused run's lease")
    os.kill(begun.pid, signal.SIGCONT)
    life = begun.end()
    assert "RunLocked" in life.failure
    assert "the lease of feed" in life.failure
    assert not first.delivered.exists() or not list(first.delivered.iterdir())
    assert len(list(second.delivered.iterdir())) == 1
    first.run()  # what it had frozen, or its inputs, waited
    assert len(list(first.delivered.iterdir())) == 1


# --- a lease ---------------------------------------------------------------------------------------------------------


class Scripted:
    """Leases of which the test says what becomes."""

    def __init__(self) -> None:
        self.ours, self.away = True, False
        self.renewals = 0
        self.released = threading.Event()

    def acquire(self, name: str, holder: str, seconds: float) -> int | str:
        raise NotImplementedError

    def renew(self, name: str, token: int, seconds: float) -> bool:
        if self.away:
            raise StoreUnavailable("away")
        self.renewals += 1
        return self.ours

    def is_last(self, name: str, token: int) -> bool:
        raise NotImplementedError

    def release(self, name: str, token: int) -> None:
        self.released.set()

    def later(self, seconds: int) -> int:
        raise NotImplementedError

    def close(self) -> None: ...


def test_it_is_renewed_until_its_end_and_given_back() -> None:
    leases = Scripted()
    tenure = Tenure(leases, "daily", 1, 0.1)
    wait_until(lambda: leases.renewals > 3, "renewals")
    tenure.check()
    tenure.end()
    assert leases.released.is_set()


def test_one_that_was_lost_is_told_and_not_given_back() -> None:
    leases = Scripted()
    tenure = Tenure(leases, "daily", 1, 600)
    leases.ours = False
    with pytest.raises(RunLocked, match='the lease of feed "daily" was lost'):
        tenure.check()
    tenure.end()
    assert not leases.released.is_set()


def test_a_store_that_is_away_is_no_matter_until_the_lease_may_have_ended() -> None:
    leases = Scripted()
    leases.away = True
    long, short = Tenure(leases, "daily", 1, 600), Tenure(leases, "daily", 2, 0.05)
    long.check()

    def is_over() -> bool:
        try:
            short.check()
        except RunLocked:
            return True
        return False

    wait_until(is_over, "the end of a lease")
    for tenure in (long, short):
        tenure.end()


def test_a_state_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.state.parent.mkdir()
    world.state.write_bytes(b"")
    with pytest.raises(Exception, match="locks") as caught, sole(world.settings, FeedState(world.state, "daily")):
        pass
    assert getattr(caught.value, "exit_status", 0) == 75
