"""What tells of runs, and changes nothing but what it tells."""

import json
import sys
from pathlib import Path

import click
from rich.console import Console

from idsync import config
from idsync.cli import command
from idsync.errors import UsageError
from idsync.settings import Settings
from reconcile import aftermath, report
from reconcile.clock import clock
from reconcile.commands import cli
from reconcile.commands.choices import FEEDS, RUNS_AND_FEEDS
from reconcile.ledger import Ledger
from reconcile.overview import overview
from reconcile.run import resolve
from reconcile.state import FeedState
from reconcile.syncfile import dpids_of


@command(cli, "python -m reconcile history crm-daily --json | jq '.[0].matched'")
@click.argument("feed", required=False, shell_complete=FEEDS)
@click.option("--json", "as_json", is_flag=True, help="All figures of each run, as a list.")
def history(config_path: Path | None, feed: str | None, as_json: bool) -> None:
    """What the runs of FEED, or of all feeds, did, latest first."""
    settings = config.load(config_path)
    if feed is not None:
        resolve(settings, feed)
    rows = _ledger(settings).history(feed)
    if as_json:
        click.echo(json.dumps(rows))
    elif rows:
        Console(highlight=False, soft_wrap=True, width=_width()).print(report.history(rows))
    else:
        click.echo("no run yet", err=True)


@command(cli, "python -m reconcile feeds --json | jq '.[] | select(.problem != \"\")'")
@click.option("--json", "as_json", is_flag=True, help="A list, with times in milliseconds.")
def feeds(config_path: Path | None, as_json: bool) -> None:
    """Each feed: its data source and destination, the inputs and held records that wait, its last run, its problem.

    Inputs are told by names and times, without reading them: one that was copied or touched since it was delivered
    waits here, too, though a run will know it.
    """
    found = list(overview(config.load(config_path)))
    if as_json:
        click.echo(json.dumps([feed.as_dict() for feed in found]))
    elif found:
        Console(highlight=False, soft_wrap=True, width=_width()).print(report.feeds(found, clock()))
    else:
        click.echo("no feed is configured", err=True)


@command(cli, "python -m reconcile report crm-daily --json | jq '.prediction'", name="report")
@click.argument("run", required=False, metavar="[RUN|FEED]", shell_complete=RUNS_AND_FEEDS)
@click.option("--json", "as_json", is_flag=True, help="The same as the run's report.json.")
def show_report(config_path: Path | None, run: str | None, as_json: bool) -> None:
    """What RUN did, the last run of FEED, or the last of all; and where its page is.

    As long as the run's folder is kept, report.json and report.html in it are made anew.
    """
    settings = config.load(config_path)
    ledger = _ledger(settings)
    name = _run_of(ledger, run)
    (row,) = ledger.runs([name])
    summary = {**row, "status": row["state"]}
    folder = FeedState(settings.reconcile.state_dir, row["feed"]).run(name)
    figures = aftermath.report_on(settings, summary, folder, ledger, now=clock())
    if folder.is_ended:
        report.write(figures, folder.report, folder.page)
        summary["report"] = str(folder.page)
    else:
        summary["report"] = "none: the folder of the run is not kept" if not folder.path.exists() else "none yet"
    if as_json:
        click.echo(json.dumps(figures))
    else:
        Console(highlight=False, soft_wrap=True, width=_width()).print(report.told(summary))


def _run_of(ledger: Ledger, asked: str | None) -> str:
    """The name of a run; of the last one of a feed, or of all. ID-sync files have no report."""
    rows = (ledger.runs([asked]) if asked else []) or ledger.history(asked)
    found = [row for row in rows if not dpids_of(row["feed"])]
    if found:
        return str(found[0]["run"])
    if asked and rows:
        raise UsageError(
            f'"{asked}" is of ID-sync files, and their runs leave no report',
            mend="see python -m reconcile history --json, or manifest.json in the run's folder",
        )
    what = f'no run, and no feed that has one, is called "{asked}"' if asked else "no run of a feed yet"
    raise UsageError(what, mend="python -m reconcile history shows the runs that there are")


def _ledger(settings: Settings) -> Ledger:
    return Ledger(settings.reconcile.state_dir / "ledger.db")


def _width() -> int | None:
    """A pipe has no width of its own."""
    return None if sys.stdout.isatty() else _PIPE_WIDTH


_PIPE_WIDTH = 200
