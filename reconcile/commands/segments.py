"""The way back: what Audience Manager exports."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from idsync import config
from idsync.cli import command
from reconcile.clock import clock
from reconcile.commands import aside, cli
from reconcile.commands.choices import DATA_SOURCES
from reconcile.progress import meter
from reconcile.segments import job as outbound
from reconcile.segments import show as segments_report
from reconcile.syncfile import resolve_sources


@command(cli, "python -m reconcile segments exports/ --data-source crm -o segments.csv")
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option(
    "--data-source",
    required=True,
    metavar="NAME",
    shell_complete=DATA_SOURCES,
    help="To whose customers the devices lead.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="PATH", help="A .csv, .csv.gz or .parquet.")
@click.option(
    "--rejects", type=click.Path(path_type=Path), metavar="PATH", help="A CSV of the lines left out, and why."
)
@click.option("--unverified", is_flag=True, help="Go on where the control file says that the export is not whole.")
@click.option("--json", "as_json", is_flag=True, help="With -o: the figures as JSON on stdout, on a terminal too.")
def segments(config_path: Path | None, data_source: str, *, as_json: bool, **request: Any) -> None:
    """Lead the segments of an outbound export back to customers: rows of customer_id,segment_id,action.

    FILE is a file, a glob, a folder, s3://bucket/prefix*, sftp://host/folder/* or the name of an SFTP destination. A
    control file (.info) beside the files is held against them. The action is add or remove; full exports remove
    nobody. CSV goes to stdout, once all is well; with -o the figures do, unless that is a terminal.
    """
    asked = outbound.Request(**request)
    if asked.output is not None:
        outbound.format_of(asked.output)
    elif as_json:
        raise click.UsageError("--json needs -o: the rows themselves go to stdout")
    settings = config.load(config_path)
    source = resolve_sources(settings, [data_source])[0]
    console = aside()
    with meter(console) as progress:
        summary = outbound.join(settings, source, asked, lambda: sys.stdout.buffer, meter=progress, now=clock())
    console.print(segments_report.table(summary))
    if asked.output is not None and (as_json or not sys.stdout.isatty()):
        click.echo(json.dumps(summary.as_dict()))
