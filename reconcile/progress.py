"""Progress on a terminal; nothing where stderr is none."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
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

    def __init__(self, progress: Progress | None, task: TaskID | None) -> None:
        self._progress, self._task = progress, task

    def advance(self, count: int) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, count)


class Meter:
    """Shows the steps of a run if there is a screen. Steps may run side by side, in threads."""

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress

    def step(self, name: str, total: int | None = None) -> Step:
        return Step(self._progress, self._progress.add_task(name, total=total) if self._progress else None)


@contextmanager
def meter(console: Console) -> Iterator[Meter]:
    if not console.is_terminal:
        yield Meter()
        return
    columns = (
        *(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(_Rate(), TimeElapsedColumn()),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Meter(progress)
