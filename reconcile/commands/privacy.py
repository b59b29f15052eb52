"""What removes: on request, and what is past its time."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from idsync import config
from idsync.cli import always_json, command
from reconcile import erasure, retention
from reconcile.clock import clock
from reconcile.commands import cli
from reconcile.errors import RunLocked


@command(cli, """echo '{"dpid": 12345, "customer_id": "user-4711"}' | python -m reconcile erase --find""")
@always_json
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
@always_json
def sweep(config_path: Path | None) -> None:
    """Remove what is past its time: held records, rejects, files, run folders. Each run does so for its own feed."""
    settings = config.load(config_path)
    purged, busy = retention.sweep(settings, clock())
    click.echo(json.dumps({"feeds": {name: asdict(counts) for name, counts in purged.items()}, "busy": busy}))
