"""What is about files: those of IDs, those of others."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from idsync import config
from idsync.cli import command
from reconcile import syncfile
from reconcile.check import job as checking
from reconcile.check import report as check_report
from reconcile.commands import aside, cli
from reconcile.commands.choices import DATA_SOURCES, DESTINATIONS, figures_option
from reconcile.progress import meter
from reconcile.receipt import job as receipts
from reconcile.receipt import show
from reconcile.run import clock
from reconcile.segments import job as outbound
from reconcile.segments import show as segments_report


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
        width = None if sys.stdout.isatty() else check_report.WIDTH
        Console(highlight=False, width=width).print(show.account(found))
    if not found.holds:
        sys.exit(1)


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
    source = syncfile.resolve_sources(settings, [data_source])[0]
    console = aside()
    with meter(console) as progress:
        summary = outbound.join(settings, source, asked, lambda: sys.stdout.buffer, meter=progress, now=clock())
    console.print(segments_report.table(summary))
    if asked.output is not None and (as_json or not sys.stdout.isatty()):
        click.echo(json.dumps(summary.as_dict()))
