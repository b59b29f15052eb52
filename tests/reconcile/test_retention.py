"""Each kind of thing goes after its own time, by the next run or by a sweep; what is not delivered stays."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from idsync.errors import ConfigError
from reconcile import retention
from reconcile.errors import DestinationRefused, RunRefused
from reconcile.ledger import Ledger
from reconcile.lock import exclusive
from reconcile.retention import Purged
from reconcile.state import FeedState
from tests.reconcile.samples import NOW, SIGNALS, World, uuid

DAY = 86_400_000
KEEP = "[reconcile]\nkeep_runs_days = 20\nkeep_rejects_days = 10\nkeep_files_days = 5\n"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One run, which delivered one record, rejected one and holds one."""
    world = World(tmp_path, SIGNALS + "max_rejected = 1\nheld_days = 15\n" + KEEP)
    world.sync(("c1", uuid(1)), seen=NOW + 30 * DAY)
    world.put("a.csv", [("c1", "f", "", ""), ("", "f", "", ""), ("late", "f", "", "")])
    world.run()
    return world


def kinds(world: World) -> dict[str, int]:
    patterns = {
        "files": "runs/*/files/*",
        "rejects": "runs/*/rejects.csv.gz",
        "held": "held/*",
        "runs": "runs/*/manifest.json",
    }
    return {kind: len(list(world.state.glob(pattern))) for kind, pattern in patterns.items()}


def sweep(world: World) -> Purged:
    purged, busy = retention.sweep(world.settings, world.now)
    assert busy == []
    return purged["daily"]


def test_each_kind_goes_after_its_own_time(world: World) -> None:
    left = {"files": 1, "rejects": 1, "held": 1, "runs": 1}
    for days, kind in ((5, "files"), (10, "rejects"), (15, "held"), (20, "runs")):
        world.now = NOW + days * DAY
        assert sweep(world) == Purged()
        assert kinds(world) == left
        world.now += 1
        assert sweep(world) == Purged(**{kind: 1})
        left[kind] = 0
        assert kinds(world) == left
    (row,) = Ledger(world.state / "ledger.db").history()
    assert (row["state"], row["lines"]) == ("delivered", 1)
    assert len(list(world.delivered.iterdir())) == 1


def test_a_run_purges_its_own_feed_alone(world: World) -> None:
    (folder,) = world.state.glob("runs/*")
    folder.rename(folder.with_name(folder.name.replace("daily", "other-daily")))
    world.put("b.csv", [("c1", "m", "", "")])
    world.now += 6 * DAY
    world.run()
    assert kinds(world)["files"] == 2
    folder.with_name(folder.name.replace("daily", "other-daily")).rename(folder)
    world.run()
    assert kinds(world)["files"] == 1


def test_held_records_of_a_run_that_does_nothing_else_are_counted(world: World) -> None:
    """By a run they are rejected, with their place; only a sweep that comes first just removes them."""
    world.now += 16 * DAY
    assert world.run().reasons == {"held-too-long": 1}


def test_what_was_not_delivered_stays_for_ever(world: World) -> None:
    world.put("b.csv", [("c1", "m", "", ""), ("", "f", "", "")])
    for path in world.delivered.iterdir():
        path.unlink()
    world.delivered.rmdir()
    world.delivered.write_text("a file where the folder should be")
    with pytest.raises(DestinationRefused):
        world.run()
    world.now += 3650 * DAY
    sweep(world)
    assert kinds(world) == {"files": 1, "rejects": 1, "held": 0, "runs": 1}
    world.delivered.unlink()
    assert world.run().settled
    assert len(list(world.delivered.iterdir())) == 1


def test_time_counts_from_the_delivery(world: World) -> None:
    world.put("b.csv", [("c1", "m", "", "")])
    away = world.delivered.rename(world.folder / "away")
    world.delivered.write_text("a file where the folder should be")
    with pytest.raises(DestinationRefused):
        world.run()
    world.now += 6 * DAY
    world.delivered.unlink()
    away.rename(world.delivered)
    world.run()
    assert kinds(world)["files"] == 1  # the later one
    world.now += 5 * DAY
    assert sweep(world).files == 0
    world.now += 1
    assert sweep(world).files == 1


def test_a_refused_run_goes_as_well(world: World) -> None:
    world.feed = world.feed.replace("max_rejected = 1", "max_rejected = 0")
    world.put("b.csv", [("", "m", "", "")])
    with pytest.raises(RunRefused):
        world.run()
    world.now += 20 * DAY + 1
    assert sweep(world).runs == 2
    assert list(world.state.glob("runs/*")) == []


def test_what_is_left_of_a_feed_that_is_no_more_goes_like_the_rest(world: World) -> None:
    (folder,) = world.state.glob("runs/*")
    folder.rename(folder.with_name(folder.name.replace("daily", "former")))
    held = world.state / "held" / "daily.parquet"
    held.rename(held.with_name("former.parquet"))
    world.now += 120 * DAY
    assert retention.sweep(world.settings, world.now)[0]["former"] == Purged(runs=1)
    world.now += 1
    assert retention.sweep(world.settings, world.now)[0]["former"] == Purged(held=1)


def test_a_feed_at_work_is_passed_over(world: World) -> None:
    world.now += 30 * DAY
    with exclusive(FeedState(world.state, "daily").lock, "daily"):
        assert retention.sweep(world.settings, world.now) == ({}, ["daily"])
    assert kinds(world)["runs"] == 1


def test_leftovers_of_killed_processes_go(world: World) -> None:
    (world.state / "runs" / "1700000000-daily" / "scratch").mkdir(parents=True)
    (world.state / "held" / ".daily.parquet.part").write_text("half")
    assert sweep(world) == Purged(leftovers=2)


@pytest.mark.parametrize(
    "left",
    ["held/.old.parquet.part", "sent/.old.parquet.part", "runs/.removed-1700000001-old/held", "copies/old/0/a.csv"],
)
def test_leftovers_of_a_feed_that_is_no_more_go_as_well(world: World, left: str) -> None:
    """Though nothing else tells of the feed."""
    path = world.state / left
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("somebody's")
    purged, _ = retention.sweep(world.settings, world.now)
    assert purged.keys() == {"daily", "old"}
    assert not path.exists()


KILLED = """
import os, sys
from pathlib import Path
from reconcile.state import FeedState

with FeedState(Path(sys.argv[1]), sys.argv[2]).dry_run() as folder:
    (folder / "mappings").write_text("somebody's")
    os._exit(9)
"""


@pytest.mark.parametrize("feed", ["daily", "old-feed"])
def test_what_is_left_of_a_killed_dry_run_goes_and_one_at_work_stays(world: World, feed: str) -> None:
    with FeedState(world.state, feed).dry_run() as alive:
        (alive / "mappings").write_text("needed")
        assert subprocess.run([sys.executable, "-c", KILLED, str(world.state), feed], check=False).returncode == 9
        assert len(list(world.state.glob(".dry-run-*/mappings"))) == 2
        purged, _ = retention.sweep(world.settings, world.now)
        assert purged[feed] == Purged(leftovers=1)
        assert list(world.state.glob(".dry-run-*/mappings")) == [alive / "mappings"]
    assert list(world.state.glob(".dry-run-*")) == []


def test_an_end_marked_by_an_older_version_counts_from_its_plan(world: World) -> None:
    (mark,) = world.state.glob("runs/*/DELIVERED")
    mark.write_bytes(b"")
    world.now += 5 * DAY + 1
    assert sweep(world).files == 1


def test_a_feed_that_holds_no_longer_lets_go(world: World) -> None:
    world.feed = world.feed.replace("held_days = 15", 'unmatched = "drop"')
    assert world.run().from_hold == 1
    assert kinds(world)["held"] == 0
    assert world.run().status == "nothing-to-do"


@pytest.mark.parametrize("key", ["keep_rejects_days", "keep_files_days"])
def test_what_lies_in_a_folder_cannot_be_kept_longer_than_it(tmp_path: Path, key: str) -> None:
    world = World(tmp_path, SIGNALS + f"[reconcile]\nkeep_runs_days = 20\n{key} = 21\n")
    with pytest.raises(ConfigError, match=f"{key} = 21: must not be more than keep_runs_days"):
        _ = world.settings
    assert World(tmp_path, SIGNALS + "[reconcile]\nkeep_runs_days = 5\n").settings.reconcile.keep_runs_days == 5


def test_the_command(world: World) -> None:
    """By the clock of this machine, which is past the world's."""
    (mark,) = world.state.glob("runs/*/DELIVERED")
    mark.write_text(str(NOW - 4000 * DAY))
    command = [sys.executable, "-m", "reconcile", "sweep", "--config", str(world.write_config())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["feeds"]["daily"]["runs"] == 1
    assert answer["busy"] == []
    assert done.stderr == ""
