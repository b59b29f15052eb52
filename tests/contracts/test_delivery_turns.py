"""Of one frozen file only one at a time is at work."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from reconcile.delivery.turns import InTurn
from reconcile.errors import RunLocked, StateUnavailable
from reconcile.files import FrozenFile
from tests.contracts.destinations import frozen
from tests.servers import wait_until


class Slow:
    """A Delivery that says when it begins, and ends when it is let."""

    def __init__(self, name: str, told: list[str]) -> None:
        self._name, self._told = name, told
        self.begun, self.end = Event(), Event()

    def reach(self) -> None: ...

    def deliver(self, path: Path, file: FrozenFile, planned_at: int) -> str:
        self._told.append(f"{self._name} begins")
        self.begun.set()
        self.end.wait(60)
        self._told.append(f"{self._name} ends")
        return self._name


def is_waited_for(path: Path) -> bool:
    """Whether the kernel has somebody wait for a lock of this file."""
    inode = f":{path.stat().st_ino} "
    return any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


def refusing() -> None:
    raise RunLocked("lost", mend="run again")


def test_the_second_waits_until_the_first_has_done(tmp_path: Path) -> None:
    path, file = frozen(tmp_path, b"some bytes")
    told: list[str] = []
    first, second = Slow("first", told), Slow("second", told)
    second.end.set()
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(InTurn(first).deliver, path, file, 0)
        assert first.begun.wait(60)
        permit: Callable[[], object] = lambda: told.append("second is asked")  # noqa: E731
        other = pool.submit(InTurn(second, permit).deliver, path, file, 0)
        wait_until(lambda: is_waited_for(path) or second.begun.is_set(), "the second")
        first.end.set()
        assert (one.result(), other.result()) == ("first", "second")
    assert told == ["first begins", "first ends", "second is asked", "second begins", "second ends"]


def test_other_files_do_not_wait(tmp_path: Path) -> None:
    told: list[str] = []
    first, second = Slow("first", told), Slow("second", told)
    second.end.set()
    with ThreadPoolExecutor(1) as pool:
        one = pool.submit(InTurn(first).deliver, *frozen(tmp_path, b"some bytes"), 0)
        assert first.begun.wait(60)
        assert InTurn(second).deliver(*frozen(tmp_path, b"others", "other"), 0) == "second"
        first.end.set()
        one.result()


def test_whoever_may_not_begins_nothing_and_lets_go(tmp_path: Path) -> None:
    path, file = frozen(tmp_path, b"some bytes")
    told: list[str] = []
    done = Slow("done", told)
    done.end.set()
    with pytest.raises(RunLocked):
        InTurn(done, refusing).deliver(path, file, 0)
    assert not told
    assert InTurn(done).deliver(path, file, 0) == "done"


def test_of_a_file_that_is_gone_the_delivery_tells(tmp_path: Path) -> None:
    path, file = frozen(tmp_path, b"some bytes")
    path.unlink()
    told: list[str] = []
    done = Slow("done", told)
    done.end.set()
    assert InTurn(done).deliver(path, file, 0) == "done"


def test_what_cannot_be_locked_is_told_with_its_name(tmp_path: Path) -> None:
    path, file = frozen(tmp_path, b"some bytes")
    path.unlink()
    path.mkdir()
    with pytest.raises(StateUnavailable, match=str(path)):
        InTurn(Slow("never", [])).deliver(path, file, 0)
