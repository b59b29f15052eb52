"""Iterators read side by side: all of it, once, whoever ends first; errors come through, threads end."""

import threading
from collections.abc import Iterator
from itertools import count

import pytest

from idsync.store.beside import beside


def running() -> set[threading.Thread]:
    return set(threading.enumerate())


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("sources", [0, 1, 2, 9])
def test_everything_comes_once_and_each_source_in_its_order(sources: int, threads: int) -> None:
    before = running()
    found = list(beside([iter([(source, place) for place in range(50)]) for source in range(sources)], threads))
    assert sorted(found) == [(source, place) for source in range(sources) for place in range(50)]
    for source in range(sources):
        assert [place for of, place in found if of == source] == list(range(50))
    assert running() == before


def test_sources_are_read_at_the_same_time() -> None:
    met = threading.Barrier(2, timeout=10)

    def source() -> Iterator[int]:
        yield met.wait()

    assert sorted(beside([source(), source()], 2)) == [0, 1]


def test_an_error_is_raised_where_the_things_are_taken_and_ends_the_others() -> None:
    before = running()

    def failing() -> Iterator[int]:
        yield -1
        raise OSError("gone")

    found = beside([count(), failing()], 2)
    with pytest.raises(OSError, match="gone"):
        for _ in found:
            pass
    assert running() == before


def test_no_thread_is_left_where_not_all_is_taken() -> None:
    before, closed = running(), threading.Event()

    def endless() -> Iterator[int]:
        try:
            yield from count()
        finally:
            closed.set()

    found = beside([endless(), count()], 2)
    assert next(found) == 0
    assert len(running() - before) == 2
    found.close()  # type: ignore[attr-defined]
    assert running() == before
    assert closed.is_set()
