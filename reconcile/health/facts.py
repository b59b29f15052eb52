"""How things are, from the store, the ledger, the run folders and the inboxes; nothing is changed."""

import glob
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from idsync.errors import IdsyncError
from idsync.settings import Feed, Settings
from idsync.store import open_store
from reconcile import inputs
from reconcile.health.judging import Facts, FeedFacts, RunFacts, Waiting
from reconcile.ledger import Ledger
from reconcile.state import FeedState

RUNS = 200  # as many as surely hold the last delivery, and those to compare with


def gather(settings: Settings, feeds: Sequence[Feed], watched: Mapping[str, int], now: int) -> Facts:
    """`watched`: since when each feed is looked at; times in milliseconds."""
    try:
        known, ledger = [_feed(settings, feed, watched[feed.name], now) for feed in feeds], ""
    except IdsyncError as error:
        known, ledger = [], error.problem
    except OSError as error:
        known, ledger = [], f"{error.filename}: {error.strerror}"
    return Facts(now, _store(settings), ledger, known)


def _store(settings: Settings) -> str:
    """Why it takes no write, or ""."""
    try:
        with closing(open_store(settings.store, patient=False)) as store:
            store.check()
    except IdsyncError as error:
        return error.problem
    return ""


def _feed(settings: Settings, feed: Feed, watched_since: int, now: int) -> FeedFacts:
    state_dir = settings.reconcile.state_dir
    entries = Ledger(state_dir / "ledger.db").history(feed.name, limit=RUNS)
    runs = [
        RunFacts(
            entry["run"],
            entry["state"],
            int(entry.get("planned_at", 0)),
            int(entry.get("finished_at", 0)),
            int(entry.get("read", 0)),
            int(entry.get("matched", 0)),
        )
        for entry in entries
    ]
    waiting = [
        Waiting(folder.name, int(folder.name.partition("-")[0]) * 1000, folder.is_on_hold)
        for folder in FeedState(state_dir, feed.name).runs()
        if folder.is_frozen and not folder.is_ended
    ]
    delivered = max((run.finished_at for run in runs if run.state == "delivered"), default=0)
    return FeedFacts(feed, watched_since, runs, delivered, waiting, _unfinished(feed.inputs, now))


def _unfinished(pattern: str, now: int) -> list[int]:
    """The age of each local input that is being written. Buckets have no such thing: an object appears whole."""
    if "://" in pattern:
        return []
    names = {name for each in (pattern, f"{pattern}.*") for name in glob.glob(each, recursive=True)}
    ages = []
    for path in (Path(name) for name in names):
        if inputs.is_unfinished(path.name):
            try:
                ages.append(now - path.stat().st_mtime_ns // 1_000_000)
            except FileNotFoundError:  # it has got its name meanwhile
                continue
    return sorted(ages)
