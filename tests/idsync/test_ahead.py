"""An iterator read ahead: all of it, once, in order; errors come through, the thread ends."""

import threading
from collections.abc import Iterator
from itertools import count

import pytest

from idsync.store.ahead import ahead


def running() -> set[threading.Thread]:
    return set(threading.enumerate())


@pytest.mark.parametrize("things", [0, 1, 2, 100])
def test_everything_comes_once_and_in_order(things: int) -> None:
    before = running()
    assert list(ahead(iter(range(things)))) == list(range(things))
    assert running() == before


def test_the_next_thing_is_made_while_one_is_in_hand() -> None:
    made = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        made.set()
        yield 2

    found = ahead(source())
    assert next(found) == 1
    assert made.wait(10)
    assert list(found) == [2]


def test_an_error_is_raised_where_the_things_are_taken() -> None:
    before = running()

    def failing() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    found = ahead(failing())
    assert next(found) == 1
    with pytest.raises(OSError, match="gone"):
        next(found)
    assert running() == before


def test_no_thread_is_left_where_not_all_is_taken() -> None:
    before, closed = running(), threading.Event()

    def endless() -> Iterator[int]:
        try:
            yield from count()
        finally:
            closed.set()

    found = ahead(endless())
    assert next(found) == 0
    assert len(running() - before) == 1
    found.close()  # type: ignore[attr-defined]
    assert running() == before
    assert closed.is_set()
