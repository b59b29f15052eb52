"""Files of anybody against the rules."""

import json
import os
import sys
from pathlib import Path

import click
from rich.console import Console

from idsync import config
from idsync.cli import command
from reconcile.check import job as checking
from reconcile.check import report as check_report
from reconcile.clock import clock
from reconcile.commands import cli
from reconcile.progress import meter


@command(cli, "python -m reconcile check var/delivered/*.gz --json | jq '.findings[].rule'")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Findings and counts as JSON on stdout.")
@click.option("--limit", type=click.IntRange(1), help="Findings shown of each rule and file; 10, with --json 1,000.")
def check(config_path: Path | None, files: tuple[Path, ...], as_json: bool, limit: int | None) -> None:
    """Tell whether FILES are valid inbound or ID-sync files: plain, gzipped, or, by name only, encrypted.

    Give the parts of a split file together. No configuration is needed; where there is one, the IDs of its data sources
    are asked what they ask. Exits with 1 if there is an error; warnings do no harm.
    """
    configured = config_path or os.environ.get(config.CONFIG_VARIABLE) or config.DEFAULT_PATH.exists()
    sources = config.load(config_path).data_sources if configured else ()
    rules_of = checking.rules_by_dpid([(source.dpid, source.id_rules) for source in sources])
    shown = limit or (checking.FINDINGS_IN_JSON if as_json else checking.FINDINGS_SHOWN)
    with meter(Console(stderr=True)) as progress:
        found = checking.check(files, checking.Options(clock(), rules_of, shown), progress)
    if as_json:
        click.echo(json.dumps(found.as_dict()))
    else:
        # a pipe has no width of its own: rows that fit it are what grep can read
        width = None if sys.stdout.isatty() else check_report.WIDTH
        Console(highlight=False, width=width).print(check_report.findings(found))
    if not found.valid:
        sys.exit(1)
