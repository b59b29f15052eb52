"""All feeds at a glance: what waits for each, what the last run did, what keeps it from running."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from idsync.errors import IdsyncError
from idsync.settings import Feed, Settings
from reconcile import inputs, tables
from reconcile.ledger import Ledger
from reconcile.state import FeedState, RunFolder


@dataclass(frozen=True, slots=True)
class Overview:
    """Of one feed. Times are milliseconds since the epoch, 0 for none.

    `waiting` inputs, `waiting_bytes` and `oldest_at` are told by names and times, without reading a file: one that was
    copied or touched since it was delivered counts, though a run will find that it knows it. None: `problem` says why.
    """

    feed: str
    data_source: str
    destination: str
    waiting: int | None = None
    waiting_bytes: int | None = None
    oldest_at: int = 0
    held: int = 0
    run: str = ""
    status: str = ""
    planned_at: int = 0
    match_rate: float | None = None
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def overview(settings: Settings) -> Iterator[Overview]:
    """One for each feed, in the order of the configuration. Changes nothing. Raises what the ledger raises."""
    ledger = Ledger(settings.reconcile.state_dir / "ledger.db")
    for feed in settings.feeds:
        state = FeedState(settings.reconcile.state_dir, feed.name)
        last = next(iter(ledger.history(feed.name, limit=1)), {})
        told: dict[str, Any] = {"feed": feed.name, "data_source": feed.data_source, "destination": feed.destination}
        told |= {"run": last.get("run", ""), "status": last.get("state", "")}
        told |= {"planned_at": last.get("planned_at", 0), "match_rate": _match_rate(last)}
        problems = [_stuck(folder, last) for folder in state.runs() if folder.is_frozen and not folder.is_ended]
        if not problems and last.get("state") in {"refused", "failed"}:
            problems.append(f"the last run was {last['state']}: {last.get('problem', '')}")
        try:
            told["held"] = tables.rows(state.held)
            told |= _waiting(feed, ledger.inputs(feed.name))
        except IdsyncError as error:
            problems.append(error.problem)
        yield Overview(**told, problem="; ".join(problems))


def _waiting(feed: Feed, delivered: Mapping[str, int]) -> dict[str, int]:
    """`delivered`: when the last run with each input began, in seconds; what was written to before is done with."""
    there = [entry for entry in inputs.listed(feed) if entry.modified_at // 1000 > delivered.get(entry.name, 0)]
    oldest = min((entry.modified_at for entry in there), default=0)
    return {"waiting": len(there), "waiting_bytes": sum(entry.size for entry in there), "oldest_at": oldest}


def _match_rate(last: Mapping[str, Any]) -> float | None:
    read = last.get("read", 0)
    return last.get("matched", 0) / read if read and last.get("state") == "delivered" else None


def _stuck(folder: RunFolder, last: Mapping[str, Any]) -> str:
    count = len(folder.frozen_files())
    files = f"{count:,} frozen file{'s' * (count != 1)} of run {folder.name}"
    if folder.is_on_hold:
        return f"{files} on hold until: python -m reconcile release {folder.name}"
    why = f": {last['problem']}" if last.get("run") == folder.name and last.get("problem") else ""
    return f"{files} wait for the destination{why}"
