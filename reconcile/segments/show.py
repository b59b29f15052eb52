"""A join of segments as a person reads it."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reconcile.segments import lines
from reconcile.segments.job import SegmentSummary
from reconcile.words import amount


def table(summary: SegmentSummary) -> RenderableType:
    """The fate of every line, then what to look at."""
    title = f"segments of {summary.data_source} · {amount(len(summary.files), 'file')}"
    fates = Table(title=title, title_justify="left", box=None, pad_edge=False)
    fates.add_column("lines")
    fates.add_column("number", justify="right")
    fates.add_column("")
    for name, count, note in (
        ("read", summary.read, ""),
        ("  matched", summary.matched, f"{amount(summary.rows, 'row')} written"),
        ("  unmatched", summary.unmatched, "no customer is synced to the device, or no longer"),
        ("  opted out", summary.opted_out, "of the device; nothing is written of it"),
        ("  rejected", summary.rejected, ""),
    ):
        fates.add_row(name, f"{count:,}", Text(note, style="dim"))
    for reason, explanation in lines.EXPLANATIONS.items():
        if reason in summary.reasons:
            fates.add_row(f"    {reason}", f"{summary.reasons[reason]:,}", Text(explanation, style="dim"))
    notes = [f"rejected: {sample}" for sample in summary.samples]
    if summary.rejects_file:
        notes.append(f"rejected lines: {summary.rejects_file}")
    notes += [f"passed over: {note}" for note in summary.notes]
    if summary.controls:
        notes.append(f"control files: {', '.join(summary.controls)}")
    else:
        notes.append("no control file came with them, so nothing tells whether the export is whole")
    return Group(fates, *map(Text, notes))
