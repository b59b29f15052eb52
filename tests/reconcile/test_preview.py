"""What a dry run shows: records beside their lines, the first of them only, inputs of late only."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from reconcile.__main__ import cli
from reconcile.preview import Shown, shares
from reconcile.progress import Meter
from reconcile.run import rehearse
from reconcile.summary import Summary
from tests.reconcile.samples import HEADER, NOW, SIGNALS, World, figures, uuid

COUNTS = ("read", "matched", "unmatched", "rejected", "lines")
LENIENT = SIGNALS + "max_rejected = 1\n"
ROWS = [
    ("c1", "f", "gold", "24"),
    ("nobody", "m", "", ""),
    ("a:b", "f", "", ""),
    ("c2", "", "", ""),
    ("short", "f"),
    ("gone", "f", "", ""),
    ("c3", "m", "", "7"),
    ("d:e", "f", "", ""),
]


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path, LENIENT)
    world.sync(*((f"c{number}", uuid(number)) for number in range(1, 8)))
    return world


def look(world: World, **asked: Any) -> tuple[Summary, list[Shown]]:
    return rehearse(world.settings, "daily", meter=Meter(), now=lambda: world.now, **asked)


def test_every_fate_is_shown_beside_its_record(world: World) -> None:
    world.opt_out("gone")
    path = world.put("a.csv", ROWS)
    before = world.traces()
    _, shown = look(world, sample=20)
    assert world.traces() == before
    assert [(record.line, record.fate, record.reason, record.customer_id) for record in shown] == [
        (2, "matched", "", "c1"),
        (3, "unmatched", "", "nobody"),
        (4, "rejected", "id-colon", "a:b"),
        (5, "matched", "", "c2"),
        (6, "rejected", "too-few-columns", "short"),
        (7, "rejected", "opted-out", ""),
        (8, "matched", "", "c3"),
        (9, "rejected", "id-colon", "d:e"),
    ]
    assert {record.input for record in shown} == {str(path)}
    by_line = {record.line: record for record in shown}
    assert by_line[2].lines == [f'{uuid(1)}\t"gender"="f","tier"="gold",d_sid=24']
    assert by_line[2].values == {"gender": "f", "tier": "gold", "traits": "24"}
    assert by_line[8].lines == [f'{uuid(3)}\t"gender"="m",d_sid=7']
    assert not by_line[3].lines
    assert not by_line[5].lines
    assert by_line[7].values == {}


def test_a_few_show_some_of_each_fate(world: World) -> None:
    world.put("a.csv", [("c1", "f", "", "")] * 50 + ROWS + [("c2", "f", "", "")] * 50)
    _, shown = look(world, sample=4)
    assert sorted((record.fate, record.reason) for record in shown) == [
        ("matched", ""),
        ("rejected", "id-colon"),
        ("rejected", "too-few-columns"),
        ("unmatched", ""),
    ]
    assert shares([10, 0, 1, 5], 7) == [3, 0, 1, 3]
    assert shares([1, 1], 7) == [1, 1]


def test_held_records_are_no_records_of_the_inputs(world: World) -> None:
    world.put("a.csv", [("late", "f", "", ""), ("later", "f", "", "")])
    world.run()
    world.sync(("late", uuid(77)))
    world.put("b.csv", ROWS[:3])
    summary, shown = look(world, sample=10)
    assert figures(summary, *COUNTS) == (5, 2, 2, 1, 2)
    assert [(record.line, record.fate) for record in shown] == [(2, "matched"), (3, "unmatched"), (4, "rejected")]
    assert all(record.input.endswith("b.csv") for record in shown)


def test_what_a_feed_sends_of_the_unmatched_and_of_changes_is_shown(tmp_path: Path) -> None:
    world = World(tmp_path / "emit", f'{LENIENT}user_id = "customer-id"\nunmatched = "emit"\n')
    world.put("a.csv", ROWS[:2])
    _, shown = look(world, sample=2)
    assert [(record.fate, list(record.lines)) for record in shown] == [
        ("unmatched", ['c1\t"gender"="f","tier"="gold",d_sid=24']),
        ("unmatched", ['nobody\t"gender"="m"']),
    ]
    world = World(tmp_path / "changes", LENIENT, changes={})
    world.sync(("c1", uuid(1)), ("c3", uuid(3)))
    world.put("a.csv", [ROWS[0], ROWS[6]])
    world.run()
    world.put("a.csv", [ROWS[0], ("c3", "m", "", "8")])
    _, shown = look(world, sample=2)
    assert [list(record.lines) for record in shown] == [[], [f'{uuid(3)}\t"gender"="m",d_sid=8,d_unsid=7']]


def test_ids_can_be_hidden(world: World) -> None:
    world.sync(("customer-4711", uuid(4711)))
    world.put("a.csv", [("customer-4711", "f", "gold", "24")])
    _, (shown,) = look(world, sample=1)
    hidden = shown.masked()
    assert "4711" not in json.dumps(hidden.as_dict())
    assert hidden.customer_id == "cu••••••-47••"
    (line,) = hidden.lines
    assert line.endswith('\t"gender"="f","tier"="gold",d_sid=24')
    assert hidden.values == shown.values


# --- the first records only, late inputs only ------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "read"), [(1, 1), (3, 3), (5, 5), (8, 8), (50, 8)])
def test_the_first_records_only(world: World, limit: int, read: int) -> None:
    world.put("a.csv", ROWS)
    world.put("b.csv", [("c4", "f", "", "")] * 3)
    summary, shown = look(world, limit=limit, sample=100)
    read = min(limit, 11)
    assert summary.read == read == summary.matched + summary.unmatched + summary.rejected
    assert sum(entry["records"] for entry in summary.inputs) == read
    assert [record.line for record in shown if record.input.endswith("a.csv")] == list(range(2, 2 + min(read, 8)))


def test_a_part_of_a_full_export_makes_nobody_vanish(tmp_path: Path) -> None:
    world = World(tmp_path, LENIENT, changes={"vanished": "remove", "max_vanished": 1.0})
    world.sync(*((f"c{number}", uuid(number)) for number in range(5)))
    rows = [(f"c{number}", "f", "", "24") for number in range(5)]
    world.put("a.csv", rows)
    world.run()
    world.put("b.csv", [(name, "m", "", "24") for name, *_ in rows])
    assert look(world, limit=2)[0].vanished == 0


def test_older_inputs_are_passed_over_and_stay_new(world: World) -> None:
    for name, seconds in (("old.csv", NOW // 1000 - 100), ("new.csv", NOW // 1000)):
        path = world.put(name, [("c1", name, "", "")])
        os.utime(path, (seconds, seconds))
    summary = look(world, since=NOW - 50_000)[0]
    assert (summary.read, summary.older_inputs) == (1, 1)
    (entry,) = summary.inputs
    assert entry["path"].endswith("new.csv")
    assert look(world, since=NOW + 1)[0].older_inputs == 2
    assert world.run().read == 2


# --- the command -----------------------------------------------------------------------------------------------------


def run_command(world: World, *options: str) -> Result:
    return CliRunner().invoke(cli, ["run", "daily", *options, "--config", str(world.write_config())])


def test_the_command_shows_and_tells(world: World) -> None:
    world.now = 0  # the command has its own clock: mappings of the epoch have expired
    world.put("a.csv", [("customer-4711", *["x"] * (len(HEADER) - 2), ""), ("a:b", "[bold]f", "", "")])
    options = ["--dry-run", "--sample", "5", "--mask", "--limit", "9", "--config", str(world.write_config())]
    line = [sys.executable, "-m", "reconcile", "run", "daily", *options]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert [record["fate"] for record in told["preview"]] == ["unmatched", "rejected"]
    assert told["limit"] == 9
    assert "4711" not in done.stdout + done.stderr
    assert "a.csv, line 3: rejected: id-colon" in done.stderr
    assert "[bold]f" in done.stderr
    assert "no line" in done.stderr


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--sample", "5"], "add --dry-run"),
        (["--limit", "5"], "add --dry-run"),
        (["--dry-run", "--mask"], "add --sample"),
        (["--since", "yesterday"], "neither a date"),
        (["--dry-run", "--sample", "1000"], "not in the range"),
    ],
)
def test_what_makes_no_sense_is_refused(world: World, options: list[str], fault: str) -> None:
    done = run_command(world, *options)
    assert done.exit_code == 2
    assert fault in done.stderr
    assert not world.state.exists()


def test_since_takes_dates_and_times(world: World) -> None:
    path = world.put("a.csv", ROWS)
    os.utime(path, (1_790_000_000, 1_790_000_000))  # 2026-09-21 14:13:20 UTC
    for text, read in (("2026-09-21", 8), ("2026-09-22", 0), ("2026-09-21T16:13:19+02:00", 8)):
        told = json.loads(run_command(world, "--dry-run", "--since", text).stdout)
        assert told["read"] == read, text
        assert told["older_inputs"] == (not read)
