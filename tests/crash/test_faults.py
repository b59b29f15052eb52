"""Faults under load, one at a time, with an exact account of the calls."""

import random
from pathlib import Path
from typing import Literal

import pytest

from tests import crash
from tests.bench.soak import soak
from tests.crash import Fault, Stage, play, staged
from tests.load import VISITORS, Tally, cookie_calls, load

SEED = 1
SOAK_SECONDS = 15


def name(fault: Fault) -> str:
    return fault.__name__


def one(stage: Stage, fault: Fault) -> Tally:
    return play(stage, [fault], cookie_calls("fault"), random.Random(SEED))


@pytest.mark.parametrize("store", ["sqlite", "redis"])
@pytest.mark.parametrize("fault", [crash.kill_worker, crash.kill_service], ids=name)
def test_processes_killed(tmp_path: Path, fault: Fault, store: Literal["sqlite", "redis"]) -> None:
    with staged(tmp_path, store) as stage:
        tally = one(stage, fault)
    assert not tally.failed
    assert not tally.refused


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_sigterm(tmp_path: Path, store: Literal["sqlite", "redis"]) -> None:
    """A connection that no worker has accepted is reset when the last of them leaves: its call may stay unanswered."""
    with staged(tmp_path, store) as stage:
        with load(stage.port, cookie_calls("term")) as running:
            running.wait_for(crash.MORE_CALLS)
            status, output = stage.endpoint.stop()
        assert status == 0, output
        assert not running.tally.failed
        assert not running.tally.refused
        assert len(running.tally.unanswered) <= VISITORS
        stage.start()
        stage.account(running.tally)


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_sighup(tmp_path: Path, store: Literal["sqlite", "redis"]) -> None:
    with staged(tmp_path, store) as stage:
        tally = one(stage, crash.replace_workers)
    assert not tally.failed
    assert not tally.refused
    assert not tally.unanswered


@pytest.mark.parametrize("fault", crash.HURT_REDIS, ids=name)
def test_redis_hurt(tmp_path: Path, fault: Fault) -> None:
    with staged(tmp_path) as stage:
        tally = one(stage, fault)
    assert not tally.failed
    assert not tally.refused
    assert not tally.unanswered


def test_redis_killed_that_syncs_always(tmp_path: Path) -> None:
    with staged(tmp_path, redis_options=("--appendfsync", "always")) as stage:
        tally = one(stage, crash.kill_redis)
    assert not tally.failed
    assert not tally.refused
    assert not tally.unanswered


def test_no_room_for_the_spool(tmp_path: Path) -> None:
    with staged(tmp_path) as stage:
        tally = one(stage, crash.full_disk)
    assert tally.refused
    assert not tally.failed
    assert not tally.unanswered


def test_a_clock_set_back(tmp_path: Path) -> None:
    with staged(tmp_path, clock=True) as stage:
        tally = one(stage, crash.set_clock_back)
        seen = [mapping["last_seen"] for mapping in stage.mappings()]
    assert max(seen) - min(seen) > crash.BACK_SECONDS * 1000
    assert not tally.failed
    assert not tally.refused
    assert not tally.unanswered


def test_faults_in_random_order(tmp_path: Path) -> None:
    """The short form of `python -m tests.bench.soak`."""
    tally, came = soak(tmp_path, SOAK_SECONDS, SEED)
    assert len(came) > 3
    assert not tally.failed
