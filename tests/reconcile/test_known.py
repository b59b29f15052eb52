"""Which inputs are read, and which were delivered before."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from reconcile import known
from reconcile.inputs import Input
from reconcile.ledger import Ledger
from tests.reconcile.samples import SIGNALS, World, content, figures, uuid

GOLD, SILVER, NONE = [("c1", "", "gold", "24")], [("c1", "", "silver", "25")], [("c1", "", "", "")]


def sources(text: str) -> list[Input]:
    """`aX bY`: a file for each word, by name and content."""
    return [Input(Path("inbox", word[0]), word[1], (0, 0, 0), place=word[0]) for word in text.split()]


@pytest.mark.parametrize(
    ("found", "places", "delivered", "fresh"),
    [
        ("aX bY", "", "", "aX bY"),
        ("aX bX cY", "", "", "aX cY"),
        ("aX bY cX", "aX", "X", "bY"),
        ("aX bY", "", "XYZ", ""),
        ("aX cX", "aX bY", "XY", ""),
        ("aX", "aY", "XY", "aX"),  # it held something else meanwhile
        ("aX bX", "aX bY", "XY", "bX"),
        ("", "aX", "X", ""),
    ],
)
def test_any_content_that_was_delivered_is_known(found: str, places: str, delivered: str, fresh: str) -> None:
    held = {source.place: source.sha256 for source in sources(places)}
    assert known.by_content(sources(found), held, delivered) == (sources(fresh), ())


@pytest.mark.parametrize(
    ("found", "places", "latest", "fresh", "copies"),
    [
        ("aX bY", "", "", "aX bY", ""),
        ("aX bY", "aX", "X", "bY", ""),  # read before
        ("aX bX", "aX", "X", "", "bX"),  # sent twice
        ("aX bY cX", "aX bY", "Y", "cX", ""),  # true again
        ("aX", "aY", "Y", "aX", ""),  # likewise, in place of the other
        ("aX bY cX dY", "aX bY", "XY", "", "cX dY"),  # both sent twice
        ("aX bY cY", "aX bY", "XY", "", "cY"),
        ("aX bY cX", "aX bY", "XY", "cX", ""),  # back to what was said first
        ("aX bX cZ", "aX", "X", "cZ", "bX"),
        ("aX bZ cX", "aX", "X", "bZ cX", ""),
        ("aX bY cX", "", "", "bY cX", "aX"),  # the last has the last word
        ("aX bX", "", "", "bX", "aX"),
        ("", "aX", "X", "", ""),
    ],
)
def test_what_was_said_before_may_be_true_again(found: str, places: str, latest: str, fresh: str, copies: str) -> None:
    held = {source.place: source.sha256 for source in sources(places)}
    assert known.by_place(sources(found), held, latest) == (sources(fresh), sources(copies))


def lines(world: World) -> list[str]:
    """Of a run."""
    before = set(world.delivered.glob("*"))
    world.now += 60_000
    world.run()
    return [line for path in sorted(set(world.delivered.glob("*")) - before) for line in content(path).splitlines()]


def feed(folder: Path) -> World:
    world = World(folder, SIGNALS, changes={})
    world.sync(("c1", uuid(1)))
    return world


def test_an_export_that_says_again_what_an_earlier_one_did_is_read(tmp_path: Path) -> None:
    world = feed(tmp_path)
    world.put("1.csv", GOLD)
    assert lines(world) == [f'{uuid(1)}\t"tier"="gold",d_sid=24']
    world.put("2.csv", SILVER)
    assert lines(world) == [f'{uuid(1)}\t"tier"="silver",d_sid=25,d_unsid=24']
    world.put("3.csv", GOLD)
    assert lines(world) == [f'{uuid(1)}\t"tier"="gold",d_sid=24,d_unsid=25']
    world.put("3.csv", SILVER)  # in place
    assert lines(world) == [f'{uuid(1)}\t"tier"="silver",d_sid=25,d_unsid=24']
    world.put("3.csv", GOLD)
    assert lines(world) == [f'{uuid(1)}\t"tier"="gold",d_sid=24,d_unsid=25']
    assert lines(world) == []
    assert figures(world.last, "status", "known_inputs") == ("nothing-to-do", 3)


def test_a_file_that_is_written_anew_is_read_by_any_feed(tmp_path: Path) -> None:
    world = World(tmp_path, SIGNALS)
    world.sync(("c1", uuid(1)))
    for rows, line in ((GOLD, '"gold",d_sid=24'), (SILVER, '"silver",d_sid=25'), (GOLD, '"gold",d_sid=24')):
        world.put("crm.csv", rows)
        assert lines(world) == [f'{uuid(1)}\t"tier"={line}']
    world.put("copy.csv", SILVER)
    assert lines(world) == []
    assert figures(world.last, "status", "known_inputs") == ("nothing-to-do", 2)


def test_a_copy_is_known_and_stays_so_when_others_come(tmp_path: Path) -> None:
    world = feed(tmp_path)
    world.put("1.csv", GOLD)
    lines(world)
    world.put("9.csv", GOLD)
    assert lines(world) == []
    assert figures(world.last, "status", "known_inputs", "read") == ("nothing-to-do", 2, 0)
    world.put("2.csv", SILVER)
    assert lines(world) == [f'{uuid(1)}\t"tier"="silver",d_sid=25,d_unsid=24']
    assert lines(world) == []


def test_a_copy_beside_its_original_is_read_once(tmp_path: Path) -> None:
    world = feed(tmp_path)
    for name in ("1.csv", "3.csv"):
        world.put(name, GOLD)
    world.put("2.csv", SILVER)
    assert lines(world) == [f'{uuid(1)}\t"tier"="gold",d_sid=24']  # 3 has the last word
    assert figures(world.last, "read", "known_inputs") == (2, 1)
    world.put("0.csv", NONE)
    assert lines(world) == [f"{uuid(1)}\td_unsid=24"]  # and 1 is not read again after it
    assert figures(world.last, "read", "known_inputs") == (1, 3)


def test_a_dry_run_takes_no_note_of_copies(tmp_path: Path) -> None:
    world = feed(tmp_path)
    world.put("1.csv", GOLD)
    lines(world)
    world.put("2.csv", GOLD)
    world.run(dry_run=True)
    assert figures(world.last, "known_inputs", "read") == (2, 0)
    assert set(Ledger(world.state / "ledger.db").places("daily")) == {"1.csv"}


def test_inputs_that_move_with_their_folder_stay_known(tmp_path: Path) -> None:
    world = feed(tmp_path / "here")
    for number, rows in enumerate((GOLD, SILVER, NONE)):
        world.put(f"{number}.csv", rows)
        lines(world)
    world.folder = world.folder.rename(tmp_path / "there")
    assert lines(world) == []
    assert figures(world.last, "status", "known_inputs") == ("nothing-to-do", 3)


def test_a_ledger_of_an_earlier_version_knows_its_inputs_by_what_they_hold(tmp_path: Path) -> None:
    world = World(tmp_path, SIGNALS)
    world.sync(("c1", uuid(1)))
    world.put("1.csv", GOLD)
    lines(world)
    with closing(sqlite3.connect(world.state / "ledger.db")) as db:
        db.executescript("DROP TABLE places; PRAGMA user_version = 3")
    assert lines(world) == []
    assert set(Ledger(world.state / "ledger.db").inputs("daily")) == {str(world.inbox / "1.csv")}
    world.put("1.csv", SILVER)
    assert lines(world) == [f'{uuid(1)}\t"tier"="silver",d_sid=25']
