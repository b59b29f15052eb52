"""What is about files: those of IDs, those of others."""

import json
import os
import sys
from pathlib import Path

import click
from rich.console import Console

from idsync import config
from idsync.cli import command
from reconcile import syncfile
from reconcile.check import job as checking
from reconcile.check import report as check_report
from reconcile.commands import aside, cli
from reconcile.progress import meter
from reconcile.run import clock


@command(cli, "python -m reconcile sync-file crm --destination aam", name="sync-file")
@click.argument("data_sources", nargs=-1, required=True, metavar="DATA_SOURCE [DATA_SOURCE…]")
@click.option("--destination", metavar="NAME", help="Where to deliver; needed where there are several destinations.")
@click.option("--all", "everything", is_flag=True, help="Send all mappings, not only those that were not sent before.")
@click.option("--compression", type=click.Choice(["none", "gzip"]), default="gzip", show_default=True)
def sync_file(
    config_path: Path | None,
    data_sources: tuple[str, ...],
    destination: str | None,
    everything: bool,
    compression: syncfile.Compression,
) -> None:
    """Deliver the stored mappings as an ID-sync file: the AAM UUID, then the customer ID of each DATA_SOURCE.

    Devices that lack an ID in some of the data sources go into files of their own. The figures go to stdout as JSON.
    """
    settings = config.load(config_path)
    console = aside()
    with meter(console) as progress:
        summary = syncfile.sync_file(
            settings,
            data_sources,
            destination=destination,
            everything=everything,
            compression=compression,
            meter=progress,
            now=clock,
        )
    for line in syncfile.told(summary):
        console.print(line)
    if not sys.stdout.isatty():
        click.echo(json.dumps(summary.as_dict()))


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
