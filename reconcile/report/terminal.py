"""A run on a terminal: what happened to every record, and what to look at."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reconcile.overview import Overview
from reconcile.preview import Shown
from reconcile.rejects import EXPLANATIONS
from reconcile.report import page, prediction
from reconcile.summary import Summary
from reconcile.words import amount

_NOTHING = {"matched": "nothing to send", "unmatched": "no line", "rejected": "no line"}
_FIGURES = ("read", "matched", "unmatched", "rejected", "lines")


def funnel(summary: Summary, _: object = None) -> RenderableType:
    """The fate of every record, the files, and what to look at."""
    return told(summary.as_dict())


def told(summary: Mapping[str, Any]) -> RenderableType:
    """The same of a summary as the ledger has it."""
    title = f"{summary['feed']} · {summary['status']} · {page.moment(summary.get('planned_at', 0))}"
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    table.add_column("records")
    table.add_column("number", justify="right")
    table.add_column("share", justify="right")
    table.add_column("")
    for stage in page.funnel(summary):
        note = stage.note or (EXPLANATIONS.get(stage.name, "") if stage.kind == "rejected" else "")
        table.add_row(Text("  " * stage.level + stage.name), stage.number, stage.share, Text(note, style="dim"))
    parts: list[RenderableType] = [table]
    parts += map(Text, page.notes(summary))
    parts += map(Text, _files(summary))
    parts += map(Text, _why(summary))
    parts.append(Text(_predicted(summary), style="dim"))
    parts += [Text(line, style="dim") for line in _steps(summary)]
    if summary.get("report"):
        parts.append(Text(f"report: {summary['report']}"))
    return Group(*parts)


def beside(record: Shown) -> RenderableType:
    """A record of the inputs beside what becomes of it."""
    fate = f"{record.fate}: {record.reason}" if record.reason else record.fate
    table = Table(title=Text(f"{record.input}, line {record.line:,}: {fate}"), title_justify="left", box=None)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    if record.customer_id:
        table.add_row("ID", Text(record.customer_id))
    for name, value in record.values.items():
        table.add_row(Text(name), Text(value))
    for line in record.lines or [_NOTHING.get(record.fate, "")]:
        table.add_row("→", Text(line.replace("\t", " ⇥ ")))
    return table


def history(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """One line a run, latest first, and why some ended badly. A run's name has its feed's in it."""
    table = Table(box=None, pad_edge=False)
    for name in ("run", "state"):
        table.add_column(name, no_wrap=True, overflow="fold")  # is typed elsewhere, or looked for
    for name in (*_FIGURES, "files"):
        table.add_column(name, justify="right")
    for row in rows:
        figures = [f"{row.get(name, 0):,}" for name in _FIGURES]
        table.add_row(row["run"], row["state"], *figures, str(len(row.get("files", ()))))
    problems = (f"{row['run']}: {row['problem']}" for row in rows if row.get("problem"))
    return Group(table, *map(Text, problems))


def feeds(found: Sequence[Overview], now: int) -> RenderableType:
    """One line a feed, and what keeps some from running; `now` in milliseconds."""
    table = Table(box=None, pad_edge=False)
    for name in ("feed", "from", "to"):
        table.add_column(name)
    for name in ("inputs", "oldest", "held"):
        table.add_column(name, justify="right")
    for name in ("last run", "when"):
        table.add_column(name)
    table.add_column("matched", justify="right")
    for feed in found:
        table.add_row(
            *(feed.feed, feed.data_source, feed.destination),
            page.NONE if feed.waiting is None else f"{feed.waiting:,}",
            page.ago(feed.oldest_at, now).removesuffix(" ago"),
            f"{feed.held:,}",
            feed.status or "none yet",
            page.ago(feed.planned_at, now),
            page.NONE if feed.match_rate is None else f"{feed.match_rate:.1%}",
        )
    return Group(table, *(Text(f"{feed.feed}: {feed.problem}") for feed in found if feed.problem))


def _files(summary: Mapping[str, Any]) -> list[str]:
    lines = []
    if summary.get("rejects_file"):
        lines.append(f"rejected records: {summary['rejects_file']}")
    for file in summary.get("files", ()):
        where, size = file.get("location", file["name"]), f"{amount(file['lines'], 'line')}, {file['bytes']:,} bytes"
        lines.append(f"{where}  {size}, SHA-256 {file['sha256'][:16]}…")
    return lines


def _why(summary: Mapping[str, Any]) -> list[str]:
    why = summary.get("why") or {}
    if why.get("problem"):
        return [f"why records did not match: {why['problem']}"]
    sentences = why.get("sentences", ())
    return ["why records did not match:", *(f"  {sentence}" for sentence in sentences)] if sentences else []


def _predicted(summary: Mapping[str, Any]) -> str:
    rows = prediction.expected(summary)
    wanted = (prediction.RECEIVED, prediction.NO_MATCH, prediction.NO_TRAIT, prediction.STORED, prediction.SUCCESS)
    shown = [row for row in rows if row.term in wanted and row.reported is not None]
    figures = (f"{row.term} {page.figure(row.reported, percent=row.term == prediction.SUCCESS)}" for row in shown)
    return f"Audience Manager is expected to report: {', '.join(figures)}"


def _steps(summary: Mapping[str, Any]) -> list[str]:
    steps = page.steps_table(summary)
    if steps is None:
        return []
    return ["; ".join(" ".join(filter(lambda cell: cell not in {"", page.NONE}, row)) for row in steps.rows)]
