"""What was found, as a person reads it."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reconcile.check.findings import RULES, FileReport, Report
from reconcile.words import amount

WIDTH = 240  # of a table that no terminal shows

_KINDS = {"inbound": "data", "adobe_id": "ID sync", "c2c_id": "ID sync", "": "unknown kind, read as data"}
_STYLES = {"error": "red", "warning": "yellow"}


def findings(report: Report) -> RenderableType:
    """File by file: what it is, and a row for each finding, with the rest of a rule as a number."""
    parts: list[RenderableType] = []
    for file in report.files:
        parts.append(_title(file))
        if file.findings:
            parts += [_table(file), Text()]
    if len(report.files) > 1:
        parts.append(Text(f"{amount(len(report.files), 'file')}: {_verdict(report)}"))
    return Group(*parts)


def _title(file: FileReport) -> Text:
    content = amount(file.lines, "line") if file.checked == "content" else "only the name was checked"
    return Text(f"{file.file}: {_KINDS[file.kind]}, {content}, {_verdict(file)}")


def _verdict(report: FileReport | Report) -> str:
    errors, warnings = report.total("error"), report.total("warning")
    told = [amount(errors, "error")] if errors else ["valid"]
    return ", ".join(told + [amount(warnings, "warning")] * bool(warnings))


def _table(file: FileReport) -> Table:
    table = Table(box=None, pad_edge=True, show_edge=False)
    for name in ("line", "column"):
        table.add_column(name, justify="right")
    for name in ("", "rule", "finding", "mend"):
        table.add_column(name)
    shown: dict[str, int] = {}
    for found in Report((file,)).findings:
        shown[found.rule] = shown.get(found.rule, 0) + 1
        line, column = (f"{number:,}" if number else "" for number in (found.line, found.column))
        severity = Text(found.severity, _STYLES[found.severity])
        table.add_row(
            line, column, severity, found.rule, Text(found.message), Text(found.mend if shown[found.rule] == 1 else "")
        )
    for rule, count in sorted(file.counts.items()):
        if count > shown.get(rule, 0):
            severity = Text(RULES[rule].severity, _STYLES[RULES[rule].severity])
            table.add_row(
                "", "", severity, rule, Text(f"… and {count - shown.get(rule, 0):,} more, {count:,} in all"), Text()
            )
    return table
