"""What Audience Manager reports back."""

import json
import sys
from pathlib import Path

import click
from rich.console import Console

from idsync import config
from idsync.cli import command
from reconcile.check.report import WIDTH
from reconcile.clock import clock
from reconcile.commands import cli
from reconcile.receipt import job as receipts
from reconcile.receipt import show


@command(cli, "python -m reconcile receipt receipt.eml --json | jq '.findings[] | select(.verdict != \"agrees\")'")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Terms, findings and files as JSON on stdout.")
def receipt(config_path: Path | None, file: Path, as_json: bool) -> None:
    """Hold Audience Manager's e-mail about a batch, FILE or - for standard input, against what was delivered.

    The message as it was saved (.eml), or its text. What it reports is kept in the ledger. A difference is explained
    where it can be; exits with 1 if one can't, as somebody should look then.
    """
    found = receipts.read(config.load(config_path), file, clock())
    if as_json:
        click.echo(json.dumps(found.as_dict()))
    else:
        width = None if sys.stdout.isatty() else WIDTH
        Console(highlight=False, width=width).print(show.account(found))
    if not found.holds:
        sys.exit(1)
