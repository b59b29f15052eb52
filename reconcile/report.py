"""A run as a person reads it: a table that says what happened to every record."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from idsync.settings import Feed
from reconcile.rejects import EXPLANATIONS
from reconcile.summary import Summary

_UNMATCHED = {
    "hold": "held until their ID is synced",
    "drop": "dropped, as the feed asks",
    "emit": "sent all the same, as the feed asks",
}


def funnel(summary: Summary, feed: Feed) -> RenderableType:
    """The fate of every record, the files, and what to look at."""
    table = Table(title=_title(summary), title_justify="left", box=None, pad_edge=False)
    table.add_column("records")
    table.add_column("number", justify="right")
    table.add_column("share", justify="right")
    table.add_column("")
    origins = [f"from {amount(len(summary.inputs), 'file')}"] * bool(summary.inputs)
    origins += [f"{summary.from_hold:,} from hold"] * bool(summary.from_hold)
    _row(table, summary, "read", summary.read, ", ".join(origins))
    _row(table, summary, "  matched", summary.matched, amount(summary.lines, "line"))
    if summary.silent:
        _row(table, summary, "    of these silent", summary.silent, "matched, but every column to send is empty")
    if feed.changes_only:
        _row(table, summary, "    of these unchanged", summary.unchanged, "all that they say was sent before")
    _row(table, summary, "  unmatched", summary.unmatched, _UNMATCHED[feed.unmatched] if summary.unmatched else "")
    _row(table, summary, "  rejected", summary.rejected, "")
    for reason, count in summary.reasons.items():
        _row(table, summary, f"    {reason}", count, EXPLANATIONS[reason])
    return Group(table, *_notes(summary, feed))


def history(rows: Sequence[dict[str, Any]]) -> Table:
    """One line a run, latest first."""
    table = Table(box=None, pad_edge=False)
    for name in ("run", "feed", "state"):
        table.add_column(name)
    for name in ("read", "matched", "unmatched", "rejected", "lines", "files"):
        table.add_column(name, justify="right")
    table.add_column("problem")
    for row in rows:
        figures = [f"{row.get(name, 0):,}" for name in ("read", "matched", "unmatched", "rejected", "lines")]
        files = str(len(row.get("files", ())))
        table.add_row(row["run"], row["feed"], row["state"], *figures, files, row.get("problem", ""))
    return table


def amount(number: int, thing: str) -> str:
    """`1 file`, `1,200 files`."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def _row(table: Table, summary: Summary, name: str, count: int, note: str) -> None:
    share = f"{count / summary.read:.1%}" if summary.read else ""
    table.add_row(name, f"{count:,}", share, Text(note, style="dim"))


def _title(summary: Summary) -> str:
    when = datetime.fromtimestamp(summary.planned_at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"{summary.feed} · {summary.status} · {when}"


def _notes(summary: Summary, feed: Feed) -> list[Text]:
    notes = []
    if summary.superseded:
        notes.append(f"replaced by newer records of the same customers: {amount(summary.superseded, 'held record')}")
    if summary.known_inputs:
        notes.append(f"delivered before, or a copy, and passed over: {amount(summary.known_inputs, 'input file')}")
    if summary.unfinished_inputs:
        notes.append(f"still being written, left for next time: {amount(summary.unfinished_inputs, 'input file')}")
    if feed.unmatched == "hold" and summary.held:
        notes.append(f"waiting for their sync, up to {feed.held_days} days: {amount(summary.held, 'customer')}")
    if summary.vanished:
        notes.append(f"no longer in the export, their traits are removed: {amount(summary.vanished, 'user')}")
    if summary.forgotten:
        what = "their traits are removed" if feed.optout_removals else "what was sent for them is forgotten"
        notes.append(f"opted out since, {what}: {amount(summary.forgotten, 'user')}")
    notes += [
        f"{amount(item['items'], 'item')} of {item['column']} left out, {item['reason']}: {'; '.join(item['samples'])}"
        for item in summary.items_left_out
    ]
    if summary.rejects_file:
        notes.append(f"rejected records: {summary.rejects_file}")
    for file in summary.files:
        where = file.get("location", file["name"])
        notes.append(
            f"{where}  {amount(file['lines'], 'line')}, {file['bytes']:,} bytes, SHA-256 {file['sha256'][:16]}…"
        )
    if summary.status == "delivered" and not summary.files:
        notes.append("no record had anything to send, so there is no file: Audience Manager takes no empty ones")
    return [Text(note) for note in notes]
