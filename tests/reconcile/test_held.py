"""Unmatched records that wait until their ID is synced."""

from pathlib import Path

import pytest

from reconcile.ledger import Ledger
from tests.reconcile.samples import COUNTS, SIGNALS, World, figures, uuid


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_unmatched_records_wait_and_go_out_after_their_sync(world: World) -> None:
    world.put("a.csv", [("c1", "old", "", ""), ("c2", "f", "", ""), ("c1", "new", "", "")])
    summary = world.run()
    assert figures(summary, "unmatched", "held", "lines") == (3, 2, 0)
    assert not list(world.delivered.glob("*"))
    summary = world.run()
    assert figures(summary, "status", "held") == ("nothing-to-do", 2)
    assert len(list(world.state.glob("runs/*"))) == len(Ledger(world.state / "ledger.db").history()) == 1
    world.sync(("c1", uuid(1)))
    summary = world.run()
    assert figures(summary, "status", "read", "from_hold", "matched", "held") == ("delivered", 2, 2, 1, 1)
    assert world.lines() == [f'{uuid(1)}\t"gender"="new"\n']
    # a newer record of c2 takes the place of the one that waits
    world.put("b.csv", [("c2", "newest", "", "")])
    summary = world.run()
    assert figures(summary, "read", "from_hold", "superseded", "held") == (1, 0, 1, 1)
    world.sync(("c2", uuid(2)))
    world.run()
    assert world.lines()[-1] == f'{uuid(2)}\t"gender"="newest"\n'
    assert not list(world.state.glob("held/*"))


def test_held_records_past_their_age_are_rejected(tmp_path: Path) -> None:
    world = World(tmp_path, SIGNALS + "held_days = 2\n")
    world.put("a.csv", [("c1", "f", "", "")])
    world.run()
    world.now += 86_400_000
    assert world.run().held == 1  # its age counts from the first run, not the last
    world.now += 86_400_001
    summary = world.run()
    assert figures(summary, *COUNTS) == (1, 0, 0, 1, 0)
    assert summary.reasons == {"held-too-long": 1}
    assert world.rejects()[0]["customer_id"] == "c1"
    assert world.run().status == "nothing-to-do"


def test_held_records_survive_a_change_of_columns(world: World) -> None:
    world.put("a.csv", [("c1", "f", "gold", "24")])
    world.run()
    world.feed = 'signals = ["tier", "region"]\n'
    world.sync(("c1", uuid(1)))
    world.run()
    assert world.lines() == [f'{uuid(1)}\t"tier"="gold"\n']


def test_dropped_records_do_not_wait(tmp_path: Path) -> None:
    world = World(tmp_path, SIGNALS + 'unmatched = "drop"\n')
    world.put("a.csv", [("c1", "f", "", "")])
    assert figures(world.run(), "unmatched", "held") == (1, 0)
    world.sync(("c1", uuid(1)))
    assert world.run().status == "nothing-to-do"
