"""What several commands are asked in the same way."""

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import click

from idsync.completion import configured
from idsync.errors import IdsyncError
from idsync.settings import Settings
from reconcile.ledger import Ledger

_RUNS = 50  # the latest that Tab offers


class Moment(click.ParamType[int]):
    """A date or a time, of UTC unless it says otherwise; milliseconds since the epoch."""

    name = "date or time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            told = f"{value!r} is neither a date, 2026-11-24, nor a time, 2026-11-24T06:30 or with +01:00"
            self.fail(told, param, ctx)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def figures_option(function: Callable[..., None]) -> Callable[..., None]:
    """For commands whose figures go to stdout where that is no terminal."""
    text = "The figures as JSON on stdout, on a terminal too."
    return click.option("--json", "as_json", is_flag=True, help=text)(function)


def _runs(settings: Settings) -> list[str]:
    try:
        return [str(row["run"]) for row in Ledger(settings.reconcile.state_dir / "ledger.db").history(limit=_RUNS)]
    except IdsyncError:
        return []


# What Tab offers.
FEEDS = configured(lambda settings: (feed.name for feed in settings.feeds))
DATA_SOURCES = configured(lambda settings: (source.name for source in settings.data_sources))
DESTINATIONS = configured(lambda settings: (destination.name for destination in settings.destinations))
RUNS = configured(_runs)
RUNS_AND_FEEDS = configured(lambda settings: chain((feed.name for feed in settings.feeds), _runs(settings)))
