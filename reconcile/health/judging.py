"""What is wrong, from facts. Pure.

A subject (a feed, the store, the ledger) has faults, each of a kind. A fault's words hold no ID and no path: they go
out by chat and mail.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal, NamedTuple

from idsync.settings import Feed, Health

HOUR = 3_600_000  # milliseconds
STORE, LEDGER = "the store", "the ledger"  # no feed can be called so
# A share of fewer records says little, and so does a median of fewer runs.
LEAST_RECORDS = 100
LEAST_RUNS = 3
RUNS_NAMED = 3

Kind = Literal["overdue", "match-rate", "refused", "failed", "stuck", "held-back", "unfinished-input", "unreadable"]


class Fault(NamedTuple):
    kind: Kind
    message: str


class Condition(NamedTuple):
    """Well without `faults`."""

    subject: str
    faults: tuple[Fault, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(sorted({fault.kind for fault in self.faults}))


class RunFacts(NamedTuple):
    """As the ledger has it; times in milliseconds, 0 where there is none."""

    run: str
    state: str
    planned_at: int = 0
    finished_at: int = 0
    read: int = 0
    matched: int = 0

    @property
    def match_rate(self) -> float | None:
        """None of a run that did not come to its files, or read too little."""
        return self.matched / self.read if self.state == "delivered" and self.read >= LEAST_RECORDS else None


class Waiting(NamedTuple):
    """A run whose files are frozen and not delivered, since when; `on_hold`: as somebody asked."""

    run: str
    since: int
    on_hold: bool = False


@dataclass(frozen=True, slots=True)
class FeedFacts:
    """`runs` latest first. `watched_since`: when the feed was first looked at. `unfinished`: how old each input is that
    is still being written, in milliseconds.
    """

    feed: Feed
    watched_since: int
    runs: Sequence[RunFacts] = ()
    delivered_at: int = 0
    waiting: Sequence[Waiting] = ()
    unfinished: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """`now` in milliseconds; `store` and `ledger`: why they can't be used, "" if they can. `feeds`: those of which
    anything is known.
    """

    now: int
    store: str = ""
    ledger: str = ""
    feeds: Sequence[FeedFacts] = field(default_factory=tuple)


def judge(facts: Facts, limits: Health) -> list[Condition]:
    """One for the store, one for the ledger, one for each feed of which anything is known."""
    conditions = [
        Condition(STORE, _unreadable("the mapping store can't be used", facts.store)),
        Condition(LEDGER, _unreadable("the job's ledger or folders can't be read", facts.ledger)),
    ]
    return conditions + [Condition(each.feed.name, tuple(_faults(each, facts.now, limits))) for each in facts.feeds]


def _unreadable(what: str, why: str) -> tuple[Fault, ...]:
    return (Fault("unreadable", f"{what}; its own words are on the machine: reconcile health"),) if why else ()


def _faults(facts: FeedFacts, now: int, limits: Health) -> Iterator[Fault]:
    yield from _overdue(facts, now)
    yield from _ended_badly(facts.runs)
    yield from _waiting(facts.waiting, now, limits.stuck_hours)
    old = [age for age in facts.unfinished if age > limits.stuck_hours * HOUR]
    if old:
        yield Fault(
            "unfinished-input",
            f"{len(old):,} input{'s' * (len(old) != 1)} still being written, for {span(max(old))}: their names say that"
            " they are not complete",
        )
    yield from _match_rate(facts.runs, limits)


def _overdue(facts: FeedFacts, now: int) -> Iterator[Fault]:
    expected = facts.feed.expected_every_hours
    if expected is None:
        return
    since = facts.delivered_at or facts.watched_since
    if now - since > expected * HOUR:
        what = "nothing delivered" if facts.delivered_at else "nothing was ever delivered, watched"
        yield Fault("overdue", f"{what} for {span(now - since)}, expected every {span(round(expected * HOUR))}")


def _ended_badly(runs: Sequence[RunFacts]) -> Iterator[Fault]:
    """The latest run that has ended, one way or the other."""
    latest = next((run for run in runs if run.state in {"delivered", "refused", "failed"}), None)
    if latest is not None and latest.state == "refused":
        yield Fault("refused", f"run {latest.run} was refused for its data; nothing of it was delivered")
    elif latest is not None and latest.state == "failed":
        yield Fault("failed", f"run {latest.run} failed; nothing of it was delivered")


def _waiting(waiting: Iterable[Waiting], now: int, hours: float) -> Iterator[Fault]:
    kinds: tuple[tuple[Kind, str], ...] = (
        ("stuck", "frozen and not delivered"),
        ("held-back", "on hold until it is released"),
    )
    for kind, what in kinds:
        old = [each for each in waiting if each.on_hold == (kind == "held-back") and now - each.since > hours * HOUR]
        if old:
            more = f" and {len(old) - RUNS_NAMED} more" if len(old) > RUNS_NAMED else ""
            runs = ", ".join(each.run for each in old[:RUNS_NAMED])
            yield Fault(kind, f"{runs}{more}: {what} for {span(now - min(each.since for each in old))}")


def _match_rate(runs: Sequence[RunFacts], limits: Health) -> Iterator[Fault]:
    rates = [rate for run in runs if (rate := run.match_rate) is not None]
    if not rates or runs[0].match_rate is None or len(rates) <= min(LEAST_RUNS, limits.compared_runs):
        return
    usual = median(rates[1 : 1 + limits.compared_runs])
    if rates[0] < usual * (1 - limits.match_rate_fall):
        yield Fault("match-rate", f"the match rate fell from {usual:.1%}, as usual, to {rates[0]:.1%}")


def span(milliseconds: int) -> str:
    """`40 minutes`, `5 hours`, `3 days`."""
    minutes = milliseconds // 60_000
    for size, unit in ((2 * 1440, "day"), (60, "hour")):
        if minutes >= size:
            count = minutes // {"day": 1440, "hour": 60}[unit]
            return f"{count:,} {unit}{'s' * (count != 1)}"
    return f"{minutes} minute{'s' * (minutes != 1)}"
