"""Runs of which there is a report, and what it says."""

import json
from pathlib import Path
from typing import Any

from reconcile.report import prediction
from reconcile.state import FeedState, RunFolder
from reconcile.summary import Summary
from tests.idsync.status_samples import Reader
from tests.reconcile.samples import SIGNALS, World, uuid

DAY = 86_400_000
CLEAR = "\n[reconcile]\nmask_ids = false\n"
LENIENT = SIGNALS + "max_rejected = 1\n"


def folder_of(world: World) -> RunFolder:
    return FeedState(world.state, "daily").run(world.last.run)


def told(world: World) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(folder_of(world).report.read_text())
    return figures


def text(world: World) -> str:
    return Reader(folder_of(world).page.read_text()).text


def expected(summary: Summary) -> dict[str, tuple[float | None, float | None]]:
    return {row.term: (row.kept_back, row.reported) for row in prediction.expected(summary.as_dict())}


def made_world(folder: Path) -> World:
    """Who is called user-0 to user-29 is synced."""
    world = World(folder, LENIENT)
    world.sync(*((f"user-{number}", uuid(number)) for number in range(30)))
    return world
