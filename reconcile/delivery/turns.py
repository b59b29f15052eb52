"""A file in one hand at a time, also where several processes, on several machines, are about to deliver it.

The feed's lock sees to that among drivers. But an executor of Spark may work on after it was given up, and a task may
have a twin: what grows at a destination, under one temporary name, is no place for two.
"""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from reconcile import durable
from reconcile.delivery.base import Delivery
from reconcile.files import FrozenFile


class InTurn:
    """A Delivery that waits for as long as another has the frozen file, then asks `permit`, which raises for no.

    It waits without end: the kernel takes the lock from who dies, and a transfer ends in minutes, by its timeouts.
    """

    def __init__(self, delivery: Delivery, permit: Callable[[], object] = lambda: None) -> None:
        self._delivery, self._permit = delivery, permit

    def reach(self) -> None:
        self._delivery.reach()

    def deliver(self, path: Path, file: FrozenFile, planned_at: int) -> str:
        with _in_hand(path):
            self._permit()
            return self._delivery.deliver(path, file, planned_at)


@contextmanager
def _in_hand(path: Path) -> Iterator[None]:
    """The lock is one of the frozen file itself: no other file has to be made, or be taken away. One that is gone can't
    be locked, and what becomes of it the delivery says.
    """
    if not path.exists():
        yield
        return
    with durable.telling(path):
        opened = path.open("r+b")  # nothing is written; NFS locks only what could be
    with opened:
        with durable.telling(path):
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
