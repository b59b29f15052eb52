"""Whose IDs may be in a report, and how they go."""

import json
from pathlib import Path
from typing import Any

import pytest

from reconcile import aftermath, erasure, retention
from reconcile.delivery.directory import DirectoryDelivery
from reconcile.errors import DestinationRefused
from reconcile.ledger import Ledger
from reconcile.report.figures import ids_in
from tests.reconcile.reports import CLEAR, DAY, LENIENT, folder_of, made_world, told
from tests.reconcile.samples import DPID, TEMPLATE, World, uuid


@pytest.fixture
def world(tmp_path: Path) -> World:
    return made_world(tmp_path)


def ids_of(figures: Any) -> set[str]:
    return set(ids_in(figures))


def test_ids_are_masked_unless_the_settings_say_otherwise(tmp_path: Path) -> None:
    rows = [("USER-4711", "f", "", ""), ("bad:4711", "f", "", ""), ("me@mail.example", "f", "", "")]
    for clear in (False, True):
        world = World(tmp_path / str(clear), LENIENT + CLEAR * clear)
        world.sync(("user-4711", uuid(1)))
        world.put("a.csv", rows)
        world.run()
        shown = folder_of(world).page.read_text() + folder_of(world).report.read_text()
        for name in ("USER-4711", "user-4711", "bad:4711"):
            assert (name in shown) is clear, name
        assert "me@mail" not in shown  # what names a person outside is in no report
        assert told(world)["masked"] is not clear
        ledger = json.dumps(Ledger(world.state / "ledger.db").history())
        assert "4711" not in ledger


PERSONAL = [
    ("JANE@EXAMPLE.COM", "jane@example.com"),
    ("\uff4aane\uff20example\uff0ecom", "jane@example.com"),  # full-width
    ("jane%2540EXAMPLE.com", "jane%2540example.com"),
    ("\uff4aANE%40example.com", "\uff4aane%40example.com"),
    ("crm-4111111111111111", "4111111111111111"),
    ("04111111111111111", "4111111111111111"),
    ("crm-536-22-1234", "536-22-1234"),
    ("+4930123456 ", "+4930123456"),
    ("4711", "jane@example.com-4711"),  # where the sample is not shown, the prefix is not either
]
TRACES = ("jane@", "jane%", "JANE", "ANE%", "\uff4aane", "\uff4aANE", "4111111111111111", "536-22", "493012")


def what_is_shown(folder: Path, keys: str, pairs: list[tuple[str, str]]) -> str:
    """All that is told of records whose IDs are almost those of mappings; beside two that anybody may see."""
    source = 'name = "crm"\ndpid = 12345\n'
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tests.reconcile.samples.TEMPLATE", TEMPLATE.replace(source, source + keys))
        world = World(folder, LENIENT + CLEAR)
        world.sync(*((mapping, uuid(number)) for number, (_, mapping) in enumerate(pairs)), ("user-4712", uuid(99)))
        world.put("a.csv", [*((record, "f", "", "") for record, _ in pairs), ("USER-4712", "f", "", "")])
        summary = world.run()
    assert summary.why["unexplained"] == 0
    assert ids_of(told(world)) - {""} == {"USER-4712", "user-4712"}
    return folder_of(world).page.read_text() + folder_of(world).report.read_text() + json.dumps(summary.why)


@pytest.mark.parametrize("pair", PERSONAL)
def test_what_may_name_somebody_outside_is_no_sample(tmp_path: Path, pair: tuple[str, str]) -> None:
    """Also where the data source takes it."""
    keys = 'unchecked = ["email", "phone", "card"]\nnational_ids = ["us"]\n'
    shown = what_is_shown(tmp_path, keys, [pair])
    assert [trace for trace in TRACES if trace in shown] == []


def test_what_may_name_somebody_outside_is_no_sample_where_all_is_checked(tmp_path: Path) -> None:
    shown = what_is_shown(
        tmp_path, 'national_ids = ["us"]\n', list({mapping: (r, mapping) for r, mapping in PERSONAL}.values())
    )
    assert [trace for trace in TRACES if trace in shown] == []


def test_what_names_somebody_behind_the_affixes_of_both_sides_is_no_sample(tmp_path: Path) -> None:
    cards = ("4111111111111111", "5555555555554444")
    shown = what_is_shown(tmp_path, "", [(f"crm-{card}", f"web-{card}") for card in cards])
    assert not any(card in shown for card in cards)


def test_what_may_name_somebody_outside_is_no_sample_of_an_error_either(tmp_path: Path) -> None:
    """Whatever the record was rejected for."""
    world = World(tmp_path, LENIENT + CLEAR)
    world.put("a.csv", [("mailto:jane@example.com", "f", "", ""), ("bad:4711", "f", "", "")])
    assert world.run().reasons == {"id-colon": 2}
    assert ids_of(told(world)) == {"", "bad:4711"}
    assert "jane@" not in folder_of(world).page.read_text()


def test_who_opted_out_since_the_run_looked_is_in_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, LENIENT + CLEAR)
    world.sync(("user-4711", uuid(1)), ("user-4712", uuid(2)))
    world.put("a.csv", [("USER-4711", "f", "", ""), ("USER-4712", "f", "", ""), ("late:4713", "f", "", "")])
    look = aftermath.Aftermath.look

    def leave(*arguments: Any) -> aftermath.Why:
        found = look(*arguments)
        world.opt_out("USER-4711", "late:4713")
        return found

    monkeypatch.setattr(aftermath.Aftermath, "look", leave)
    world.run()
    assert ids_of(told(world)) == {"USER-4712", "user-4712", ""}
    page = folder_of(world).page.read_text()
    assert "USER-4712" in page
    assert "USER-4711" not in page
    assert "late:4713" not in page


def test_an_erased_id_comes_back_through_no_report(tmp_path: Path) -> None:
    world = World(tmp_path, LENIENT + CLEAR)
    world.sync(("user-4711", uuid(1)))
    for number, name in enumerate(("USER-4711", "bad:4711", "user-4711")):
        world.put("a.csv", [("USER-4711", f"f{number}", "", ""), ("bad:4711", "f", "", "")])
        world.run()
        sought = erasure.parse([json.dumps({"dpid": DPID, "customer_id": name}).encode()])
        found = erasure.find(world.settings, sought).as_dict()
        assert str(folder_of(world).report) in found["reports"]["files"], name
        erasure.erase(world.settings, sought, 0)
        assert [path.name for path, data in world.everything() if name.encode() in data] == []
        assert not folder_of(world).page.exists()


def test_the_ids_kept_of_a_run_that_waits_are_erased(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put("a.csv", [("USER-1", "f", "", ""), ("USER-22", "f", "", ""), ("user-3", "f", "", "")])

    def refuse(*_: object, **__: object) -> None:
        raise DestinationRefused("away")

    with monkeypatch.context() as patched:
        patched.setattr(DirectoryDelivery, "deliver", refuse)
        with pytest.raises(DestinationRefused):
            world.run()
    sought = erasure.parse([json.dumps({"dpid": DPID, "customer_id": "USER-22"}).encode()])
    account = erasure.erase(world.settings, sought, 0).as_dict()
    assert account["why"]["samples"] == 1
    assert [path.name for path, data in world.everything() if b"USER-22" in data] == []
    world.run()
    (row,) = Ledger(world.state / "ledger.db").history()
    assert [(finding["records"], len(finding["samples"])) for finding in row["why"]["findings"]] == [(2, 1)]


def test_reports_with_ids_go_with_the_rejects_and_masked_ones_stay(tmp_path: Path) -> None:
    for clear in (False, True):
        world = World(
            tmp_path / str(clear), LENIENT + (CLEAR if clear else "[reconcile]\n") + "keep_rejects_days = 3\n"
        )
        world.put("a.csv", [("bad:4711", "f", "", "")])
        world.run()
        purged, _ = retention.sweep(world.settings, world.now + 4 * DAY)
        assert purged["daily"].reports == clear
        assert folder_of(world).page.exists() is not clear
        assert folder_of(world).report.exists() is not clear
