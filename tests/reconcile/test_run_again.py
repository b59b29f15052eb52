"""Runs beside others, and after one that did not end."""

import threading
from pathlib import Path

import pytest

from reconcile.errors import DeliveryConflict, DestinationRefused, RunLocked
from reconcile.lock import exclusive
from reconcile.progress import Meter
from reconcile.run import run
from tests.reconcile.samples import NOW, NOW_SECONDS, SIGNALS, World, figures, uuid


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_only_one_run_of_a_feed_at_a_time(world: World) -> None:
    world.put("a.csv", [("c1", "f", "", "")])
    with exclusive(world.state / "locks" / "daily.lock", "daily"):
        with pytest.raises(RunLocked) as caught:
            world.run()
        assert caught.value.exit_status == 75
    world.run()


def test_an_interrupted_run_that_froze_nothing_is_cleared_away(world: World) -> None:
    world.sync(("c1", uuid(1)))
    world.put("a.csv", [("c1", "f", "", "")])
    left = world.state / "runs" / "1700000000-daily"
    (left / "files").mkdir(parents=True)
    (left / "files" / ".part.1").write_bytes(b"half a file")
    other = world.state / "runs" / "1700000000-other-daily"
    other.mkdir()
    assert figures(world.run(), "status", "read") == ("delivered", 1)
    assert not left.exists()
    assert other.exists()


def test_frozen_files_are_delivered_unchanged_by_the_next_run(world: World) -> None:
    world.sync(("c1", uuid(1)))
    world.put("a.csv", [("c1", "f", "", ""), ("c2", "f", "", "")])
    blocked = world.delivered
    blocked.write_text("a file where the folder should be")
    with pytest.raises(DestinationRefused):
        world.run()
    (frozen,) = world.state.glob("runs/*/files/*")
    data = frozen.read_bytes()
    blocked.unlink()
    world.now += 86_400_000
    summary = world.run()
    assert figures(summary, "status", "settled", "held") == ("nothing-to-do", [frozen.parent.parent.name], 1)
    (path,) = world.delivered.iterdir()
    assert (path.name, path.read_bytes()) == (frozen.name, data)


def test_a_delivery_that_was_not_recorded_is_recognised(world: World) -> None:
    """As after a crash between the last copy and the ledger's entry."""
    world.sync(("c1", uuid(1)))
    world.put("a.csv", [("c1", "f", "", "")])
    world.run()
    (folder,) = world.state.glob("runs/*")
    (folder / "DELIVERED").unlink()
    (world.state / "ledger.db").unlink()
    (path,) = world.delivered.iterdir()
    before = path.stat().st_ino
    assert world.run().settled == [folder.name]
    assert [path.stat().st_ino for path in world.delivered.iterdir()] == [before]


def test_a_name_taken_by_other_bytes_is_never_overwritten(world: World) -> None:
    world.sync(("c1", uuid(1)))
    world.put("a.csv", [("c1", "f", "", "")])
    world.delivered.mkdir()
    taken = world.delivered / f"ftp_dpm_12345_{NOW_SECONDS}.sync.gz"
    taken.write_bytes(b"somebody else's")
    with pytest.raises(DeliveryConflict) as caught:
        world.run()
    assert caught.value.exit_status == 1
    assert taken.read_bytes() == b"somebody else's"
    assert [path.name for path in world.delivered.iterdir()] == [taken.name]


def test_old_run_folders_go_and_the_ledger_stays(world: World) -> None:
    world.sync(("c1", uuid(1)), seen=NOW + 30 * 86_400_000)
    world.put("a.csv", [("c1", "f", "", "")])
    world.run()
    world.put("b.csv", [("c1", "m", "", "")])
    world.now += 31 * 86_400_000
    world.run()
    assert len(list(world.state.glob("runs/*"))) == 1
    world.put("c.csv", [("c1", "f", "", "")])
    (world.inbox / "c.csv").write_bytes((world.inbox / "a.csv").read_bytes())
    assert world.run().status == "nothing-to-do"


def test_two_feeds_may_run_side_by_side(world: World) -> None:
    second = world.feed + '[[feeds]]\nname = "other"\ndata_source = "crm"\ninputs = "inbox/*"\nid_column = "id"\n'
    world.feed = second + 'destination = "local"\n' + SIGNALS
    world.sync(("c1", uuid(1)))
    world.put("a.csv", [("c1", "f", "", "")])
    settings, found = world.settings, []

    def go(feed: str) -> None:
        found.append(run(settings, feed, dry_run=False, meter=Meter(), now=lambda: NOW).status)

    threads = [threading.Thread(target=go, args=(feed,)) for feed in ("daily", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["delivered", "delivered"]
    assert len(list(world.delivered.iterdir())) == 2
