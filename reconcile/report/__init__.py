"""What a run tells: `figures` for programs, out of these a `page` of words for people, as HTML and on a terminal.

prediction  [P] in Audience Manager's own terms
figures         what report.json holds
page        [P] figures as words and charts
html            the page as one file
terminal        the same in short
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from reconcile import durable
from reconcile.report.figures import HISTORY_RUNS, NEVER_SHOWN, compose, ids_in
from reconcile.report.html import render
from reconcile.report.page import page_of
from reconcile.report.terminal import beside, feeds, funnel, history, told

__all__ = [
    "HISTORY_RUNS",
    "NEVER_SHOWN",
    "beside",
    "compose",
    "feeds",
    "funnel",
    "history",
    "is_masked",
    "samples_of",
    "told",
    "write",
]


def write(figures: Mapping[str, Any], data: Path, page: Path) -> None:
    """As JSON, and as HTML. Raises StateUnavailable."""
    durable.write(data, json.dumps(figures, indent=1).encode())
    durable.write(page, render(page_of(figures)).encode(errors="replace"))


def samples_of(data: Path, customer_ids: Collection[str]) -> int:
    """How many samples of a report.json are of these customers; the page shows no others."""
    return sum(found in customer_ids for found in ids_in(_read(data)))


def is_masked(data: Path) -> bool:
    """Whether a report.json, and its page, have no ID in clear."""
    return bool(_read(data).get("masked"))


def _read(data: Path) -> dict[str, Any]:
    """One that is damaged tells of nobody knows what: it counts as not masked, and goes in time."""
    try:
        figures: dict[str, Any] = json.loads(data.read_bytes())
    except ValueError:
        return {}
    return figures
