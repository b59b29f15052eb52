"""The geometry of the status page's charts: in a box 100 high and as wide as there are intervals. Pure.

Nothing in them is text: a chart is as wide as its page, so letters in it would be too. Scales stand beside it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

HEIGHT = 100.0


class Piece(NamedTuple):
    """One of the parts that make up a bar; `kind` names its colour."""

    kind: str
    y: float
    height: float


class Bar(NamedTuple):
    """`title`: what the bar says, in words."""

    x: int
    title: str
    pieces: tuple[Piece, ...]


class Gap(NamedTuple):
    """Intervals of which nothing is known."""

    x: int
    width: int


class Chart(NamedTuple):
    """`alternative`: the chart in words. `top`: what its upper edge stands for. `paths`: lines, by kind."""

    alternative: str
    width: int
    top: str
    start: str
    middle: str
    end: str
    bars: tuple[Bar, ...] = ()
    gaps: tuple[Gap, ...] = ()
    paths: tuple[tuple[str, str], ...] = ()


def bars(
    kinds: Sequence[str], stacks: Sequence[Sequence[float] | None], titles: Sequence[str], top: float
) -> list[Bar]:
    """Parts on top of each other in the order of `kinds`; intervals without any have no bar."""
    found = []
    for x, (stack, title) in enumerate(zip(stacks, titles, strict=True)):
        if not stack or not sum(stack):
            continue
        pieces, y = [], HEIGHT
        for kind, part in zip(kinds, stack, strict=True):
            height = min(part / top * HEIGHT, y)
            y -= height
            if part:
                pieces.append(Piece(kind, round(y, 2), round(height, 2)))
        found.append(Bar(x, title, tuple(pieces)))
    return found


def gaps(known: Sequence[bool]) -> list[Gap]:
    """Neighbours together."""
    found: list[Gap] = []
    for x, is_known in enumerate(known):
        if is_known:
            continue
        if found and found[-1].x + found[-1].width == x:
            found[-1] = Gap(found[-1].x, found[-1].width + 1)
        else:
            found.append(Gap(x, 1))
    return found


def path(values: Sequence[float | None], top: float) -> str:
    """A line through the middle of the intervals, as SVG's path data. It breaks where there is no value; a value that
    stands alone is a line as wide as its interval.
    """
    steps: list[str] = []
    for x, value in enumerate(values):
        if value is None:
            continue
        y = f"{HEIGHT - min(value / top, 1) * HEIGHT:.2f}".rstrip("0").rstrip(".")
        joined = x > 0 and values[x - 1] is not None
        alone = not joined and (x + 1 == len(values) or values[x + 1] is None)
        steps.append(f"M{x} {y}H{x + 1}" if alone else f"{'L' if joined else 'M'}{x + 0.5} {y}")
    return "".join(steps)


def ceiling(highest: float) -> float:
    """A round number, not less: 1, 2 or 5 times a power of ten. 1 for nothing."""
    if highest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(highest))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= highest * (1 - 1e-9))


def quantile(share: float, within: Sequence[float], bounds: Sequence[float]) -> float | None:
    """Below which a share of the values lies, by a histogram: `within` each of `bounds`, then all. None without values.

    Values are taken to be spread evenly over their bucket. The last has no end, so of what is in it only the beginning
    is known: infinity stands for more than that.
    """
    total = within[-1]
    if total <= 0:
        return None
    rank, lower, below = share * total, 0.0, 0.0
    for bound, count in zip(bounds, within, strict=False):
        if count >= rank and count > below:
            return lower + (bound - lower) * max(rank - below, 0) / (count - below)
        lower, below = bound, count
    return math.inf
