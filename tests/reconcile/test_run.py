"""Runs from inputs to delivered bytes, on a real store, engine and file system."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from idsync import ids
from idsync.errors import StoreMisconfigured, StoreUnavailable, UsageError
from reconcile import lines, names
from reconcile.engine.duckdb import DuckEngine, Outcome
from reconcile.errors import RunRefused
from reconcile.progress import Meter
from reconcile.run import run
from reconcile.summary import Summary
from tests.reconcile.samples import COUNTS, NOW, NOW_SECONDS, SIGNALS, World, content, figures, uuid


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_feed_becomes_the_exact_file(world: World) -> None:
    world.sync(("c1", uuid(1)), ("c2", uuid(2)), ("c3", uuid(3)))
    world.put(
        "a.csv", [("c1", "f", "gold", "24,26"), ("c2", "", "", ""), ("nobody", "m", "", ""), ("c3", "x,y", "é", "7")]
    )
    summary = world.run()
    assert figures(summary, *COUNTS) == (4, 3, 1, 0, 2)
    assert summary.silent == 1
    (path,) = world.delivered.iterdir()
    assert path.name == f"ftp_dpm_12345_{NOW_SECONDS}.sync.gz"
    assert content(path) == (
        f'{uuid(1)}\t"gender"="f","tier"="gold",d_sid=24,d_sid=26\n{uuid(3)}\t"gender"="x,y","tier"="é",d_sid=7\n'
    )
    assert summary.status == "delivered"


def test_gzip_files_have_one_member_without_time_or_name(world: World) -> None:
    world.sync(*((f"c{number}", uuid(number)) for number in range(5000)))
    world.put("a.csv", [(f"c{number}", "f", "gold", "24") for number in range(5000)])
    world.run()
    (path,) = world.delivered.iterdir()
    data = path.read_bytes()
    assert data[:4] == b"\x1f\x8b\x08\x00"  # no flags: no name, no comment
    assert data[4:8] == bytes(4)  # mtime 0
    decompressor = zlib.decompressobj(31)
    decompressor.decompress(data)
    assert decompressor.eof
    assert decompressor.unused_data == b""


def test_the_latest_device_is_sent_or_all_of_them(tmp_path: Path) -> None:
    pairs = [("c1", uuid(1)), ("c2", uuid(2)), ("c1", uuid(3))]
    rows = [("c1", "f", "", ""), ("c2", "m", "", ""), ("c4", "m", "", "")]
    for devices, expected in {"latest": {3, 2}, "all": {1, 2, 3}}.items():
        world = World(tmp_path / devices, SIGNALS + f'devices = "{devices}"\n')
        world.sync(*pairs)
        world.put("a.csv", rows)
        summary = world.run()
        assert {line.partition("\t")[0] for line in world.lines()} == {uuid(number) for number in expected}
        assert figures(summary, *COUNTS) == (3, 2, 1, 0, len(expected))


def test_customer_id_files_can_emit_the_unmatched(tmp_path: Path) -> None:
    world = World(tmp_path, SIGNALS + 'user_id = "customer-id"\nunmatched = "emit"\ncompression = "none"\n')
    world.sync(("c1", uuid(1)))
    world.put("a.csv", [("c1", "f", "", ""), ("nobody", "m", "", "")])
    summary = world.run()
    assert world.lines() == ['c1\t"gender"="f"\n', 'nobody\t"gender"="m"\n']
    assert figures(summary, *COUNTS) == (2, 1, 1, 0, 2)
    assert [path.name for path in world.delivered.iterdir()] == [f"ftp_dpm_12345_{NOW_SECONDS}.sync"]


def test_customer_id_files_without_emit_hold_only_the_matched(tmp_path: Path) -> None:
    world = World(tmp_path, SIGNALS + 'user_id = "customer-id"\ndevices = "all"\n')
    world.sync(("c1", uuid(1)), ("c1", uuid(2)))
    world.put("a.csv", [("c1", "f", "", ""), ("nobody", "m", "", "")])
    assert figures(world.run(), *COUNTS) == (2, 1, 1, 0, 1)
    assert world.lines() == ['c1\t"gender"="f"\n']


def test_rules_add_and_remove_traits(tmp_path: Path) -> None:
    rules = 'rules = [ { column = "tier", equals = "gold", trait = 24, otherwise = "remove" } ]\n'
    for mode, second in {"sync": [f"{uuid(2)}\td_unsid=24\n"], "overwrite": []}.items():
        world = World(tmp_path / mode, rules + f'mode = "{mode}"\ntarget = 21\ndpid = 777\n')
        world.sync(("c1", uuid(1)), ("c2", uuid(2)))
        world.put("a.csv", [("c1", "", "gold", ""), ("c2", "", "silver", "")])
        world.run()
        assert world.lines() == [f"{uuid(1)}\td_sid=24\n", *second]
        assert [path.name for path in world.delivered.iterdir()] == [f"ftp_dpm_777_21_{NOW_SECONDS}.{mode}.gz"]


def test_ids_are_compared_byte_for_byte(world: World) -> None:
    stored = ["007", "User", "1e5", "é", "12345678901234567890123456789012345678", "a b"]
    world.sync(*((name, uuid(number)) for number, name in enumerate(stored)))
    near = [
        "7",
        "0007",
        "user",
        "USER",
        "100000",
        "1E5",
        "e\u0301",
        "12345678901234567890123456789012345679",
        "a  b",
        " a b",
    ]
    world.put("a.csv", [(name, "f", "", "") for name in stored + near])
    summary = world.run()
    assert figures(summary, "matched", "unmatched") == (len(stored), len(near))
    assert [line.partition("\t")[0] for line in world.lines()] == [uuid(number) for number in range(len(stored))]


def test_records_of_one_user_are_merged_in_order(world: World) -> None:
    world.sync(("c1", uuid(1)), ("c2", uuid(2)), ("c3", uuid(1)), ("c4", uuid(4)))
    world.put(
        "a.csv", [("c1", "f", "gold", "24"), ("c2", "m", "", ""), ("c1", "f", "silver", "26|24"), ("c4", "", "", "")]
    )
    world.put("b.csv", [("c3", "x", "", "27"), ("c4", "", "", "")])
    summary = world.run()
    merged = '"gender"="f","tier"="gold",d_sid=24,"tier"="silver",d_sid=26,"gender"="x",d_sid=27'
    assert sorted(world.lines()) == [f"{uuid(1)}\t{merged}\n", f'{uuid(2)}\t"gender"="m"\n']
    assert figures(summary, *COUNTS) == (6, 6, 0, 0, 2)
    assert summary.silent == 2


def test_a_user_whose_items_fill_a_line_gets_several(tmp_path: Path) -> None:
    world = World(tmp_path, 'signals = ["big", "small"]\n')
    world.sync(("c1", uuid(1)), ("c2", uuid(2)), ("c3", uuid(3)))
    big = ["a" * 60_000, "b" * 60_000]
    rows = [("c1", big[0], "1"), ("c1", big[1], "2"), ("c2", "x" * 102_350, "y" * 100), ("c3", "ok", "")]
    world.put("a.csv", rows, header=("id", "big", "small"))
    summary = world.run()
    got = [lines.parse(line) for line in world.lines()]
    assert all(len(line.encode()) <= lines.MAX_LINE_BYTES for line in world.lines())
    for user, values in {1: {*big, "1", "2"}, 2: {"x" * 102_350, "y" * 100}, 3: {"ok"}}.items():
        items = [item for line in got if line.user == uuid(user) for item in line.items]
        assert {item.value for item in items if isinstance(item, lines.Signal)} == values
    assert figures(summary, *COUNTS) == (4, 4, 0, 0, 5)


def test_what_fits_no_line_or_too_many_is_rejected_not_cut(tmp_path: Path) -> None:
    world = World(tmp_path, 'signals = ["big"]\nmax_rejected = 1.0\nunmatched = "drop"\n')
    world.sync(("c1", uuid(1)), ("c2", uuid(2)), ("c3", uuid(3)))
    rows = [("c1", "x" * 102_400), ("c3", "fine")]
    rows += [("c2", f"{number:06}" + "y" * 90_000) for number in range(lines.MAX_LINES_PER_USER + 1)]
    rows += [("c3", "z" * 102_400), ("nobody", "f")]
    world.put("a.csv", rows, header=("id", "big"))
    summary = world.run()
    assert world.lines() == [f'{uuid(3)}\t"big"="fine"\n']
    assert figures(summary, *COUNTS) == (205, 1, 1, 203, 1)
    assert summary.reasons == {"too-many-lines": 201, "line-too-long": 2}
    places = [(int(row["line"]), row["customer_id"], row["reason"]) for row in world.rejects()]
    assert places[0] == (2, "c1", "line-too-long")
    assert places[1:-1] == [(line, "c2", "too-many-lines") for line in range(4, 205)]
    assert places[-1] == (205, "c3", "line-too-long")


def test_a_record_with_too_much_for_every_device_is_rejected_once(tmp_path: Path) -> None:
    world = World(tmp_path, 'signals = ["big"]\nmax_rejected = 1.0\ndevices = "all"\n')
    world.sync(("c1", uuid(1)), ("c1", uuid(2)))
    rows = [("c1", f"{number:06}" + "y" * 90_000) for number in range(lines.MAX_LINES_PER_USER + 1)]
    world.put("a.csv", rows, header=("id", "big"))
    assert figures(world.run(), *COUNTS) == (201, 0, 0, 201, 0)


def test_bad_records_are_rejected_with_their_place_and_reason(tmp_path: Path) -> None:
    world = World(tmp_path, SIGNALS + "max_rejected = 1.0\n")
    world.sync(("c1", uuid(1)), ("z" * 512, uuid(2)))
    path = world.inbox / "a.csv"
    path.write_bytes(
        b"id,gender,tier,traits\n"
        b"c1,f,,\n"  # 2
        b",f,,\n"  # 3
        b"  ,f,,\n"  # 4
        b"a:b,f,,\n"  # 5
        b"a%3Ab,f,,\n"  # 6
        b'"a\tb",f,,\n'  # 7
        b"a\x00b,f,,\n"  # 8
        + b"z" * 512
        + b",f,,\n"  # 9: fits
        + b"z" * 513
        + b",f,,\n"  # 10
        b'c1,"say ""hi""",,\n'  # 11
        b'c1,"two\nlines",,\n'  # 12 and 13
        b"c1,f,,24;x\n"  # 14
        b"c1,f\n"  # 15
        b"c1,f,,,\n"  # 16
        b"c\xff,f,,\n"  # 17
        b"nobody,f,,"  # 18
    )
    summary = world.run()
    assert figures(summary, *COUNTS) == (16, 2, 1, 13, 2)
    got = [(int(row["line"]), row["reason"]) for row in world.rejects()]
    assert got == [
        (3, "id-empty"), (4, "id-empty"), (5, "id-colon"), (6, "id-colon"), (7, "id-control-character"),
        (8, "id-control-character"), (10, "id-too-long"), (11, "value-unsendable"), (12, "value-unsendable"),
        (14, "trait-not-a-number"), (15, "too-few-columns"), (16, "too-many-columns"), (17, "not-utf-8"),
    ]  # fmt: skip
    assert {row["input"] for row in world.rejects()} == {str(path)}
    assert [row["customer_id"] for row in world.rejects()][2] == "a:b"
    assert all(row["explanation"] for row in world.rejects())


def test_ids_that_should_not_be_there_are_left_out_each_with_its_reason(tmp_path: Path) -> None:
    world = World(tmp_path, SIGNALS + "max_rejected = 1\n")
    world.sync(("c1", uuid(1)), ("4711", uuid(2)))
    refused = {
        "john@example.com": "id-email",
        "+1 (415) 555-2671": "id-phone",
        "4111111111111111": "id-card",
        "${UID}": "id-macro",
        "undefined": "id-sentinel",
    }
    world.put("a.csv", [(text, "f", "", "") for text in ["c1", *refused, "4711"]])
    summary = world.run()
    assert figures(summary, *COUNTS) == (7, 2, 0, 5, 2)
    assert {row["customer_id"]: row["reason"] for row in world.rejects()} == refused
    assert [row["line"] for row in world.rejects()] == ["3", "4", "5", "6", "7"]
    assert all(row["explanation"] == ids.EXPLANATIONS[row["reason"]] for row in world.rejects())


@pytest.mark.parametrize(
    ("setting", "value", "refused"),
    [
        ("FORMAT", "hashed-email", {"4711": "id-not-hashed-email", "4111111111111111": "id-card"}),
        ("UNCHECKED", '["card"]', {}),
        ("NATIONAL_IDS", '["us"]', {"536-90-4399": "id-national-id", "4111111111111111": "id-card"}),
    ],
)
def test_records_are_held_against_the_rules_of_their_data_source(
    tmp_path: Path, setting: str, value: str, refused: dict[str, str]
) -> None:
    world = World(tmp_path, SIGNALS + "max_rejected = 1\n", environ={f"IDSYNC_DATA_SOURCES__CRM__{setting}": value})
    rows = ["a" * 64, "4111111111111111", *(text for text in refused if text != "4111111111111111")]
    world.put("a.csv", [(text, "f", "", "") for text in rows])
    world.run()
    assert {row["customer_id"]: row["reason"] for row in world.rejects()} == refused


def test_too_many_rejects_refuse_the_run_and_leave_the_input_new(tmp_path: Path) -> None:
    world = World(tmp_path, SIGNALS)
    world.sync(("c1", uuid(1)))
    world.put("a.csv", [("c1", "f", "", "")] * 98 + [("", "f", "", "")] * 2)
    with pytest.raises(RunRefused, match=r"2\.00% of the records were rejected, .* id-empty 2") as caught:
        world.run()
    assert caught.value.exit_status == 1
    assert len(world.rejects()) == 2
    assert not world.delivered.exists()
    world.feed += "max_rejected = 0.02\n"
    assert figures(world.run(), *COUNTS) == (100, 98, 0, 2, 1)


def test_a_second_run_of_the_same_inputs_does_nothing(world: World) -> None:
    world.sync(("c1", uuid(1)))
    world.put("a.csv", [("c1", "f", "", "")])
    world.run()
    before = sorted(world.delivered.iterdir())
    (world.inbox / "copy.csv").write_bytes((world.inbox / "a.csv").read_bytes())
    summary = world.run()
    assert figures(summary, "status", "known_inputs", "read") == ("nothing-to-do", 2, 0)
    assert sorted(world.delivered.iterdir()) == before
    world.put("b.csv", [("c1", "m", "", "")])
    summary = world.run()
    assert figures(summary, "status", "known_inputs", "read") == ("delivered", 2, 1)
    assert [entry["path"] for entry in summary.inputs] == [str(world.inbox / "b.csv")]


def test_names_never_repeat_even_if_the_clock_does(world: World) -> None:
    world.sync(("c1", uuid(1)))
    for number in range(3):
        world.put(f"{number}.csv", [("c1", f"f{number}", "", "")])
        world.now -= 5000
        world.run()
    stamps = [names.parse(path.name).timestamp for path in sorted(world.delivered.iterdir())]
    assert stamps == [NOW_SECONDS - 5, NOW_SECONDS - 4, NOW_SECONDS - 3]


def test_a_dry_run_shows_the_same_figures_and_writes_nothing(world: World) -> None:
    world.sync(("c1", uuid(1)))
    world.put("a.csv", [("c1", "f", "", ""), ("c1", "m", "", ""), ("c2", "f", "", "")])
    before = world.traces()
    rehearsal = world.run(dry_run=True)
    assert world.traces() == before
    assert rehearsal.status == "dry-run"
    real = world.run()
    assert figures(rehearsal, *COUNTS, "held", "mappings") == figures(real, *COUNTS, "held", "mappings")


def test_expired_mappings_do_not_match(world: World) -> None:
    world.sync(("c1", uuid(1)), seen=NOW - 121 * 86_400_000)
    world.sync(("c2", uuid(2)), seen=NOW - 119 * 86_400_000)
    world.put("a.csv", [("c1", "f", "", ""), ("c2", "f", "", "")])
    assert figures(world.run(), "matched", "unmatched") == (1, 1)


def test_mappings_of_another_data_source_do_not_match(world: World) -> None:
    world.sync(("c1", uuid(1)), dpid=999)
    world.put("a.csv", [("c1", "f", "", "")])
    assert figures(world.run(), "matched", "unmatched") == (0, 1)


def test_a_store_that_is_away_loses_nothing(world: World) -> None:
    world.put("a.csv", [("c1", "f", "", "")])
    world.url = "redis://127.0.0.1:1/0"
    with pytest.raises(StoreUnavailable) as caught:
        world.run()
    assert caught.value.exit_status == 75
    world.url = "sqlite:///idsync.db"
    world.sync(("c1", uuid(1)))
    assert world.run().lines == 1


def test_the_manifest_describes_what_was_frozen(world: World) -> None:
    world.sync(("c1", uuid(1)))
    world.put("a.csv", [("c1", "f", "", "")])
    summary = world.run()
    (folder,) = world.state.glob("runs/*")
    manifest = json.loads((folder / "manifest.json").read_text())
    (entry,) = manifest["files"]
    assert entry["lines"] == 1
    assert entry["bytes"] == (folder / "files" / entry["name"]).stat().st_size
    assert summary.files[0]["sha256"] == entry["sha256"]


def test_sums_that_do_not_agree_refuse_the_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put("a.csv", [("c1", "f", "", ""), ("", "f", "", "")])
    world.feed += "max_rejected = 1.0\n"
    monkeypatch.setattr(DuckEngine, "take_faults", lambda *_: [])
    monkeypatch.setattr("reconcile.join.settle_counts", _forgetful)
    with pytest.raises(RunRefused, match=r"2 records read, but 0 matched \+ 1 unmatched \+ 0 rejected"):
        world.run()
    assert not world.delivered.exists()


def _forgetful(outcome: Outcome, summary: Summary) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    summary.unmatched = 1
    return np.array([0], dtype=np.int64)


def test_an_unknown_feed_is_wrong_usage(world: World) -> None:
    with pytest.raises(UsageError, match="feeds in this configuration: daily"):
        run(world.settings, "nightly", dry_run=False, meter=Meter())


def test_a_ledger_that_is_none_is_a_clear_error(world: World) -> None:
    world.put("a.csv", [("c1", "f", "", "")])
    world.state.mkdir(parents=True)
    (world.state / "ledger.db").write_bytes(b"not a database, but long enough to look at" * 50)
    with pytest.raises(StoreMisconfigured, match="ledger"):
        world.run()
