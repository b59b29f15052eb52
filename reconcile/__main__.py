"""The command line: `python -m reconcile`."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from idsync import config
from idsync.cli import command, group
from reconcile import erasure, report, retention, syncfile
from reconcile.check import job as checking
from reconcile.check import report as check_report
from reconcile.errors import RunLocked
from reconcile.ledger import Ledger
from reconcile.progress import meter
from reconcile.run import clock, resolve, run
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
    for earlier in summary.withdrawn:
        console.print(f"run {earlier} was withdrawn: somebody opted out before its files were offered to anybody")
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
    console = Console(stderr=True, highlight=False, soft_wrap=True)
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


@command(cli, """echo '{"dpid": 12345, "customer_id": "user-4711"}' | python -m reconcile erase --find""")
@click.option("--find", "only_find", is_flag=True, help="Change nothing; tell what holds the IDs.")
@click.option("--wait", type=click.FloatRange(0), default=10, show_default=True, help="Seconds, for runs to end.")
def erase(config_path: Path | None, only_find: bool, wait: float) -> None:
    """Remove customers and devices from all that the job keeps; `python -m idsync erase` calls this.

    Reads lines of JSON: {"dpid": …, "customer_id": "…"} or {"uuid": "…"}. Tells as JSON what was removed, and what
    can't be: files that wait for their destination, and files delivered.
    """
    settings = config.load(config_path)
    sought = erasure.parse(sys.stdin.buffer)
    account = erasure.find(settings, sought) if only_find else erasure.erase(settings, sought, wait)
    click.echo(json.dumps(account.as_dict()))
    if account.busy:
        raise RunLocked(f"a run is under way: {', '.join(account.busy)}", mend="the rest is done; run it again later")


@command(cli, "python -m reconcile sweep")
def sweep(config_path: Path | None) -> None:
    """Remove what is past its time: held records, rejects, files, run folders. Each run does so for its own feed."""
    settings = config.load(config_path)
    purged, busy = retention.sweep(settings, clock())
    click.echo(json.dumps({"feeds": {name: asdict(counts) for name, counts in purged.items()}, "busy": busy}))


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


def _nothing(summary: Summary, pattern: str) -> str:
    waiting = f"; waiting for their sync: {report.amount(summary.held, 'held record')}" if summary.held else ""
    if summary.unfinished_inputs:
        waiting += f"; still being written: {report.amount(summary.unfinished_inputs, 'file')}"
    if summary.known_inputs:
        known = report.amount(summary.known_inputs, "file")
        return f"nothing to do: {known} of {pattern}, all delivered before{waiting}"
    return f"nothing to do: no file matches {pattern}{waiting}"


if __name__ == "__main__":
    cli(prog_name="python -m reconcile")
