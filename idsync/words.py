"""Numbers and times as the status page says them. Pure."""

import math
from datetime import UTC, datetime

from idsync.metrics import BOUNDS_SECONDS

NONE = "\N{EN DASH}"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 or not value else f"{value:g}"


def share(part: float, whole: float) -> str:
    if not whole:
        return NONE
    share = part / whole
    return "under 0.1%" if 0 < share < 0.001 else f"{share:.1%}"  # noqa: PLR2004


def seconds(value: float | None) -> str:
    if value is None:
        return NONE
    if math.isinf(value):
        return f"over {BOUNDS_SECONDS[-1]} s"
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def span(seconds: float) -> str:
    """`3 days`, `36 hours`, `5 minutes`: in whole units, of which there are at least two."""
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} second{'s' * (int(seconds) != 1)}"


def moment(milliseconds: int) -> str:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):  # a neighbour's file may hold any number
        return "unknown"


def clock(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%H:%M")
