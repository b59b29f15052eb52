"""What tells of runs, and changes nothing."""

import json
from pathlib import Path

import click
from rich.console import Console

from idsync import config
from idsync.cli import command
from reconcile import report
from reconcile.commands import cli
from reconcile.ledger import Ledger
from reconcile.run import resolve


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
