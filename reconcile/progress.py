"""Progress on a terminal; nothing where stderr is none."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Rate(TextColumn):
    """How many a second."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: object) -> Text:
        speed = getattr(task, "speed", None)
        return Text(f"{speed:,.0f}/s" if speed else "")


class Step:
    """A part of the work; counts what has passed through it."""

    def __init__(self, name: str, progress: Progress | None, task: TaskID | None) -> None:
        self.name, self.count, self.seconds = name, 0, 0.0
        self._start = time.perf_counter()
        self._progress, self._task = progress, task

    def advance(self, count: int, share: float = 0.0) -> None:
        """`share` of the work that is done now, 0 to 1, tells how much there is where that was not known."""
        self.count += count
        self.seconds = time.perf_counter() - self._start
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, count)
            if share:
                done = self._progress.tasks[self._progress.task_ids.index(self._task)].completed
                self._progress.update(self._task, total=max(round(done / min(share, 1.0)), done))


class Meter:
    """Takes the time of the steps of a run, and shows them if there is a screen. Steps may run side by side, in
    threads.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress
        self._steps: list[Step] = []

    def step(self, name: str, total: int | None = None) -> Step:
        task = self._progress.add_task(name, total=total) if self._progress else None
        self._steps.append(Step(name, self._progress, task))
        return self._steps[-1]

    def take(self) -> list[dict[str, Any]]:
        """The steps since the last time: name, how much went through, seconds from beginning to the last of it."""
        steps, self._steps = self._steps, []
        return [{"step": step.name, "count": step.count, "seconds": round(step.seconds, 3)} for step in steps]


@contextmanager
def meter(console: Console) -> Iterator[Meter]:
    if not console.is_terminal:
        yield Meter()
        return
    columns = (
        *(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(_Rate(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Meter(progress)
