"""What the reconciler last did, as it tells in `<reconcile.state_dir>/status.json`. The endpoint only looks.

    {"runs": [{"feed": …, "run": …, "status": …, "planned_at": …, "finished_at": …, "read": …, "matched": …,
               "unmatched": …, "rejected": …, "held": …, "lines": …}, …]}          newest first; times in milliseconds

The file is a neighbour's: one that is absent, damaged or of another version must not cost more than its own part of
the page.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

FILE = "status.json"
_MAX_BYTES = 4_000_000
_COUNTS = ("read", "matched", "unmatched", "rejected", "held", "lines")
_MAX_TEXT = 128
_COMPARED = 7


class Run(NamedTuple):
    """See `reconcile.summary`. `finished_at` is 0 for a run that has not ended."""

    feed: str
    run: str
    status: str
    planned_at: int
    finished_at: int
    read: int
    matched: int
    unmatched: int
    rejected: int
    held: int
    lines: int

    @property
    def match_rate(self) -> float | None:
        """Of the records read, how many matched; None of a run that read none, or did not come to its files."""
        return self.matched / self.read if self.read and self.status in {"delivered", "frozen"} else None


class Told(NamedTuple):
    """`runs`, newest first. `problem`: why there are none or not all, or "". Nothing told yet is no problem."""

    runs: tuple[Run, ...] = ()
    problem: str = ""


def read(state_dir: Path) -> Told:
    """What the reconciler told."""
    try:
        with (state_dir / FILE).open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return Told()
    except OSError as error:
        return Told(problem=f"{FILE} of the reconciler can't be read: {error.strerror}")
    if len(content) > _MAX_BYTES:
        return Told(problem=f"{FILE} of the reconciler is larger than {_MAX_BYTES:,} bytes")
    return parse(content)


def parse(content: bytes) -> Told:
    """The runs in the file that can be understood."""
    try:
        told = json.loads(content)
        entries = told["runs"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return Told(problem=f"{FILE} of the reconciler is damaged: it holds no JSON with runs")
    if not isinstance(entries, list):
        return Told(problem=f"{FILE} of the reconciler is damaged: its runs are no list")
    runs = [run for entry in entries if (run := _run(entry)) is not None]
    lost = len(entries) - len(runs)
    problem = f"{lost:,} of the {len(entries):,} runs in {FILE} of the reconciler can't be understood" if lost else ""
    return Told(tuple(sorted(runs, key=lambda run: -run.planned_at)), problem)


def fall(runs: Sequence[Run]) -> tuple[float, float] | None:
    """The latest match rate of a feed, and the median of up to 7 before it; None where there are not both. `runs` of
    one feed, newest first.
    """
    rates = [run.match_rate for run in runs]
    known = [rate for rate in rates if rate is not None]
    return (known[0], median(known[1 : 1 + _COMPARED])) if len(known) > 1 else None


def _run(entry: Any) -> Run | None:
    if not isinstance(entry, dict):
        return None
    texts: list[Any] = [entry.get(name) for name in ("feed", "run", "status")]
    numbers: list[Any] = [entry.get("planned_at"), entry.get("finished_at") or 0]
    numbers += [entry.get(name, 0) for name in _COUNTS]
    if not all(isinstance(text, str) and 0 < len(text) <= _MAX_TEXT for text in texts):
        return None
    if not all(type(number) is int and 0 <= number < 1 << 53 for number in numbers):
        return None
    feed, run, status = texts
    return Run(feed, run, status, *numbers)
