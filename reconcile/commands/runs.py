"""What sets off a run, or goes on with one."""

import json
import sys
from pathlib import Path

import click

from idsync import config
from idsync.cli import command
from reconcile import report
from reconcile.commands import aside, cli
from reconcile.progress import meter
from reconcile.run import resolve, run
from reconcile.summary import Summary


@command(cli, "python -m reconcile run crm-daily --dry-run", name="run")
@click.argument("feed")
@click.option("--dry-run", is_flag=True, help="Read, join and count, and show the same table; write nothing.")
@click.option("--engine", type=click.Choice(["duckdb"]), default="duckdb", show_default=True, help="What joins.")
def run_feed(config_path: Path | None, feed: str, dry_run: bool, engine: str) -> None:
    """Reconcile the new inputs of FEED and deliver the result.

    A table goes to stderr; the same figures go to stdout as JSON, unless that is a terminal.
    """
    settings = config.load(config_path)
    console = aside()
    with meter(console) as progress:
        summary = run(settings, feed, dry_run=dry_run, meter=progress)
    for earlier in summary.settled:
        console.print(f"run {earlier} had been interrupted: its frozen files were delivered first")
    for earlier in summary.withdrawn:
        console.print(f"run {earlier} was withdrawn: somebody opted out before its files were offered to anybody")
    if summary.status == "nothing-to-do":
        console.print(_nothing(summary, resolve(settings, feed)[0].inputs))
    else:
        console.print(report.funnel(summary, resolve(settings, feed)[0]))
    if not sys.stdout.isatty():
        click.echo(json.dumps(summary.as_dict()))


def _nothing(summary: Summary, pattern: str) -> str:
    waiting = f"; waiting for their sync: {report.amount(summary.held, 'held record')}" if summary.held else ""
    if summary.unfinished_inputs:
        waiting += f"; still being written: {report.amount(summary.unfinished_inputs, 'file')}"
    if summary.known_inputs:
        known = report.amount(summary.known_inputs, "file")
        return f"nothing to do: {known} of {pattern}, all delivered before{waiting}"
    return f"nothing to do: no file matches {pattern}{waiting}"
