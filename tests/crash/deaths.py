"""Runs that die at a chosen place: each in a process of its own, forked from a server that has imported everything."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from reconcile import failpoints, files
from reconcile.failpoints import Point

SECONDS = 60
SPLIT_BYTES = 200  # so that there are several files
_CONTEXT = multiprocessing.get_context("forkserver")
# To start a process looks after all others, too: whoever asks at the same time how its own ended gets no answer.
_ONE_AT_A_TIME = threading.Lock()
# pandas: Arrow imports it where it is there, a third of a second
_CONTEXT.set_forkserver_preload(["pandas", "tests.crash.deaths", "tests.reconcile.samples", "reconcile.redeliver"])


class Life(NamedTuple):
    """How a process ended, which points it came by, how often, and what it has to tell if it failed by itself."""

    killed: bool
    reached: Counter[Point]
    failure: str


class Begun:
    """A process at work."""

    def __init__(self, process: Any, told: Connection) -> None:
        self._process, self._told = process, told
        self.pid: int = process.pid

    def end(self) -> Life:
        reached: Counter[Point] = Counter()
        failure = ""
        while True:
            if not self._told.poll(SECONDS):
                self._process.kill()
                raise TimeoutError(f"a process took more than {SECONDS} seconds")
            try:
                told = self._told.recv()
            except EOFError:
                break
            if isinstance(told, Point):
                reached[told] += 1
            else:
                failure = told
        with _ONE_AT_A_TIME:
            self._process.join()
        self._told.close()
        return Life(self._process.exitcode == -signal.SIGKILL, reached, failure)


def begin(
    work: Callable[..., Any],
    *arguments: Any,
    until: tuple[Point, int] | None = None,
    by: signal.Signals = signal.SIGKILL,
) -> Begun:
    """Let a process do `work`; send it a signal, kill -9, when it has come to a point so many times."""
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_live, args=(theirs, work, arguments, until, by))
    with _ONE_AT_A_TIME:
        process.start()
    theirs.close()
    return Begun(process, ours)


def live(work: Callable[..., Any], *arguments: Any, until: tuple[Point, int] | None = None) -> Life:
    """The whole of it, from its beginning to its end."""
    return begin(work, *arguments, until=until).end()


def _live(
    teller: Connection,
    work: Callable[..., Any],
    arguments: Any,
    until: tuple[Point, int] | None,
    by: signal.Signals,
) -> None:
    count: Counter[Point] = Counter()

    def reached(point: Point) -> None:
        teller.send(point)
        count[point] += 1
        if (point, count[point]) == until:
            os.kill(os.getpid(), by)

    failpoints.reached = reached
    files.SPLIT_RAW_BYTES = SPLIT_BYTES
    try:
        work(*arguments)
    except BaseException:
        teller.send(traceback.format_exc())
        raise
