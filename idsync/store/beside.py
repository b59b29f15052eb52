"""Iterators read side by side, in threads: for work that lets other threads run meanwhile, as SQLite's reads do."""

from collections.abc import Iterable, Iterator
from queue import Empty, Queue, SimpleQueue
from threading import Event, Thread
from typing import NamedTuple, TypeVar

Thing = TypeVar("Thing")


class _End(NamedTuple):
    error: BaseException | None


def beside(sources: Iterable[Iterator[Thing]], threads: int) -> Iterator[Thing]:
    """What the iterators yield, in whatever order it comes; each of them is read by one of so many threads.

    A thread is no more than one step ahead of whoever takes what is yielded. What an iterator raises is raised here,
    and ends the others. No thread is left behind, whether all was taken or not.
    """
    waiting: SimpleQueue[Iterator[Thing]] = SimpleQueue()
    for source in sources:
        waiting.put(source)
    ready: Queue[Thing | _End] = Queue(threads)
    stopped = Event()
    readers = [Thread(target=_read, args=(waiting, ready, stopped), daemon=True) for _ in range(threads)]
    for reader in readers:
        reader.start()
    reading = threads
    try:
        while reading:
            thing = ready.get()
            if not isinstance(thing, _End):
                yield thing
                continue
            reading -= 1
            if thing.error is not None:
                raise thing.error
    finally:
        stopped.set()
        while reading:  # a thread that has something ready waits until it is taken
            reading -= isinstance(ready.get(), _End)
        for reader in readers:
            reader.join()


def _read(waiting: "SimpleQueue[Iterator[Thing]]", ready: "Queue[Thing | _End]", stopped: Event) -> None:
    error: BaseException | None = None
    try:
        while not stopped.is_set():
            for thing in waiting.get_nowait():
                ready.put(thing)
                if stopped.is_set():
                    break
    except Empty:
        pass
    except BaseException as raised:  # noqa: BLE001  it is raised where the things are taken
        error = raised
    ready.put(_End(error))
