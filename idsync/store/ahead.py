"""An iterator read in a thread, ahead of who takes from it: for work that lets other threads run, as SQLite's does."""

from collections.abc import Iterator
from queue import Queue
from threading import Event, Thread
from typing import NamedTuple, TypeVar

Thing = TypeVar("Thing")


class _End(NamedTuple):
    error: BaseException | None


def ahead(source: Iterator[Thing]) -> Iterator[Thing]:
    """What the iterator yields, a step or two before it is wanted. What it raises is raised here. The thread ends with
    this iterator, whether all was taken or not.
    """
    ready: Queue[Thing | _End] = Queue(1)
    stopped = Event()
    reader = Thread(target=_read, args=(source, ready, stopped), daemon=True)
    del source  # so that the thread alone closes it
    reader.start()
    ended = False
    try:
        while True:
            thing = ready.get()
            if isinstance(thing, _End):
                ended = True
                if thing.error is not None:
                    raise thing.error
                return
            yield thing
    finally:
        stopped.set()
        while not ended:  # what is ready waits until it is taken
            ended = isinstance(ready.get(), _End)
        reader.join()


def _read(source: Iterator[Thing], ready: "Queue[Thing | _End]", stopped: Event) -> None:
    error: BaseException | None = None
    try:
        for thing in source:
            ready.put(thing)
            if stopped.is_set():
                break
    except BaseException as raised:  # noqa: BLE001  it is raised where the things are taken
        error = raised
    ready.put(_End(error))
