"""The status page in words, numbers and charts. Pure.

Facts ─► warnings ─► Page (every number is text by now) ─► templates/status.html ─► Reply
"""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from idsync import charts, consent, feedruns, reply, words
from idsync.charts import Chart
from idsync.concerns import Concern, warnings
from idsync.facts import FAILED, KINDS, QUARTER_MINUTES, REFUSED, Facts, add, of
from idsync.feedruns import Run
from idsync.metrics import BOUNDS_SECONDS, Tally
from idsync.outcomes import Outcome
from idsync.reply import Reply

STATS = "python -m idsync stats"
_MINUTE = 60_000  # milliseconds
_HTML = "text/html; charset=utf-8"
_TREND_RUNS = 14


class Figure(NamedTuple):
    name: str
    value: str
    note: str = ""


class Table(NamedTuple):
    """The first cell of a row is its header; columns after `texts` are numbers."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: int = 1


class Span(NamedTuple):
    """What is shown of an hour or a day."""

    title: str
    calls: Chart
    seconds: Chart
    table: Table


class Feed(NamedTuple):
    name: str
    facts: tuple[Figure, ...]
    trend: Chart | None
    table: Table | None


class Page(NamedTuple):
    now: str
    ready: bool
    not_ready: str
    warnings: tuple[Concern, ...]
    figures: tuple[Figure, ...]
    spans: tuple[Span, ...]
    outcomes: Table | None
    denied: Table | None
    mappings: Table | None
    mappings_note: str
    feeds: tuple[Feed, ...]
    footer: str


def page(facts: Facts) -> Page:
    """Everything that the page says."""
    hour, day = add(facts.minutes), add(facts.quarters)
    mappings, note = _mappings(facts)
    names = [*facts.feeds, *dict.fromkeys(run.feed for run in facts.told.runs if run.feed not in facts.feeds)]
    since = f"Counted since {words.moment(facts.since)}" if facts.since is not None else "There is no history of calls"
    return Page(
        now=words.moment(facts.now),
        ready=not facts.not_ready,
        not_ready=facts.not_ready,
        warnings=tuple(warnings(facts)),
        figures=tuple(_figures(facts, hour)),
        spans=(
            _span_of("Last hour, by minute", "minute", facts.now, _MINUTE, facts.minutes),
            _span_of("Last day, by quarter hour", "quarter hour", facts.now, QUARTER_MINUTES * _MINUTE, facts.quarters),
        ),
        outcomes=_outcomes(hour, day),
        denied=_denied(hour, day),
        mappings=mappings,
        mappings_note=note,
        feeds=tuple(_feed(facts, name) for name in names),
        footer=f"{since}, over all workers of this machine. Times are in UTC. The page comes anew every minute.",
    )


def render(page: Page) -> str:
    """The page as HTML: no script, no style attribute, nothing from elsewhere."""
    return _TEMPLATE.render(page=page, css=_CSS, kinds=KINDS)


def answer(facts: Facts) -> Reply:
    """The page as it leaves."""
    whole = reply.content(200, render(page(facts)).encode(), _HTML)
    return whole._replace(headers=(*whole.headers, ("Content-Security-Policy", POLICY)))


def _figures(facts: Facts, hour: Tally | None) -> Iterator[Figure]:
    calls = sum(hour.calls) if hour else 0.0
    if hour:
        yield Figure("Calls in the last hour", words.number(calls))
        failed, refused = of(hour, FAILED), of(hour, REFUSED)
        yield Figure("Failed (5xx)", words.share(failed, calls), f"{words.number(failed)} in the last hour")
        yield Figure("Refused (4xx)", words.share(refused, calls), f"{words.number(refused)} in the last hour")
        for name, share in (("Half answered within", 0.5), ("99 % answered within", 0.99)):
            yield Figure(
                name, words.seconds(charts.quantile(share, hour.within, BOUNDS_SECONDS)), "last hour, estimated"
            )
        yield Figure("Store failures", words.number(hour.store_failures), "batches in the last hour")
    yield Figure("Queue", words.number(facts.queue), "calls that wait for their write")
    if isinstance(facts.spool, str):
        yield Figure("Spool", "unreadable")
        return
    age = f"oldest for {words.span(facts.spool.age_seconds)}" if facts.spool.mappings else "empty"
    yield Figure("Spool", words.number(facts.spool.mappings), f"mappings, {age}" if facts.spool.mappings else age)
    yield Figure("Opt-outs in the spool", words.number(facts.spool.opt_outs))


def _span_of(title: str, unit: str, now: int, step: int, tallies: Sequence[Tally | None]) -> Span:
    first = (now // step - len(tallies) + 1) * step
    clocks = [words.clock(first + at * step) for at in range(len(tallies))]
    stacks = [[of(tally, kind.outcomes) for kind in KINDS] if tally else None for tally in tallies]
    sums = [sum(stack or ()) for stack in stacks]
    rates = [_answer_times(tally) for tally in tallies]
    rows = [
        (clock, *(words.number(part) for part in stack), words.seconds(half), words.seconds(most))
        for clock, stack, (half, most) in zip(clocks, stacks, rates, strict=True)
        if stack is not None and any(stack)
    ]
    scale = (clocks[0], clocks[len(clocks) // 2], "now")
    known = [tally is not None for tally in tallies]
    gaps = tuple(charts.gaps(known))
    missing = f" Not known: {known.count(False)} of {len(known)} intervals." if gaps else ""
    calls = _calls_chart(f"calls by {unit}", clocks, stacks, sums)
    seconds = _seconds_chart(f"answer times by {unit}", clocks, rates)
    calls, seconds = (
        chart._replace(
            alternative=chart.alternative + missing, start=scale[0], middle=scale[1], end=scale[2], gaps=gaps
        )
        for chart in (calls, seconds)
    )
    return Span(
        title,
        calls,
        seconds,
        Table(
            f"{title}: intervals with calls, by their beginning",
            ("from", *(kind.name for kind in KINDS), "half within", "99 % within"),
            tuple(rows),
        ),
    )


def _calls_chart(what: str, clocks: Sequence[str], stacks: Sequence[list[float] | None], sums: list[float]) -> Chart:
    highest = max(sums)
    top = charts.ceiling(highest)
    titles = [
        f"{clock}: "
        + ", ".join(f"{words.number(part)} {kind.name}" for kind, part in zip(KINDS, stack, strict=True) if part)
        if stack
        else clock
        for clock, stack in zip(clocks, stacks, strict=True)
    ]
    alternative = f"Chart of {what} from {clocks[0]} to now: none."
    if highest:
        parts = [sum(stack[at] for stack in stacks if stack) for at in range(len(KINDS))]
        told = ", ".join(f"{words.number(part)} {kind.name}" for kind, part in zip(KINDS, parts, strict=True))
        peak = f"at most {words.number(highest)}, from {clocks[sums.index(highest)]} on"
        alternative = f"Chart of {what} from {clocks[0]} to now: {words.number(sum(sums))} in all, {peak}; {told}."
    drawn = charts.bars([kind.word for kind in KINDS], stacks, titles, top)
    return Chart(
        alternative, len(clocks), "1 call" if top == 1 else f"{words.number(top)} calls", "", "", "", tuple(drawn)
    )


def _seconds_chart(what: str, clocks: Sequence[str], rates: Sequence[tuple[float | None, float | None]]) -> Chart:
    last = BOUNDS_SECONDS[-1]
    halves, most = ([None if each[at] is None else min(each[at] or 0, last) for each in rates] for at in (0, 1))
    slowest = max((value for value in most if value is not None), default=None)
    if slowest is None:
        return Chart(f"Chart of {what} from {clocks[0]} to now: no calls.", len(clocks), "no calls", "", "", "")
    top = charts.ceiling(slowest)
    at = clocks[most.index(slowest)]
    told = f"99 % of an interval's calls were answered within {words.seconds(slowest)} at the slowest, from {at} on"
    paths = (("half", charts.path(halves, top)), ("most", charts.path(most, top)))
    return Chart(
        f"Chart of {what} from {clocks[0]} to now: {told}.", len(clocks), words.seconds(top), "", "", "", paths=paths
    )


def _answer_times(tally: Tally | None) -> tuple[float | None, float | None]:
    if tally is None:
        return None, None
    half, most = (charts.quantile(share, tally.within, BOUNDS_SECONDS) for share in (0.5, 0.99))
    return half, most


def _outcomes(hour: Tally | None, day: Tally | None) -> Table | None:
    if day is None:
        return None
    of_hour = hour.calls if hour else (0.0,) * len(day.calls)
    total = sum(day.calls)
    rows = [
        (outcome.label, str(outcome.status), words.number(recent), words.number(count), words.share(count, total))
        for outcome, recent, count in zip(Outcome, of_hour, day.calls, strict=True)
        if count or recent
    ]
    rows.sort(key=lambda row: -int(row[3].replace(",", "")))
    rows.append(("all", "", words.number(sum(of_hour)), words.number(total), words.share(total, total)))
    columns = ("outcome", "status", "last hour", "last day", "share of the day")
    return Table("Calls by what became of them", columns, tuple(rows))


def _denied(hour: Tally | None, day: Tally | None) -> Table | None:
    if day is None or not any(day.denied):
        return None
    of_hour = hour.denied if hour else (0.0,) * len(day.denied)
    rows = [
        (word, words.number(recent), words.number(count))
        for word, recent, count in zip(consent.DENIALS, of_hour, day.denied, strict=True)
        if count or recent
    ]
    return Table("Calls without consent, by the signal that says so", ("signal", "last hour", "last day"), tuple(rows))


def _mappings(facts: Facts) -> tuple[Table | None, str]:
    counted = facts.counted
    if counted is None:
        return None, f"Not counted yet. To count now: {STATS}"
    age = f"{words.moment(counted.at)}, {words.span(max(facts.now - counted.at, 0) / 1000)} ago"
    if counted.problem:
        return None, f"{counted.problem} (tried at {age}). To count now: {STATS}"
    named = {
        **facts.sources,
        **{dpid: "not in the configuration" for dpid in counted.rows if dpid not in facts.sources},
    }
    rows = [(name, str(dpid), *map(words.number, counted.rows.get(dpid, (0, 0, 0)))) for dpid, name in named.items()]
    sums = [sum(row[at] for row in counted.rows.values()) for at in range(3)]
    rows.append(("all", "", *map(words.number, sums)))
    columns = ("data source", "DPID", "customers", "mappings", "opt-outs")
    devices = f"Opted-out devices: {words.number(counted.devices)}."
    return Table("Mappings in the store", columns, tuple(rows)), f"Counted at {age}. {devices} To count now: {STATS}"


def _feed(facts: Facts, name: str) -> Feed:
    runs = [run for run in facts.told.runs if run.feed == name]
    if not runs:
        return Feed(name, (Figure("Runs", "none told yet"),), None, None)
    figures = [Figure("Latest run", runs[0].status, words.moment(runs[0].planned_at))]
    delivered = next((run for run in runs if run.status == "delivered"), None)
    if delivered:
        at = delivered.finished_at or delivered.planned_at
        figures.append(Figure("Latest delivery", f"{words.span(max(facts.now - at, 0) / 1000)} ago", words.moment(at)))
    else:
        figures.append(Figure("Latest delivery", "none known"))
    if compared := feedruns.fall(runs):
        points = (compared[0] - compared[1]) * 100
        figures.append(Figure("Match rate", f"{compared[0]:.1%}", f"{points:+.1f} points against the median before"))
    elif (rate := next((run.match_rate for run in runs if run.match_rate is not None), None)) is not None:
        figures.append(Figure("Match rate", f"{rate:.1%}"))
    figures.append(Figure("Held", words.number(runs[0].held), "records that wait for their sync"))
    if name not in facts.feeds:
        figures.append(Figure("Configuration", "not in it", "the feed was removed or renamed"))
    columns = ("planned at", "status", "read", "matched", "match rate", "unmatched", "rejected", "lines")
    rows = [
        (
            words.moment(run.planned_at),
            run.status,
            words.number(run.read),
            words.number(run.matched),
            words.NONE if run.match_rate is None else f"{run.match_rate:.1%}",
            words.number(run.unmatched),
            words.number(run.rejected),
            words.number(run.lines),
        )
        for run in runs[:_TREND_RUNS]
    ]
    return Feed(name, tuple(figures), _trend(runs), Table(f"Latest runs of {name}", columns, tuple(rows), texts=2))


def _trend(runs: Sequence[Run]) -> Chart | None:
    """Match rates, oldest first; None without two of them."""
    rated = [(run, run.match_rate) for run in runs if run.match_rate is not None][:_TREND_RUNS][::-1]
    if len(rated) < 2:  # noqa: PLR2004
        return None
    titles = [f"{words.moment(run.planned_at)}: {rate:.1%}" for run, rate in rated]
    drawn = charts.bars(["matched"], [[rate or 1e-9] for _, rate in rated], titles, 1.0)
    rates = ", ".join(f"{rate:.1%}" for _, rate in rated)
    alternative = f"Chart of the match rates of the last {len(rated)} runs, oldest first: {rates}."
    first, last = (words.moment(run.planned_at)[:10] for run in (rated[0][0], rated[-1][0]))
    return Chart(alternative, len(rated), "100 %", first, "", last, tuple(drawn))


_TEMPLATES = Environment(
    loader=PackageLoader("idsync"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_CSS = _TEMPLATES.get_template("status.css").render()
_TEMPLATE = _TEMPLATES.get_template("status.html")
# The style sheet is part of the page; its hash lets it in, and no other.
_CSS_HASH = base64.b64encode(hashlib.sha256(_CSS.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_CSS_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
