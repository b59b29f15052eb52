"""Files of IDs."""

import json
import sys
from pathlib import Path

import click

from idsync import config
from idsync.cli import command
from reconcile import syncfile
from reconcile.clock import clock
from reconcile.commands import aside, cli
from reconcile.commands.choices import DATA_SOURCES, DESTINATIONS, figures_option
from reconcile.progress import meter


@command(cli, "python -m reconcile sync-file crm --destination aam", name="sync-file")
@click.argument(
    "data_sources", nargs=-1, required=True, metavar="DATA_SOURCE [DATA_SOURCE…]", shell_complete=DATA_SOURCES
)
@click.option(
    "--destination",
    metavar="NAME",
    shell_complete=DESTINATIONS,
    help="Where to deliver; needed where there are several destinations.",
)
@click.option("--all", "everything", is_flag=True, help="Send all mappings, not only those that were not sent before.")
@click.option("--compression", type=click.Choice(["none", "gzip"]), default="gzip", show_default=True)
@figures_option
def sync_file(
    config_path: Path | None,
    data_sources: tuple[str, ...],
    *,
    destination: str | None,
    everything: bool,
    compression: syncfile.Compression,
    as_json: bool,
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
    if as_json or not sys.stdout.isatty():
        click.echo(json.dumps(summary.as_dict()))
