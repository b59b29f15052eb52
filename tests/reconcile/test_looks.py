"""The commands that tell of runs and feeds, as they are called."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from idsync import feedruns
from reconcile import report
from reconcile.__main__ import cli
from reconcile.delivery.directory import DirectoryDelivery
from reconcile.errors import DestinationUnavailable, RunRefused
from reconcile.ledger import Ledger
from reconcile.overview import Overview, overview
from tests.reconcile.samples import NOW, NOW_SECONDS, SIGNALS, World, inputs_in_s3, uuid

DAY = 86_400_000


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path, SIGNALS + "max_rejected = 0.5\n")
    world.sync(("c1", uuid(1)), ("c2", uuid(2)))
    return world


def ask(world: World, *arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--config", str(world.write_config())], terminal_width=100)


def put(world: World, name: str, *rows: tuple[str, ...], seconds: int = NOW_SECONDS - 60) -> Path:
    path = world.put(name, rows)
    os.utime(path, (seconds, seconds))
    return path


def glance(world: World) -> Overview:
    (found,) = overview(world.settings)
    return found


# --- feeds -----------------------------------------------------------------------------------------------------------


def test_a_feed_before_during_and_after_its_runs(world: World) -> None:
    assert glance(world) == Overview("daily", "crm", "local", 0, 0)
    first = put(world, "a.csv", ("c1", "f", "", ""), ("late", "f", "", ""), seconds=NOW_SECONDS - 600)
    second = put(world, "b.csv", ("c2", "f", "", ""))
    put(world, ".hidden.csv", ("c2", "f", "", ""))
    size = first.stat().st_size + second.stat().st_size
    before = world.traces()
    assert glance(world) == Overview("daily", "crm", "local", 2, size, NOW - 600_000)
    assert world.traces() == before
    run = world.run().run
    assert glance(world) == Overview(
        "daily", "crm", "local", 0, 0, held=1, run=run, status="delivered", planned_at=NOW, match_rate=2 / 3
    )
    put(world, "a.csv", ("c1", "m", "", ""), seconds=NOW_SECONDS + 60)  # written anew
    assert (glance(world).waiting, glance(world).oldest_at) == (1, NOW + 60_000)


def test_what_keeps_a_feed_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    put(world, "a.csv", ("c1", "f", "", ""))

    def refuse(*_: object, **__: object) -> None:
        raise DestinationUnavailable("the server is away")

    with monkeypatch.context() as patched:
        patched.setattr(DirectoryDelivery, "deliver", refuse)
        with pytest.raises(DestinationUnavailable):
            world.run()
    name = f"{NOW_SECONDS}-daily"
    found = glance(world)
    assert found.problem == f"1 frozen file of run {name} wait for the destination: the server is away"
    assert (found.status, found.match_rate) == ("frozen", None)
    world.run()
    assert not glance(world).problem
    world.now += DAY
    put(world, "b.csv", ("a:b", "f", "", ""))
    with pytest.raises(Exception, match="rejected"):
        world.run()
    assert glance(world).problem.startswith("the last run was refused: 100.00% of the records were rejected")
    assert glance(world).waiting == 1
    for path in world.inbox.iterdir():
        path.unlink()
    world.inbox.rmdir()
    assert "does not exist" in glance(world).problem
    assert glance(world).waiting is None


def test_feeds_on_a_terminal_and_as_json(world: World) -> None:
    put(world, "a.csv", ("c1", "f", "", ""))
    told: list[dict[str, Any]] = json.loads(ask(world, "feeds", "--json").stdout)
    assert [(feed["feed"], feed["waiting"], feed["problem"]) for feed in told] == [("daily", 1, "")]
    shown = ask(world, "feeds").stdout
    assert "last run" in shown
    assert "none yet" in shown


def test_objects_that_wait_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with inputs_in_s3(monkeypatch, "inbox/in/*") as (client, settings):
        for key in ("in/a.csv", "in/b.csv.part"):
            client.put_object(Bucket="inbox", Key=key, Body=b"id,gender\nc1,f\n")
        world = World(tmp_path, f'signals = ["gender"]\n{settings}')
        found = glance(world)
        assert (found.waiting, found.waiting_bytes) == (1, 15)
        written = client.head_object(Bucket="inbox", Key="in/a.csv")["LastModified"]
        assert found.oldest_at == int(written.timestamp() * 1000)
        world.now = found.oldest_at
        assert world.run(dry_run=True).read == 1
        world.now = found.oldest_at + 60_000
        world.run()
        assert glance(world).waiting == 0
    assert "s3://inbox/in/*" in glance(world).problem  # nobody answers there any more


# --- report ----------------------------------------------------------------------------------------------------------


def test_a_report_is_shown_and_made_again(world: World) -> None:
    put(world, "a.csv", ("c1", "f", "", ""), ("C2", "f", "", ""))
    first = world.run().run
    world.now += DAY
    put(world, "b.csv", ("c2", "f", "", ""))
    second = world.run().run
    pages = {run: world.state / "runs" / run / "report.html" for run in (first, second)}
    for asked, run in ((first, first), (second, second), ("daily", second), (None, second)):
        for path in pages.values():
            path.unlink(missing_ok=True)
        shown = ask(world, "report", *([asked] if asked else []))
        assert shown.exit_code == 0, shown.output
        assert f"report: {pages[run]}" in shown.stdout
        assert [path.exists() for path in pages.values()] == [run == first, run == second]
    assert "would match if upper and lower case were ignored" in ask(world, "report", first).stdout
    told = json.loads(ask(world, "report", first, "--json").stdout)
    kept = json.loads(pages[first].with_name("report.json").read_text())
    assert told["summary"]["read"] == kept["summary"]["read"] == 2
    assert told["why"]["findings"][0]["rule"] == "case"
    assert [row["term"] for row in told["prediction"]][-1] == "Percent Success"


def test_a_report_outlives_its_folder_and_says_so(world: World) -> None:
    put(world, "a.csv", ("c1", "f", "", ""))
    run = world.run().run
    world.now += 100 * DAY
    put(world, "b.csv", ("c1", "m", "", ""))
    world.run()
    assert not (world.state / "runs" / run).exists()
    shown = ask(world, "report", run)
    assert shown.exit_code == 0
    assert "read" in shown.stdout
    assert "none: the folder of the run is not kept" in shown.stdout


def test_id_sync_files_are_no_feeds_runs(world: World) -> None:
    assert ask(world, "sync-file", "crm", "--destination", "local").exit_code == 0
    (row,) = json.loads(ask(world, "history", "--json").stdout)
    for asked in (row["run"], row["feed"]):
        done = ask(world, "report", asked)
        assert done.exit_code == 2
        assert f'"{asked}" is of ID-sync files, and their runs leave no report' in " ".join(done.stderr.split())
        assert "history --json" in done.stderr
    done = ask(world, "report")
    assert done.exit_code == 2
    assert "no run of a feed yet" in done.stderr
    put(world, "a.csv", ("c1", "f", "", ""))
    run = world.run().run
    assert run in ask(world, "report", "--json").stdout
    assert [told.run for told in feedruns.read(world.state).runs] == [run]


@pytest.mark.parametrize("asked", [[], ["nobody"]])
def test_a_run_that_is_none(world: World, asked: list[str]) -> None:
    done = ask(world, "report", *asked)
    assert done.exit_code == 2
    assert "history" in done.stderr
    assert not world.state.exists()


def test_tables_fit_a_terminal_of_eighty_columns(world: World) -> None:
    put(world, "a.csv", ("c1", "f", "", ""))
    delivered = world.run().run
    put(world, "b.csv", ("a:b", "f", "", ""), seconds=NOW_SECONDS + 60)
    world.now += DAY
    with pytest.raises(RunRefused):
        world.run()
    rows = Ledger(world.state / "ledger.db").history("daily")
    console = Console(width=80, color_system=None)
    with console.capture() as shown:
        console.print(report.history(rows))
        console.print(report.feeds([glance(world)], world.now))
    lines = shown.get().splitlines()
    assert "…" not in shown.get()
    assert lines[2].split() == [delivered, "delivered", "1", "1", "0", "0", "1", "1"]
    assert lines[3].startswith(f"{rows[0]['run']}: ")
    assert lines[-2].startswith("daily: the last run was refused")
