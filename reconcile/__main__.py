"""The command line: `python -m reconcile`."""

import json
import sys
from pathlib import Path

import click
from rich.console import Console

from idsync import config
from idsync.cli import command, group
from reconcile import report
from reconcile.ledger import Ledger
from reconcile.progress import meter
from reconcile.run import resolve, run
from reconcile.summary import Summary

cli = group("reconcile", "Joins offline records to the synced IDs and delivers files to Audience Manager.")


@command(cli, "python -m reconcile run crm-daily --dry-run", name="run")
@click.argument("feed")
@click.option("--dry-run", is_flag=True, help="Read, join and count, and show the same table; write nothing.")
@click.option("--engine", type=click.Choice(["duckdb"]), default="duckdb", show_default=True, help="What joins.")
def run_feed(config_path: Path | None, feed: str, dry_run: bool, engine: str) -> None:
    """Reconcile the new inputs of FEED and deliver the result.

    A table goes to stderr; the same figures go to stdout as JSON, unless that is a terminal.
    """
    settings = config.load(config_path)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with meter(console) as progress:
        summary = run(settings, feed, dry_run=dry_run, meter=progress)
    for earlier in summary.settled:
        console.print(f"run {earlier} had been interrupted: its frozen files were delivered first")
    if summary.status == "nothing-to-do":
        console.print(_nothing(summary, resolve(settings, feed)[0].inputs))
    else:
        console.print(report.funnel(summary, resolve(settings, feed)[0]))
    if not sys.stdout.isatty():
        click.echo(json.dumps(summary.as_dict()))


@command(cli, "python -m reconcile history crm-daily --json | jq '.[0].matched'")
@click.argument("feed", required=False)
@click.option("--json", "as_json", is_flag=True, help="All figures of each run, as a list.")
def history(config_path: Path | None, feed: str | None, as_json: bool) -> None:
    """What the runs of FEED, or of all feeds, did, latest first."""
    settings = config.load(config_path)
    if feed is not None:
        resolve(settings, feed)
    rows = Ledger(settings.reconcile.state_dir / "ledger.db").history(feed)
    if as_json:
        click.echo(json.dumps(rows))
    elif rows:
        Console(highlight=False, soft_wrap=True).print(report.history(rows))
    else:
        click.echo("no run yet", err=True)


def _nothing(summary: Summary, pattern: str) -> str:
    waiting = f"; waiting for their sync: {report.amount(summary.held, 'held record')}" if summary.held else ""
    if summary.known_inputs:
        known = report.amount(summary.known_inputs, "file")
        return f"nothing to do: {known} of {pattern}, all delivered before{waiting}"
    return f"nothing to do: no file matches {pattern}{waiting}"


if __name__ == "__main__":
    cli(prog_name="python -m reconcile")
