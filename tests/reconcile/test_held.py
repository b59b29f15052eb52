"""Unmatched records that wait until their ID is synced."""

import json
from pathlib import Path

import pytest

from idsync.errors import ConfigError
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


@pytest.mark.parametrize(
    ("later", "changes", "sent"),
    [
        ('trait_columns = ["region"]', None, '"gender"="f"'),  # it says nothing
        ('rules = [{column = "region", equals = "north", trait = 9}]', None, '"gender"="f"'),
        ('rules = [{column = "region", equals = "north", trait = 9, otherwise = "remove"}]', None, None),
        ('rules = [{column = "region", present = false, trait = 9}]', None, None),
        ('rules = [{column = "region", present = true, trait = 9}]', None, '"gender"="f"'),
        ('rules = [{column = "region", regex = "[a-z]*", trait = 9}]', None, None),
        ('rules = [{column = "region", regex = "[a-z]+", trait = 9}]', None, '"gender"="f"'),
        ('rules = [{column = "region", in = ["", "north"], trait = 9}]', None, None),
        ('rules = [{column = "region", range = {min = 0, max = 9}, trait = 9}]', None, '"gender"="f"'),
        ('trait_columns = ["region"]', {}, None),  # what it does not say would be taken for lost
        ('mode = "overwrite"\ntrait_columns = ["region"]', None, None),
    ],
)
def test_a_held_record_says_nothing_of_a_column_that_came_later(
    tmp_path: Path, later: str, changes: dict[str, str] | None, sent: str | None
) -> None:
    world = World(tmp_path, 'signals = ["gender"]\n', changes=changes)
    world.put("a.csv", [("c1", "f", "gold", "24")])
    world.run()
    world.feed += later + "\n"
    world.sync(("c1", uuid(1)))
    summary = world.run()
    if sent:
        assert (summary.matched, world.lines()) == (1, [f"{uuid(1)}\t{sent}\n"])
    else:
        assert (summary.reasons, summary.lines) == ({"held-without-column": 1}, 0)
        assert world.rejects()[0]["customer_id"] == "c1"


def test_a_held_record_waits_whatever_its_columns_are_called(tmp_path: Path) -> None:
    """Also where they differ in nothing but case, or are called as what is kept beside them."""
    names = ("Id", "ID", "id", "v1", "since", "customer")
    world = World(tmp_path, f"signals = {json.dumps(names)}\n")
    world.feed += "[feeds.signal_keys]\n" + "".join(f'{name} = "k{at}"\n' for at, name in enumerate(names))
    world.environ = {"IDSYNC_FEEDS__0__ID_COLUMN": "who"}
    header = ("who", *names)
    world.put("a.csv", [("c1", *(f"x{at}" for at in range(len(names))))], header)
    assert world.run().held == 1
    world.environ = {"IDSYNC_FEEDS__0__ID_COLUMN": "whose"}
    world.put("b.csv", [], ("whose", *names))
    world.sync(("c1", uuid(1)))
    world.run()
    said = ",".join(f'"k{at}"="x{at}"' for at in range(len(names)))
    assert world.lines() == [f"{uuid(1)}\t{said}\n"]


def test_a_held_record_waits_for_an_id_of_its_own_data_source(world: World) -> None:
    """The same ID of another data source is somebody else's."""
    world.put("a.csv", [("c1", "f", "", "")])
    world.run()
    world.feed += '[[data_sources]]\nname = "shop"\ndpid = 777\n'
    world.environ = {"IDSYNC_FEEDS__0__DATA_SOURCE": "shop"}
    world.sync(("c1", uuid(1)), dpid=777)
    with pytest.raises(ConfigError, match="wait for IDs of 12345, not of 777"):
        world.run()
    world.environ = None
    world.sync(("c1", uuid(2)))
    world.run()
    assert world.lines() == [f'{uuid(2)}\t"gender"="f"\n']


def test_a_record_that_is_rejected_takes_the_place_of_none(tmp_path: Path) -> None:
    world = World(tmp_path, SIGNALS + "max_rejected = 1.0\n")
    world.put("a.csv", [("c1", "f", "", "")])
    world.run()
    world.put("b.csv", [("c1", 'm"', "", "")])
    assert figures(world.run(), "read", "from_hold", "superseded", "rejected", "held") == (2, 1, 0, 1, 1)
    world.sync(("c1", uuid(1)))
    world.run()
    assert world.lines() == [f'{uuid(1)}\t"gender"="f"\n']


def test_held_records_that_are_rejected_do_not_stop_a_run(world: World) -> None:
    """They are no sign of a bad input, however many there are."""
    world.put("a.csv", [(f"12345678{at}", "f", "", "") for at in range(9)])
    world.run()
    world.environ = {"IDSYNC_DATA_SOURCES__0__NATIONAL_IDS": '["us"]'}
    world.put("b.csv", [("c1", "f", "", "")])
    world.sync(("c1", uuid(1)))
    summary = world.run()
    assert (summary.status, summary.reasons) == ("delivered", {"id-national-id": 9})


def test_dropped_records_do_not_wait(tmp_path: Path) -> None:
    world = World(tmp_path, SIGNALS + 'unmatched = "drop"\n')
    world.put("a.csv", [("c1", "f", "", "")])
    assert figures(world.run(), "unmatched", "held") == (1, 0)
    world.sync(("c1", uuid(1)))
    assert world.run().status == "nothing-to-do"
