"""How long things are kept: each kind has its setting, and one function removes what is past it.

Nothing that has not been delivered goes. Every run does this for its feed at its end, `python -m reconcile sweep` for
all feeds.
"""

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from idsync.settings import Feed, Settings
from reconcile import held, report, sent, tables
from reconcile.errors import RunLocked, StateDamaged
from reconcile.lock import exclusive
from reconcile.state import FeedState, feeds

_DAY = 86_400_000


@dataclass(slots=True)
class Purged:
    """What went: `held` records, users that were `sent` something, the `files` and `rejects` of runs, `reports` that
    had IDs in clear, whole `runs`, `leftovers` of killed processes.
    """

    held: int = 0
    sent: int = 0
    files: int = 0
    rejects: int = 0
    reports: int = 0
    runs: int = 0
    leftovers: int = 0


def sweep(settings: Settings, now: int) -> tuple[dict[str, Purged], list[str]]:
    """Purge every feed, those that left the configuration included; and the feeds passed over: they are at work.

    Raises StateDamaged, once all others are purged, where what a feed keeps can't be read.
    """
    purged, busy = {}, []
    damaged: StateDamaged | None = None
    state_dir = settings.reconcile.state_dir
    for name in sorted({feed.name for feed in settings.feeds} | feeds(state_dir)):
        state = FeedState(state_dir, name)
        try:
            with exclusive(state.lock, name):
                leftovers = state.clear_leftovers()
                purged[name] = purge(state, settings, now)
                purged[name].leftovers = leftovers
        except RunLocked:
            busy.append(name)  # its run does the same at its end
        except StateDamaged as error:
            damaged = damaged or error
    if damaged:
        raise damaged
    return purged, busy


def purge(state: FeedState, settings: Settings, now: int) -> Purged:
    """Remove what is past its time. Needs the feed's lock; `now` in milliseconds."""
    keep, purged = settings.reconcile, Purged()
    for folder in state.runs():
        if (ended := folder.ended_at) is None:
            continue
        days = (now - ended) / _DAY
        if days > keep.keep_runs_days:
            folder.remove()
            purged.runs += 1
            continue
        if days > keep.keep_files_days and folder.files.exists():
            purged.files += len(folder.frozen_files())
            shutil.rmtree(folder.files)
        if days > keep.keep_rejects_days and folder.rejects.exists():
            folder.rejects.unlink()
            purged.rejects += 1
        if days > keep.keep_rejects_days and folder.report.exists() and not report.is_masked(folder.report):
            folder.remove_report()
            purged.reports += 1
    feed = settings.feed(state.feed)
    days_held = feed.held_days if feed else Feed.model_fields["held_days"].default
    purged.held = _forget(state.held, held.SINCE, now - days_held * _DAY)
    purged.sent = _forget(state.sent, sent.SEEN, now - keep.keep_state_days * _DAY)
    return purged


def _forget(path: Path, column: str, oldest: int) -> int:
    """Rows whose time is before `oldest`, both in milliseconds; how many went."""
    return tables.remove(path, partial(_before, column, oldest), columns=[column])


def _before(column: str, oldest: int, batch: pa.RecordBatch) -> tables.Mask:
    times: tables.Mask = batch.column(column).to_numpy() < oldest
    return times
