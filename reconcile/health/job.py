"""A look at the health of the feeds: gather, judge, tell what has changed, remember what was told."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idsync.errors import UsageError
from idsync.settings import Feed, Settings
from reconcile import durable
from reconcile.health import facts, memory
from reconcile.health.channels import NotTold, open_channels
from reconcile.health.judging import LEDGER, STORE, Condition, judge
from reconcile.health.memory import Memory
from reconcile.lock import exclusive

FILE = "health.json"
_LOCK = "@health"  # no feed can be called so


@dataclass(frozen=True, slots=True)
class Look:
    """`told`: how many alerts each channel took; `not_told`: why one did not. `reasons` stay on this machine."""

    conditions: Sequence[Condition]
    since: dict[str, int]
    told: dict[str, int]
    not_told: Sequence[str]
    reasons: Sequence[str]

    @property
    def well(self) -> bool:
        return not any(condition.faults for condition in self.conditions)

    def as_dict(self) -> dict[str, Any]:
        return {
            "well": self.well,
            "subjects": [
                {
                    "subject": each.subject,
                    "well": not each.faults,
                    "since": self.since.get(each.subject, 0),
                    "faults": [fault._asdict() for fault in each.faults],
                }
                for each in self.conditions
            ],
            "told": self.told,
            "not_told": list(self.not_told),
            "reasons": list(self.reasons),
        }


def look(settings: Settings, names: Sequence[str], now: int) -> Look:
    """At these feeds, or at all; `now` in milliseconds. Raises UsageError, ConfigError, or RunLocked beside another."""
    feeds = _feeds(settings, names)
    channels = open_channels(settings.health)
    state_dir = settings.reconcile.state_dir
    with exclusive(state_dir / "locks" / f"{_LOCK}.lock", _LOCK):
        path = state_dir / FILE
        remembered, lost = _load(path)
        every = [feed.name for feed in settings.feeds]
        remembered.watch([feed.name for feed in feeds], every, now)
        found = facts.gather(settings, feeds, remembered.watched, now)
        conditions = judge(found, settings.health)
        remembered.see(conditions, [STORE, LEDGER, *every], now)
        durable.write(path, remembered.dump())
        told, not_told = {}, []
        for name, channel in channels.items():
            alerts = remembered.due(name, conditions)
            if not alerts:
                continue
            try:
                channel(alerts)
            except NotTold as error:
                not_told.append(str(error))
                continue
            told[name] = len(alerts)
            remembered.was_told(name, alerts)
            # each by itself: a death between two must not have the first told twice
            durable.write(path, remembered.dump())
    reasons = [reason for reason in (found.store, found.ledger, lost) if reason]
    return Look(conditions, remembered.since, told, not_told, reasons)


def _feeds(settings: Settings, names: Sequence[str]) -> list[Feed]:
    for name in names:
        if settings.feed(name) is None:
            known = ", ".join(feed.name for feed in settings.feeds) or "none"
            raise UsageError(f'no feed is called "{name}"', mend=f"feeds in this configuration: {known}")
    return [feed for feed in settings.feeds if not names or feed.name in names]


def _load(path: Path) -> tuple[Memory, str]:
    """A new one where the old one is damaged: what is still wrong is told once more then."""
    if not path.exists():
        return Memory(), ""
    try:
        return memory.load(path.read_bytes()), ""
    except ValueError:
        return Memory(), f"{path}: damaged, begun anew"
