"""A receipt as a person reads it."""

from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reconcile.receipt.account import Account

_STYLES = {"agrees": "green", "explained": "", "contradiction": "red"}


def account(found: Account) -> RenderableType:
    """The terms beside what was expected, then the findings, contradictions first."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in ("expected", "reported"):
        table.add_column(name, justify="right")
    for row in found.rows:
        agrees = row.expected is None or row.reported is None or row.expected == row.reported
        reported = "not told" if row.reported is None else f"{row.reported:,}"
        expected = "" if row.expected is None else f"{row.expected:,}"
        table.add_row(Text(row.term), expected, Text(reported, "" if agrees else "yellow"))
    worst_first = sorted(found.findings, key=lambda finding: list(_STYLES).index(finding.verdict), reverse=True)
    notes = [
        Text.assemble((each.verdict, _STYLES[each.verdict]), f": {each.about}: {each.message}") for each in worst_first
    ]
    return Group(Text(_title(found)), table, *notes)


def _title(found: Account) -> str:
    runs = ", ".join(found.runs) or "no run of ours"
    times = " to ".join(_time(at) for at in (found.started, found.ended) if at is not None)
    return f"{runs}{f' · processed {times}' if times else ''}"


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
