"""Trying again, several files side by side, and the limit on bandwidth: with clocks that the tests set."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier

import pytest

from idsync.errors import IdsyncError
from reconcile.delivery.bandwidth import Bandwidth
from reconcile.delivery.courier import Courier, Patience
from reconcile.errors import DeliveryConflict, DestinationRefused, DestinationUnavailable
from reconcile.files import FrozenFile


@dataclass
class Clock:
    now: float = 0.0
    pauses: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def patience(self, seconds: float, chance: float = 1.0) -> Patience:
        return Patience(seconds, self, self.sleep, lambda: chance)


@dataclass
class Played:
    """A destination that does what `play` does for each file."""

    play: Callable[[str], str]
    offered: list[str] = field(default_factory=list)

    def reach(self) -> None:
        self.play("")

    def deliver(self, path: Path, file: FrozenFile, planned_at: int) -> str:
        self.offered.append(file.name)
        return self.play(file.name)


def named(*names: str) -> list[FrozenFile]:
    return [FrozenFile(name, 1, 1, 1, "") for name in names]


def away(_: str) -> str:
    raise DestinationUnavailable("away")


def test_pauses_grow_and_end_with_the_time() -> None:
    clock = Clock()
    played = Played(away)
    with pytest.raises(DestinationUnavailable):
        Courier(played, clock.patience(100)).deliver(Path(), named("a")[0], 0)
    assert clock.pauses == [1, 2, 4, 8, 16, 30, 30]
    assert len(played.offered) == 8


def test_chance_shortens_pauses() -> None:
    clock = Clock()
    with pytest.raises(DestinationUnavailable):
        Courier(Played(away), clock.patience(4, chance=0.5)).reach()
    assert clock.pauses == [0.5, 1, 2]


def test_without_patience_everything_is_tried_once() -> None:
    played = Played(away)
    with pytest.raises(DestinationUnavailable):
        Courier(played, Clock().patience(0)).deliver(Path(), named("a")[0], 0)
    assert played.offered == ["a"]


@pytest.mark.parametrize("kind", [DestinationRefused, DeliveryConflict])
def test_what_does_not_pass_is_tried_once(kind: type[IdsyncError]) -> None:
    def refuse(_: str) -> str:
        raise kind("no")

    played = Played(refuse)
    with pytest.raises(kind):
        Courier(played, Clock().patience(100)).deliver(Path(), named("a")[0], 0)
    assert played.offered == ["a"]


def test_files_go_side_by_side() -> None:
    together = Barrier(3, timeout=30)

    def meet(name: str) -> str:
        together.wait()
        return f"there/{name}"

    files = named("a", "b", "c")
    done = dict(Courier(Played(meet), Clock().patience(0), parallel=3).deliver_all(Path(), files, 0))
    assert done == {file: f"there/{file.name}" for file in files}


def test_after_a_failure_nothing_new_begins_and_the_gravest_is_told() -> None:
    together = Barrier(3, timeout=30)
    failures = {"a": DestinationUnavailable("away"), "b": DeliveryConflict("taken"), "c": DestinationRefused("no")}

    def fail(name: str) -> str:
        together.wait()
        raise failures[name]

    played = Played(fail)
    courier = Courier(played, Clock().patience(0), parallel=3)
    with pytest.raises(DeliveryConflict):
        list(courier.deliver_all(Path(), named("a", "b", "c", *"defghijklm"), 0))
    assert set(played.offered) == {"a", "b", "c"}


def test_what_was_delivered_beside_a_failure_is_told_first() -> None:
    def one_fails(name: str) -> str:
        if name == "b":
            raise DestinationRefused("no")
        return name

    done: list[str] = []
    with pytest.raises(DestinationRefused):
        done.extend(
            where for _, where in Courier(Played(one_fails), Clock().patience(0)).deliver_all(Path(), named(*"abc"), 0)
        )
    assert done == ["a"]


def test_a_failure_ends_the_patience_of_others() -> None:
    clock = Clock()
    together = Barrier(2, timeout=30)

    def play(name: str) -> str:
        if not clock.pauses:
            together.wait()
        if name == "a":
            raise DestinationRefused("no")
        if len(clock.pauses) > 100_000:
            raise AssertionError("still at it")
        raise DestinationUnavailable("away")

    with pytest.raises(DestinationRefused):
        list(Courier(Played(play), clock.patience(1e12), parallel=2).deliver_all(Path(), named("a", "b"), 0))


def test_bandwidth_spreads_bytes_over_time() -> None:
    clock = Clock()
    bandwidth = Bandwidth(2, clock=clock, sleep=clock.sleep)
    for _ in range(10):
        bandwidth.take(1_000_000)
    assert clock.now == pytest.approx(5)
    clock.now = 100  # an idle time earns nothing
    bandwidth.take(1_000_000)
    assert clock.now == pytest.approx(100.5)


def test_without_a_limit_nothing_waits() -> None:
    clock = Clock()
    Bandwidth(None, clock=clock, sleep=clock.sleep).take(10**12)
    assert clock.pauses == []
