"""The report as words, numbers and charts: every number is text by now. Pure; `html` and `terminal` show it."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from idsync import charts
from idsync.charts import Chart
from reconcile.words import amount

NONE = "\N{EN DASH}"
_KINDS = ("matched", "unmatched", "rejected")
_POLICY = {
    "hold": "held until their ID is synced",
    "drop": "dropped, as the feed asks",
    "emit": "sent all the same, as the feed asks",
}
_NEWEST = "the newest record of each customer is held until its ID is synced"
_UNITS = {
    "looking at inputs": "file",
    "fetching inputs": "file",
    "reading records": "record",
    "reading mappings": "mapping",
    "reading mappings of the other data source": "mapping",
    "joining": "line",
    "joining on Spark": "record",
    "looking why records did not match": "record",
    "delivering": "file",
}
_LEAST_SHARE = 0.001
_GOOD = {"delivered", "nothing-to-do", "dry-run"}


class Figure(NamedTuple):
    name: str
    value: str
    note: str = ""


class Table(NamedTuple):
    """The first cell of a row is its header; the columns named in `said` hold sentences, names, digests."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    said: frozenset[str] = frozenset()


class Stage(NamedTuple):
    """A step of the funnel: `level` deep, `share` of the records read, from 0 to 100."""

    level: int
    name: str
    number: str
    share: str
    width: float
    kind: str
    note: str


class Fault(NamedTuple):
    """Records left out for one reason."""

    title: str
    explanation: str
    table: Table | None


class Page(NamedTuple):
    title: str
    when: str
    status: str
    good: bool
    problem: str
    glance: tuple[Figure, ...]
    funnel: tuple[Stage, ...]
    notes: tuple[str, ...]
    chart: Chart | None
    chart_table: Table | None
    prediction: Table
    prediction_note: str
    traits: Table | None
    faults: tuple[Fault, ...]
    more_faults: str
    why: tuple[str, ...]
    why_note: str
    samples: Table | None
    files: Table | None
    inputs: Table | None
    steps: Table | None
    footer: str


def page_of(figures: Mapping[str, Any]) -> Page:
    """Everything that the report says."""
    summary = figures["summary"]
    shown, rest = figures["errors"][:_TOP], figures["errors"][_TOP:]
    more = f"{amount(len(rest), 'other reason')} for {amount(sum(fault['records'] for fault in rest), 'record')}."
    why = figures["why"]
    masked = "IDs are masked." if figures["masked"] else "IDs are not masked: keep this page as you keep the inputs."
    return Page(
        title=summary["feed"],
        when=moment(summary.get("planned_at", 0)),
        status=summary["status"],
        good=summary["status"] in _GOOD,
        problem=summary.get("problem", ""),
        glance=tuple(_glance(summary, figures["prediction"])),
        funnel=tuple(funnel(summary)),
        notes=tuple(notes(summary)),
        chart=_chart(figures["days"]),
        chart_table=_chart_table(figures["days"]),
        prediction=prediction_table(figures["prediction"]),
        prediction_note=PREDICTION,
        traits=_traits(summary.get("traits") or {}),
        faults=tuple(map(_fault, shown)),
        more_faults=more if rest else "",
        why=tuple(why.get("sentences", ())),
        why_note=_why_note(why, summary),
        samples=_samples(why),
        files=_files(summary),
        inputs=_inputs(summary),
        steps=steps_table(summary),
        footer=f"Run {figures['run']}. Made {moment(figures['made_at'])}. {masked} Times are in UTC.",
    )


_TOP = 10
PREDICTION = (
    "A prediction, made before Audience Manager has seen the files: what its Onboarding Status Report is expected to"
    " say of their lines, beside the records of the inputs that stayed here for the same reason."
)


def funnel(summary: Mapping[str, Any]) -> Iterator[Stage]:
    """From the records read to the lines delivered."""
    read = summary.get("read", 0)

    def stage(level: int, name: str, count: int, kind: str, note: str = "") -> Stage:
        width = round(100 * count / read, 3) if read else 0.0
        return Stage(level, name, f"{count:,}", share(count, read), min(width, 100.0), kind, note)

    origins = [f"from {amount(len(summary.get('inputs', ())), 'file')}"] * bool(summary.get("inputs"))
    origins += [f"{waited:,} from hold" for waited in (summary.get("from_hold"),) if waited]
    yield stage(0, "read", read, "read", ", ".join(origins))
    yield stage(1, "matched", summary.get("matched", 0), "matched", amount(summary.get("lines", 0), "line"))
    if summary.get("silent"):
        yield stage(2, "of these silent", summary["silent"], "silent", "matched, but every column to send is empty")
    if summary.get("unchanged"):
        yield stage(2, "of these unchanged", summary["unchanged"], "silent", "all that they say was sent before")
    unmatched = summary.get("unmatched", 0)
    policy = _POLICY.get(summary.get("unmatched_policy", ""), "") if unmatched else ""
    if policy == _POLICY["hold"] and summary.get("held", unmatched) != unmatched:
        policy = _NEWEST  # some of them are of one customer
    yield stage(1, "unmatched", unmatched, "unmatched", policy)
    yield stage(1, "rejected", summary.get("rejected", 0), "rejected")
    for reason, count in summary.get("reasons", {}).items():
        yield stage(2, reason, count, "rejected")


def notes(summary: Mapping[str, Any]) -> Iterator[str]:
    """What else is to be said of the records and files, the most important first."""
    told = (
        ("superseded", "held record", "replaced by newer records of the same customers: {}"),
        ("known_inputs", "input file", "delivered before, or a copy, and passed over: {}"),
        ("unfinished_inputs", "input file", "still being written, left for next time: {}"),
        ("older_inputs", "input file", "older than asked for, and passed over this time: {}"),
        ("limit", "record", "read no further than {} of the inputs, as asked"),
        ("held", "customer", "waiting for their sync from now on: {}"),
        ("vanished", "user", "no longer in the export, their traits are removed: {}"),
        ("forgotten", "user", "opted out since something was sent for them: {}"),
    )
    for name, thing, text in told:
        if summary.get(name):
            yield text.format(amount(summary[name], thing))
    for item in summary.get("items_left_out", ()):
        left = f"{amount(item['items'], 'item')} of {item['column']} left out, {item['reason']}"
        yield f"{left}: {'; '.join(item['samples'])}"
    if summary.get("status") == "delivered" and not summary.get("files"):
        yield "no record had anything to send, so there is no file: Audience Manager takes no empty ones"


def prediction_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Beside each term the records kept back, and the lines that it is expected to count."""
    percent = "Percent Success"
    shown = [
        (
            row["term"],
            *(figure(row[key], percent=row["term"] == percent) for key in ("kept_back", "reported")),
            row["note"],
        )
        for row in rows
    ]
    columns = ("term", "input records", "file lines", "")
    return Table("Onboarding status, predicted", columns, tuple(shown), frozenset({""}))


def steps_table(summary: Mapping[str, Any]) -> Table | None:
    """How long each step took, and its rate; some run side by side."""
    rows = []
    size = sum(file["bytes"] for file in summary.get("files", ()))
    for step in summary.get("steps", ()):
        unit = _UNITS.get(step["step"], "item")
        seconds, count = step["seconds"], step["count"]
        rate = f"{count / seconds:,.0f} {unit}s/s" if seconds > 0 and unit != "file" else NONE
        if step["step"] == "delivering" and seconds > 0 and size:
            rate = f"{size / seconds / 1e6:,.1f} MB/s"
        rows.append((step["step"], amount(count, unit), duration(seconds), rate))
    if summary.get("finished_at") and rows:
        rows.append(("whole run", "", duration((summary["finished_at"] - summary["planned_at"]) / 1000), ""))
    columns = ("step", "amount", "time", "rate")
    return Table("Steps; some run side by side", columns, tuple(rows)) if rows else None


def share(part: float, whole: float) -> str:
    if not whole:
        return ""
    return "<0.1%" if 0 < part / whole < _LEAST_SHARE else f"{part / whole:.1%}"


def duration(seconds: float) -> str:
    """`12 ms`, `1.4 s`, `183.0 s`."""
    return f"{seconds:,.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def ago(milliseconds: int, now: int) -> str:
    """`3 days ago`, `5 minutes ago`: in whole units, of which there are at least two."""
    if not milliseconds:
        return NONE
    seconds = max(now - milliseconds, 0) // 1000
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{amount(seconds, 'second')} ago"


def figure(value: float | None, *, percent: bool) -> str:
    if value is None:
        return NONE
    return f"{value:.1%}" if percent else f"{value:,.0f}"


def _glance(summary: Mapping[str, Any], prediction: Sequence[Mapping[str, Any]]) -> Iterator[Figure]:
    read = summary.get("read", 0)
    yield Figure("Records read", f"{read:,}")
    yield Figure("Match rate", share(summary.get("matched", 0), read) or NONE)
    yield Figure("Lines", f"{summary.get('lines', 0):,}", amount(len(summary.get("files", ())), "file"))
    success = next(row["reported"] for row in prediction if row["term"] == "Percent Success")
    yield Figure("Percent Success", figure(success, percent=True), "of the lines, predicted")
    yield Figure("Held", f"{summary.get('held', 0):,}", "customers who wait for their sync")
    yield Figure("Mappings", f"{summary.get('mappings', 0):,}", "looked at in the store")


def _chart(days: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Records of each day's delivered runs."""
    if not days:
        return None
    stacks = [[day[kind] for kind in _KINDS] for day in days]
    top = charts.ceiling(max(map(sum, stacks)))
    titles = [
        f"{day['day']}: " + ", ".join(f"{day[kind]:,} {kind}" for kind in _KINDS) + f", {amount(day['lines'], 'line')}"
        for day in days
    ]
    sums = ", ".join(f"{sum(day[kind] for day in days):,} {kind}" for kind in _KINDS)
    told = f"Chart of the records of delivered runs by day, {days[0]['day']} to {days[-1]['day']}: {sums}."
    drawn = charts.bars(_KINDS, stacks, titles, top)
    ends = (days[0]["day"], "", days[-1]["day"] if len(days) > 1 else "")
    return Chart(told, len(days), amount(round(top), "record"), *ends, tuple(drawn))


def _chart_table(days: Sequence[Mapping[str, Any]]) -> Table | None:
    names = ("runs", "read", *_KINDS, "lines")
    rows = [(day["day"], *(f"{day[name]:,}" for name in names)) for day in days if day["runs"]]
    return Table("Delivered runs by day", ("day", *names), tuple(rows[::-1])) if rows else None


def _traits(traits: Mapping[str, Any]) -> Table | None:
    if not traits.get("unknown"):
        return None
    rows = [(entry["trait"], f"{entry['lines']:,}") for entry in traits["unknown"]]
    caption = f"Traits that are sent and are not on the list: {traits['unknown_traits']:,}, the most frequent first"
    return Table(caption, ("trait", "lines"), tuple(rows))


def _fault(fault: Mapping[str, Any]) -> Fault:
    term = f" · {fault['term']}" if fault["term"] else ""
    rows = [
        (f"{sample['input']}, line {sample['line']:,}" if sample["line"] else sample["input"], sample["customer_id"])
        for sample in fault["samples"]
    ]
    caption = f"The first {len(rows)} of {fault['records']:,}" if len(rows) < fault["records"] else "All of them"
    said = frozenset({"where", "customer ID"})
    table = Table(caption, ("where", "customer ID"), tuple(rows), said) if rows else None
    return Fault(f"{fault['reason']}: {amount(fault['records'], 'record')}{term}", fault["explanation"], table)


def _why_note(why: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    if why.get("problem"):
        return f"{why['problem'][:1].upper()}{why['problem'][1:]}"
    if why:
        return ""
    return "Not looked into." if summary.get("unmatched") else "No record is unmatched."


def _samples(why: Mapping[str, Any]) -> Table | None:
    rows = [
        (finding["rule"], sample["record"], sample["mapping"])
        for finding in why.get("findings", ())
        for sample in finding["samples"]
    ]
    columns = ("explained by", "the file has", "the store has")
    return Table("Samples", columns, tuple(rows), frozenset(columns[1:])) if rows else None


def _files(summary: Mapping[str, Any]) -> Table | None:
    files = summary.get("files", ())
    rows = []
    for file in files:
        where = file.get("location", "")
        proof = f"all {file['bytes']:,} bytes lie there" if where else "not delivered"
        figures = (f"{file['lines']:,}", f"{file['bytes']:,}", f"{file['raw_bytes']:,}")
        rows.append((file["name"], *figures, file["sha256"], where or NONE, proof))
    columns = ("name", "lines", "bytes", "bytes raw", "SHA-256", "where", "proof")
    caption = f"Files for {summary.get('destination', '')}"
    return Table(caption, columns, tuple(rows), frozenset({"name", "SHA-256", "where", "proof"})) if rows else None


def _inputs(summary: Mapping[str, Any]) -> Table | None:
    rows = [(entry["path"], f"{entry.get('records', 0):,}", entry["sha256"]) for entry in summary.get("inputs", ())]
    columns = ("input", "records", "SHA-256")
    return Table("Inputs", columns, tuple(rows), frozenset({"input", "SHA-256"})) if rows else None
