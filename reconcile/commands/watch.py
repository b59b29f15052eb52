"""What watches, and calls for somebody."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from idsync import config
from idsync.cli import command
from reconcile.clock import clock
from reconcile.commands import aside, cli
from reconcile.commands.choices import FEEDS
from reconcile.health.job import Look, look

_TRY_LATER = 75


@command(cli, "python -m reconcile health crm-daily --json | jq '.subjects[] | select(.well | not)'")
@click.argument("feeds", nargs=-1, metavar="[FEED…]", shell_complete=FEEDS)
@click.option("--json", "as_json", is_flag=True, help="What is wrong, and what was told, as JSON on stdout.")
def health(config_path: Path | None, feeds: tuple[str, ...], as_json: bool) -> None:
    """Tell whether all is well with FEED, or with all feeds, the store and the ledger; for cron, every few minutes.

    Each change, to bad or back, is told once by webhook and mail, as [health] in the configuration says. Exits with 1
    if something is wrong, with 75 if nothing is but an alert could not be sent.
    """
    found = look(config.load(config_path), feeds, clock())
    if as_json:
        click.echo(json.dumps(found.as_dict()))
    else:
        Console(highlight=False, soft_wrap=True).print(_table(found))
    console = aside()
    for reason in (*found.reasons, *found.not_told):
        console.print(Text(reason))
    if not found.well:
        sys.exit(1)
    if found.not_told:
        sys.exit(_TRY_LATER)


def _table(found: Look) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("", "state", "since", "what"):
        table.add_column(name)
    for each in found.conditions:
        since = datetime.fromtimestamp(found.since.get(each.subject, 0) / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
        if not each.faults:
            table.add_row(Text(each.subject), Text("well", "green"), since, "")
        for fault in each.faults:
            table.add_row(Text(each.subject), Text(fault.kind, "red"), since, Text(fault.message))
    return table
