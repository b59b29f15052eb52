"""What was told to whom, so that each change is told once. Pure.

    {"watched": {"<feed>": <ms>}, "told": {"<channel>": {"<subject>": ["<kind>", …]}}, "since": {"<subject>": <ms>}}

A subject that is not in a channel's table counts as told to be well. What a channel was not able to take stays due, as
long as it is still so: a fault that came and went while the way was closed is nobody's business.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reconcile.health.judging import Condition

Told = dict[str, dict[str, tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Alert:
    """A change of state. `before`: the kinds of fault that were told last."""

    condition: Condition
    before: tuple[str, ...]
    since: int

    @property
    def text(self) -> str:
        """A line for people."""
        subject = self.condition.subject
        if not self.condition.faults:
            return f"{subject}: well again (was {', '.join(self.before)})"
        return "\n".join(f"{subject}: {fault.kind}: {fault.message}" for fault in self.condition.faults)

    def as_dict(self) -> dict[str, Any]:
        return {
            "subject": self.condition.subject,
            "state": "bad" if self.condition.faults else "ok",
            "faults": [fault._asdict() for fault in self.condition.faults],
            "before": list(self.before),
            "since": self.since,
        }


@dataclass(slots=True)
class Memory:
    """`watched`: since when each feed is looked at; `since`: since when a subject is as it is. Milliseconds."""

    watched: dict[str, int] = field(default_factory=dict)
    told: Told = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def watch(self, feeds: Iterable[str], all_feeds: Iterable[str], now: int) -> None:
        """Begin to look at feeds that are new; forget what is no longer in the configuration."""
        kept = set(all_feeds)
        self.watched = {feed: at for feed, at in self.watched.items() if feed in kept}
        for feed in feeds:
            self.watched.setdefault(feed, now)

    def see(self, conditions: Sequence[Condition], subjects: Iterable[str], now: int) -> None:
        """Take in how things are; `subjects` are all that there may be."""
        kept = set(subjects)
        for condition in conditions:
            if self.kinds.get(condition.subject, ()) != condition.kinds or condition.subject not in self.since:
                self.since[condition.subject] = now
            self.kinds[condition.subject] = condition.kinds
        self.kinds = {subject: kinds for subject, kinds in self.kinds.items() if subject in kept}
        self.since = {subject: at for subject, at in self.since.items() if subject in kept}
        self.told = {
            channel: {subject: kinds for subject, kinds in table.items() if subject in kept}
            for channel, table in self.told.items()
        }

    def due(self, channel: str, conditions: Sequence[Condition]) -> list[Alert]:
        """What the channel does not know yet."""
        known = self.told.get(channel, {})
        return [
            Alert(condition, known.get(condition.subject, ()), self.since.get(condition.subject, 0))
            for condition in conditions
            if known.get(condition.subject, ()) != condition.kinds
        ]

    def was_told(self, channel: str, alerts: Iterable[Alert]) -> None:
        table = self.told.setdefault(channel, {})
        for alert in alerts:
            table[alert.condition.subject] = alert.condition.kinds

    def dump(self) -> bytes:
        told = {
            channel: {subject: kinds for subject, kinds in table.items() if kinds}
            for channel, table in self.told.items()
        }
        return json.dumps({"watched": self.watched, "told": told, "since": self.since, "kinds": self.kinds}).encode()


def load(content: bytes) -> Memory:
    """Raises ValueError for what is no memory of ours."""
    held = json.loads(content)
    if not isinstance(held, dict):
        raise ValueError("no table")
    try:
        told = {
            str(channel): {str(subject): _kinds(kinds) for subject, kinds in table.items()}
            for channel, table in held["told"].items()
        }
        kinds = {str(subject): _kinds(each) for subject, each in held["kinds"].items()}
        return Memory(_times(held["watched"]), told, _times(held["since"]), kinds)
    except (LookupError, AttributeError, TypeError) as error:
        raise ValueError(f"not as it was written: {error}") from None


def _kinds(value: Any) -> tuple[str, ...]:
    return tuple(str(kind) for kind in value)


def _times(table: Mapping[str, Any]) -> dict[str, int]:
    return {str(name): int(at) for name, at in table.items()}
