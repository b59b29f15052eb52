"""What sets off a run, or goes on with one."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from idsync import config
from idsync.cli import command
from idsync.errors import UsageError
from reconcile import preview, redeliver, report
from reconcile.clock import clock
from reconcile.commands import aside, cli
from reconcile.commands.choices import DESTINATIONS, FEEDS, RUNS, Moment, figures_option
from reconcile.progress import meter
from reconcile.run import Engine, rehearse, resolve, run
from reconcile.summary import Summary
from reconcile.words import amount


@command(cli, "python -m reconcile run crm-daily --dry-run", name="run")
@click.argument("feed", shell_complete=FEEDS)
@click.option("--dry-run", is_flag=True, help="Read, join and count, and show the same table; write nothing.")
@click.option("--hold", is_flag=True, help="Freeze the files, and wait for `release` before they are delivered.")
@click.option(
    "--engine",
    type=click.Choice(["duckdb", "spark"]),
    default="duckdb",
    show_default=True,
    help="What joins: this machine, or an existing Spark cluster.",
)
@click.option(
    "--since",
    type=Moment(),
    metavar="DATE|TIME",
    default=0,
    help="Only inputs written to since then, UTC. Older ones are passed over, and stay new for a run without it.",
)
@click.option("--limit", type=click.IntRange(1), help="With --dry-run: read only so many records of the inputs.")
@click.option(
    "--sample",
    type=click.IntRange(1, preview.MOST),
    help="With --dry-run: show so many records beside the lines that they become, some of each fate.",
)
@click.option("--mask", is_flag=True, help="With --sample: hide the IDs.")
@figures_option
def run_feed(
    config_path: Path | None,
    feed: str,
    *,
    dry_run: bool,
    hold: bool,
    engine: Engine,
    since: int,
    limit: int | None,
    sample: int | None,
    mask: bool,
    as_json: bool,
) -> None:
    """Reconcile the new inputs of FEED and deliver the result.

    A table goes to stderr; the same figures go to stdout as JSON, unless that is a terminal.
    """
    if (limit or sample) and not dry_run:
        raise UsageError("--limit and --sample show what a run would do", mend="add --dry-run")
    if mask and not sample:
        raise UsageError("--mask hides the IDs of a sample, and there is none", mend="add --sample 10")
    if dry_run and hold:
        raise UsageError("--hold with --dry-run: a dry run freezes nothing", mend="leave one of them out")
    settings = config.load(config_path)
    console = aside()
    with meter(console) as progress:
        if dry_run:
            summary, shown = rehearse(
                settings, feed, meter=progress, since=since, limit=limit or 0, sample=sample or 0, engine=engine
            )
        else:
            summary = run(settings, feed, dry_run=False, hold=hold, meter=progress, since=since, engine=engine)
            shown = []
    shown = [record.masked() for record in shown] if mask else shown
    for earlier in summary.settled:
        console.print(f"run {earlier} had not been delivered: its frozen files went first")
    for earlier in summary.withdrawn:
        console.print(f"run {earlier} was withdrawn: somebody opted out before its files were offered to anybody")
    if summary.status == "on-hold":
        console.print(f"on hold: deliver it with python -m reconcile release {summary.run}")
    if summary.status == "nothing-to-do":
        console.print(_nothing(summary, resolve(settings, feed)[0].inputs))
    else:
        console.print(report.funnel(summary))
    for record in shown:
        console.print(report.beside(record))
    if as_json or not sys.stdout.isatty():
        told = {"preview": [record.as_dict() for record in shown]} if sample else {}
        click.echo(json.dumps(summary.as_dict() | told))


@command(cli, "python -m reconcile release 1790000000-crm-daily")
@click.argument("run_id", metavar="RUN", shell_complete=RUNS)
@figures_option
def release(config_path: Path | None, run_id: str, as_json: bool) -> None:
    """Deliver RUN, which `run --hold` has frozen.

    Where somebody has opted out since, it is withdrawn: its inputs are new again. The figures go to stdout as JSON.
    """
    settings = config.load(config_path)
    console = aside()
    with meter(console) as progress:
        account = redeliver.release(settings, run_id, meter=progress, now=clock)
    for file in account.files:
        console.print(f"{file['location']}  {amount(file['lines'], 'line')}, {file['bytes']:,} bytes")
    if as_json or not sys.stdout.isatty():
        click.echo(json.dumps(account.as_dict()))


@command(cli, "python -m reconcile redeliver 1790000000-crm-daily --to aam-beta", name="redeliver")
@click.argument("run_id", metavar="RUN", shell_complete=RUNS)
@click.option(
    "--to", metavar="DESTINATION", shell_complete=DESTINATIONS, help="Where to; default: where the run was delivered."
)
@click.option("--despite-opt-outs", is_flag=True, help="Even though somebody has opted out since the files were made.")
@figures_option
def redeliver_run(
    config_path: Path | None, run_id: str, to: str | None, *, despite_opt_outs: bool, as_json: bool
) -> None:
    """Offer the files of RUN, delivered before, once more: same names, same bytes.

    What is there already is seen to be the same. Audience Manager takes no name a second time. The files and where
    they lie go to stdout as JSON.
    """
    settings = config.load(config_path)
    console = aside()
    with meter(console) as progress:
        told = redeliver.redeliver(
            settings, run_id, to=to, despite_opt_outs=despite_opt_outs, meter=progress, now=clock
        )
    for file in told.files:
        console.print(f"{file['location']}  {amount(file['lines'], 'line')}, {file['bytes']:,} bytes")
    if not told.files:
        console.print("the run had nothing to send, so there is no file")
    if as_json or not sys.stdout.isatty():
        click.echo(json.dumps(asdict(told)))


def _nothing(summary: Summary, pattern: str) -> str:
    waiting = f"; waiting for their sync: {amount(summary.held, 'held record')}" if summary.held else ""
    if summary.unfinished_inputs:
        waiting += f"; still being written: {amount(summary.unfinished_inputs, 'file')}"
    if summary.older_inputs:
        waiting += f"; older than asked for: {amount(summary.older_inputs, 'file')}"
    if summary.known_inputs:
        known = amount(summary.known_inputs, "file")
        return f"nothing to do: {known} of {pattern}, all delivered before{waiting}"
    return f"nothing to do: no file matches {pattern}{waiting}"
