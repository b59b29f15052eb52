"""What of the facts deserves a warning on the status page. Pure."""

from collections.abc import Iterator
from typing import NamedTuple

from idsync import consent, feedruns, words
from idsync.facts import FAILED, HOUR, Facts, add, of

_MINUTE = 60_000  # milliseconds

# From where on something is said.
SPOOL_SECONDS = 300
QUIET_MINUTES = 15
UNDELIVERED_HOURS = 36
FALL_POINTS = 10
UNREADABLE_SHARE = 0.05
FAILED_SHARE = 0.01
MIN_CALLS = 20  # a share of fewer says nothing


class Concern(NamedTuple):
    """`what` is the case, and what to do."""

    what: str
    mend: str


def warnings(facts: Facts) -> list[Concern]:
    """What somebody should look at, the most urgent first."""
    return [*_of_the_store(facts), *_of_the_calls(facts), *_of_the_feeds(facts)]


def _of_the_store(facts: Facts) -> Iterator[Concern]:
    if facts.not_ready:
        yield Concern(f"Not ready: {facts.not_ready}.", "Calls go to the spool until the store takes them again.")
    spool = facts.spool
    if isinstance(spool, str):
        yield Concern(f"The spool can't be read: {spool}.", "While the store is away too, calls are refused.")
    else:
        if spool.mappings and spool.age_seconds > SPOOL_SECONDS:
            waits = f"{words.number(spool.mappings)} {'mapping waits' if spool.mappings == 1 else 'mappings wait'}"
            what = f"The spool is not empty: {waits} for the store, the oldest for {words.span(spool.age_seconds)}."
            yield Concern(what, "The commands lookup and reconcile don't see them before they are in the store.")
        if spool.opt_outs:
            waits = f"{words.number(spool.opt_outs)} {'opt-out waits' if spool.opt_outs == 1 else 'opt-outs wait'}"
            what = f"{waits} in the spool for the store."
            yield Concern(what, "This machine honours them already; others and the job do when the store has them.")
    hour = add(facts.minutes)
    if hour and hour.store_failures:
        batches = "1 batch" if hour.store_failures == 1 else f"{words.number(hour.store_failures)} batches"
        what = f"The store did not take {batches} in the last hour."
        yield Concern(what, "Their calls went to the spool; see the endpoint's log for the reason.")


def _of_the_calls(facts: Facts) -> Iterator[Concern]:
    if facts.history_problem:
        yield Concern(f"Figures by time are missing: {facts.history_problem}.", "The present ones are right.")
    hour = add(facts.minutes)
    if hour is None:
        return
    calls = sum(hour.calls)
    failed = of(hour, FAILED)
    if calls >= MIN_CALLS and failed / calls > FAILED_SHARE:
        what = f"{words.share(failed, calls)} of the calls of the last hour failed (5xx)."
        yield Concern(what, "They are not stored; see the endpoint's log.")
    unreadable = hour.denied[consent.DENIALS.index("unreadable")]
    if calls >= MIN_CALLS and unreadable / calls > UNREADABLE_SHARE:
        what = f"{words.share(unreadable, calls)} of the calls of the last hour carry consent that can't be read."
        yield Concern(what, "Nothing of these is stored; see what the site's consent tool puts into them.")
    latest = facts.minutes[-QUIET_MINUTES - 1 :]
    known = [tally for tally in latest if tally is not None]
    if len(known) == len(latest) and not any(sum(tally.calls) for tally in known):
        what = f"No call for {QUIET_MINUTES} minutes or more."
        yield Concern(what, "See that the site still calls, and that the proxy in front leads here.")


def _of_the_feeds(facts: Facts) -> Iterator[Concern]:
    if facts.told.problem:
        yield Concern(f"{facts.told.problem}.", "The next run writes it anew.")
    for feed in facts.feeds:
        runs = [run for run in facts.told.runs if run.feed == feed]
        if not runs:
            continue
        delivered = next((run for run in runs if run.status == "delivered"), None)
        since = (delivered.finished_at or delivered.planned_at) if delivered else runs[-1].planned_at
        if facts.now - since > UNDELIVERED_HOURS * HOUR * _MINUTE:
            latest = "" if runs[0] is delivered else f'; the latest run says "{runs[0].status}"'
            what = f"Feed {feed}: no delivery for {words.span((facts.now - since) / 1000)}{latest}."
            yield Concern(what, "See that exports arrive and cron runs: python -m reconcile history.")
        compared = feedruns.fall(runs)
        if compared and round((compared[1] - compared[0]) * 100, 6) > FALL_POINTS:
            points = f"from {compared[1]:.1%}, as usual, to {compared[0]:.1%}"
            what = f"Feed {feed}: the match rate fell {points}."
            yield Concern(what, "See that the export holds the same kind of ID as the website sends.")
