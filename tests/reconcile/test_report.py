"""What a run tells: figures that agree, a page that shows them and nothing else, IDs that stay out of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idsync import feedruns
from idsync.errors import ConfigError, StoreUnavailable
from reconcile import aftermath, erasure, rejects, report, retention
from reconcile.delivery.directory import DirectoryDelivery
from reconcile.errors import DestinationRefused, RunRefused, Undiagnosed
from reconcile.ledger import Ledger
from reconcile.report import prediction
from reconcile.report.figures import DAYS, TOP, compose, days, ids_in
from reconcile.report.page import NONE, duration, page_of, share
from reconcile.state import FeedState, RunFolder
from reconcile.summary import Summary
from tests.idsync.status_samples import Reader
from tests.reconcile.samples import DPID, NOW, SIGNALS, TEMPLATE, World, uuid

DAY = 86_400_000
HOSTILE = "<script>alert(1)</script>"
CLEAR = "\n[reconcile]\nmask_ids = false\n"
LENIENT = SIGNALS + "max_rejected = 1\n"


def folder_of(world: World) -> RunFolder:
    return FeedState(world.state, "daily").run(world.last.run)


def told(world: World) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(folder_of(world).report.read_text())
    return figures


def text(world: World) -> str:
    return Reader(folder_of(world).page.read_text()).text


def expected(summary: Summary) -> dict[str, tuple[float | None, float | None]]:
    return {row.term: (row.kept_back, row.reported) for row in prediction.expected(summary.as_dict())}


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path, LENIENT)
    world.sync(*((f"user-{number}", uuid(number)) for number in range(30)))
    return world


# --- the report of a run ---------------------------------------------------------------------------------------------


def test_the_report_has_the_figures_of_the_run(world: World) -> None:
    rows = [("user-1", "f", "gold", "24"), ("USER-2", "m", "", ""), ("user-3", "", "", ""), ("a:b", "f", "", "")]
    path = world.put("a.csv", [*rows, ("user-5", "f", "", "x")])
    summary = world.run()
    figures = told(world)
    for name in ("read", "matched", "unmatched", "rejected", "silent", "lines", "files", "reasons"):
        assert figures["summary"][name] == summary.as_dict()[name], name
    assert [(error["reason"], error["term"], error["records"]) for error in figures["errors"]] == [
        ("id-colon", "Format Errors", 1),
        ("trait-not-a-number", "Format Errors", 1),
    ]
    assert figures["errors"][0]["samples"] == [{"input": str(path), "line": 5, "customer_id": "•:•"}]
    assert expected(summary) == {
        "Records received": (5, 1),
        "Format Errors": (2, 0),
        "Invalid AAM ID": (0, 0),
        "Invalid Device ID": (0, 0),
        "No Matching AAM ID": (1, 0),
        "No Trait Realized": (1, None),
        "Stored Records": (1, 1),
        "Percent Success": (0.2, 1.0),
    }
    shown = text(world)
    for words in (
        "daily 2026-09-21 14:13:20 UTC delivered",
        "read 5 100.0% from 1 file",
        "matched 2 40.0% 1 line",
        "unmatched 1 20.0% held until their ID is synced",
        "rejected 2 40.0%",
        "1 of 1 unmatched record (100.0%) would match if upper and lower case were ignored",
        "A prediction, made before Audience Manager has seen the files",
        "id-colon: 1 record · Format Errors",
        f"{path}, line 5 •:•",
        summary.files[0]["sha256"],
        summary.files[0]["location"],
        f"all {summary.files[0]['bytes']:,} bytes lie there",
        "IDs are masked.",
    ):
        assert words in shown, words
    assert summary.report == str(folder_of(world).page)


def kept_back_adds_up(rows: list[prediction.Expected]) -> bool:
    received, *others, _ = (row.kept_back or 0 for row in rows)
    return received == sum(others)


KINDS = {
    "signals": LENIENT,
    "drop": LENIENT + 'unmatched = "drop"\n',
    "emit": LENIENT + 'user_id = "customer-id"\nunmatched = "emit"\n',
    "known traits": LENIENT + 'known_traits_file = "known.txt"\n',
    "changes": SIGNALS,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_record_received_is_kept_back_or_stored(tmp_path: Path, kind: str) -> None:
    world = World(tmp_path, KINDS[kind], changes={"max_rejected": 1.0} if kind == "changes" else None)
    (tmp_path / "known.txt").write_text("24\n")
    world.sync(*((f"user-{number}", uuid(number)) for number in range(9)))
    world.opt_out("gone")
    rows = [(f"user-{number}", "f", "", "24") for number in range(5)] + [("user-6", "", "", ""), ("late", "f", "", "")]
    rows += [("a@b.de", "f", "", ""), ("gone", "f", "", ""), ("null", "f", "", ""), ("a:b", "f", "", "")]
    for number in range(2):
        world.put(f"{number}.csv", [*rows, ("user-7", "f", "", f"{number}")])
        world.now += DAY
        summary = world.run()
        found = prediction.expected(summary.as_dict())
        assert kept_back_adds_up(found)
        (other,) = (row for row in found if row.term == "Kept back for other reasons")
        repeated = 5 if kind == "changes" and number else 0
        assert (other.kept_back, other.reported) == (3 + repeated, None)
        assert other.note.startswith("Audience Manager has no term for them: ")
        for words in ("id-email 1", "opted-out 1", "id-sentinel 1", *([f"unchanged {repeated}"] if repeated else [])):
            assert words in other.note
        assert "not joined" not in other.note
        assert f"Kept back for other reasons {3 + repeated} {NONE} Audience Manager has no term for them" in text(world)


def test_no_row_is_shown_for_other_reasons_where_there_are_none(world: World) -> None:
    world.put("a.csv", [("user-1", "f", "", ""), ("a:b", "f", "", ""), ("late", "f", "", "")])
    found = prediction.expected(world.run().as_dict())
    assert kept_back_adds_up(found)
    assert "Kept back for other reasons" not in {row.term for row in found}


def test_of_a_run_that_was_refused_all_records_are_accounted_for(tmp_path: Path) -> None:
    world = World(tmp_path, SIGNALS)
    world.sync(("c1", uuid(1)))
    world.put("a.csv", [("c1", "f", "", "")] * 3 + [("a@b.de", "f", "", ""), ("a:b", "f", "", "")])
    with pytest.raises(RunRefused):
        world.run()
    (row,) = Ledger(world.state / "ledger.db").history()
    found = prediction.expected(row)
    assert kept_back_adds_up(found)
    (note,) = (row.note for row in found if row.term == "Kept back for other reasons")
    assert note.endswith("them: id-email 1, not joined, as the run was given up before 3")


REASONS = st.dictionaries(st.sampled_from(sorted(rejects.EXPLANATIONS)), st.integers(1, 99))


@given(REASONS, *[st.integers(0, 99)] * 4, st.integers(0, 999), st.sampled_from(["hold", "drop", "emit"]))
def test_the_records_of_any_run_add_up(
    reasons: dict[str, int], said: int, silent: int, unchanged: int, unmatched: int, lines: int, policy: str
) -> None:
    rejected, matched = sum(reasons.values()), said + silent + unchanged
    counts = {"rejected": rejected, "matched": matched, "unmatched": unmatched, "silent": silent}
    summary = {"read": rejected + matched + unmatched, "reasons": reasons, "lines": lines, "unchanged": unchanged}
    found = prediction.expected({**summary, **counts, "unmatched_policy": policy})
    assert kept_back_adds_up(found)
    assert all((row.kept_back or 0) >= 0 for row in found)
    assert not any("not joined" in row.note for row in found)


def test_of_several_records_of_one_customer_the_newest_is_said_to_be_held(world: World) -> None:
    world.put("a.csv", [("late", "f", "", ""), ("late", "m", "", ""), ("later", "f", "", "")])
    summary = world.run()
    assert (summary.unmatched, summary.held) == (3, 2)
    assert "unmatched 3 100.0% the newest record of each customer is held until its ID is synced" in text(world)
    world.put("b.csv", [("late", "x", "", "")])
    summary = world.run()
    assert (summary.unmatched, summary.held, summary.superseded) == (2, 2, 1)
    assert "unmatched 2 100.0% held until their ID is synced" in text(world)


def test_steps_are_timed_and_counted(world: World) -> None:
    world.put("a.csv", [("user-1", "f", "", ""), ("nobody", "f", "", "")])
    summary = world.run()
    assert [(step["step"], step["count"]) for step in summary.steps] == [
        ("looking at inputs", 1),
        ("reading records", 2),
        ("reading mappings", 1),
        ("joining", 1),
        ("looking why records did not match", 1),
        ("delivering", 1),
    ]
    assert all(0 <= step["seconds"] < 60 for step in summary.steps)
    assert "joining 1 line" in text(world)
    assert "looking why records did not match 1 record" in text(world)


def test_what_is_small_is_not_said_to_be_nothing() -> None:
    assert [share(1, 5_000), share(0, 5_000), share(5, 5_000), share(0, 0)] == ["<0.1%", "0.0%", "0.1%", ""]
    assert [duration(0.0036), duration(0.9994), duration(1), duration(1234.56)] == [
        "4 ms",
        "999 ms",
        "1.0 s",
        "1,234.6 s",
    ]


def test_of_each_error_the_first_ten_are_shown_and_the_reasons_beyond_ten_summed_up(world: World) -> None:
    world.put("a.csv", [("a:b", "f", "", "")] * 25)
    world.run()
    (error,) = told(world)["errors"]
    assert (error["records"], len(error["samples"])) == (25, TOP)
    assert [sample["line"] for sample in error["samples"]] == list(range(2, 12))
    assert "The first 10 of 25" in text(world)
    figures = told(world) | {"errors": [error | {"reason": f"reason-{number}"} for number in range(13)]}
    page = page_of(figures)
    assert len(page.faults) == 10
    assert page.more_faults == "3 other reasons for 75 records."


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    keys = f"signals = ['{HOSTILE}']\nmax_rejected = 1\nunsendable = \"item\"\n"
    world = World(tmp_path, keys)
    world.sync((HOSTILE.lower(), uuid(1)))
    names = ("id", HOSTILE)
    world.put("<img src=x onerror=alert(1)>.csv", [(HOSTILE.upper(), "f"), ("x:<b>", "g"), ("y", '"')], names)
    world.run()
    found = Reader(folder_of(world).page.read_text())
    assert {name for name, _ in found.elements}.isdisjoint({"script", "img"})
    assert "<img src=x onerror=alert(1)>.csv, line 3" in found.text
    assert f"1 item of {HOSTILE} left out, value-unsendable" in found.text
    assert not [attributes for _, attributes in found.elements if any(key.startswith("on") for key in attributes)]
    policy = next(attributes for _, attributes in found.elements if "http-equiv" in attributes)
    assert str(policy["content"]).startswith("default-src 'none'")


def test_a_refused_run_has_a_report_too_and_one_that_failed_is_told_by_the_ledger(tmp_path: Path) -> None:
    world = World(tmp_path, SIGNALS)
    world.put("a.csv", [("a:b", "f", "", "")])
    with pytest.raises(RunRefused):
        world.run()
    (page,) = world.state.glob("runs/*/report.html")
    shown = Reader(page.read_text()).text
    assert "refused 100.00% of the records were rejected" in shown
    assert "id-colon: 1 record" in shown


def test_an_interrupted_run_is_reported_by_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put("a.csv", [("user-1", "f", "", ""), ("USER-2", "f", "", "")])

    def refuse(*_: object, **__: object) -> None:
        raise DestinationRefused("away")

    with monkeypatch.context() as patched:
        patched.setattr(DirectoryDelivery, "reach", refuse)
        with pytest.raises(DestinationRefused):
            world.run()
    (row,) = Ledger(world.state / "ledger.db").history()
    assert row["state"] == "frozen"
    assert list(world.state.glob("runs/*/why.json"))
    assert world.run().settled == [row["run"]]
    (row,) = Ledger(world.state / "ledger.db").history()
    assert [finding["rule"] for finding in row["why"]["findings"]] == ["case"]
    assert list(world.state.glob("runs/*/report.html"))
    assert not list(world.state.glob("runs/*/why.json"))


def test_what_a_killed_run_did_not_tell_goes_with_the_next(world: World) -> None:
    world.put("a.csv", [("user-1", "f", "", "")])
    world.run()
    folder = folder_of(world)
    folder.why.write_text("USER-2")
    world.run()
    assert not folder.why.exists()


# --- why records did not match ---------------------------------------------------------------------------------------


def test_dry_runs_look_into_it_as_well(world: World) -> None:
    world.put("a.csv", [("USER-1", "f", "", ""), (" user-2", "f", "", ""), ("nobody", "f", "", "")])
    before = world.traces()
    rehearsed = world.run(dry_run=True)
    assert world.traces() == before
    done = world.run()
    assert rehearsed.why == done.why
    assert {finding["rule"]: finding["records"] for finding in done.why["findings"]} == {"case": 1, "blanks": 1}
    assert (done.matched, done.unmatched, done.held) == (0, 3, 3)  # it never changes the join
    (row,) = Ledger(world.state / "ledger.db").history()
    assert row["why"] == done.why


def test_nothing_is_looked_into_where_all_matched_or_the_feed_says_no(tmp_path: Path) -> None:
    for name, more, customer in (("all", "", "c1"), ("off", "diagnose = false\n", "C1")):
        world = World(tmp_path / name, LENIENT + more)
        world.sync(("c1", uuid(1)))
        world.put("a.csv", [(customer, "f", "", "")])
        assert world.run().why == {}
        assert ("No record is unmatched." if name == "all" else "Not looked into.") in text(world)


@pytest.mark.parametrize("policy", ["hold", "drop", "emit"])
def test_every_record_counts_whatever_becomes_of_the_unmatched(tmp_path: Path, policy: str) -> None:
    world = World(tmp_path, f'{LENIENT}user_id = "customer-id"\nunmatched = "{policy}"\n')
    world.sync(("c1", uuid(1)))
    world.put("a.csv", [("C1", "f", "", "")] * 3 + [("nobody", "f", "", "")])
    summary = world.run()
    assert summary.why["unmatched"] == summary.unmatched == 4
    assert [finding["records"] for finding in summary.why["findings"]] == [3]
    kept, reported = expected(summary)["No Matching AAM ID"]
    assert (kept, reported) == ((0, 2) if policy == "emit" else (4, 0))


def test_of_very_many_a_sample_is_looked_at_and_the_figures_say_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aftermath, "SAMPLE_IDS", 100)
    world.sync(*((f"user-{number}", uuid(number)) for number in range(5000)))
    world.put("a.csv", [(f"USER-{number}" if number % 2 else f"x{number}", "f", "", "") for number in range(5000)])
    why = world.run().why
    assert why["unmatched"] == 5000
    assert why["sampled"]
    assert 100 <= why["ids"] < 500
    assert sum(finding["records"] for finding in why["findings"]) + why["unexplained"] == 5000
    assert any("extrapolated from a sample" in sentence for sentence in why["sentences"])


def test_what_goes_wrong_after_a_delivery_is_said_and_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(error: Exception) -> Callable[..., None]:
        def fail(*_: object, **__: object) -> None:
            raise error

        return fail

    errors = {
        StoreUnavailable("away"): "away",
        Undiagnosed("no room"): "no room",
        duckdb.ConversionException("Could not convert 'USER-1'"): "ConversionException",  # its text quotes a record
        OSError("disk"): "disk",
    }
    for number, (error, told) in enumerate(errors.items()):
        world.put("a.csv", [("USER-1", "f", "", ""), ("user-2", f"f{number}", "", "")])
        with monkeypatch.context() as patched:
            patched.setattr(aftermath, "diagnose", failing(error))
            summary = world.run()
        assert summary.status == "delivered"
        assert summary.why["problem"] == f"not looked into: {told}"
        assert f"Not looked into: {told}" in text(world)
    with monkeypatch.context() as patched:
        patched.setattr(report, "compose", failing(OSError("disk")))
        world.put("a.csv", [("user-2", "m", "", "")])
        assert world.run().status == "delivered"
    assert world.last.report == "could not be written: disk"


def test_who_matched_before_is_told_where_the_feed_remembers(tmp_path: Path) -> None:
    world = World(tmp_path, SIGNALS, changes={})
    world.sync(("c1", uuid(1)), ("c2", uuid(2)))
    world.put("a.csv", [("c1", "f", "", ""), ("c2", "f", "", "")])
    world.run()
    erased = erasure.parse([json.dumps({"dpid": DPID, "customer_id": "nobody"}).encode()])
    assert erasure.find(world.settings, erased).as_dict()["sent"]["users"] == 0
    (world.folder / "idsync.db").unlink()
    world.put("b.csv", [("c1", "m", "", "")])
    assert [finding["rule"] for finding in world.run().why["findings"]] == ["matched-before"]


# --- whose IDs may be in it ------------------------------------------------------------------------------------------


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


# --- No Trait Realized -----------------------------------------------------------------------------------------------


def test_lines_without_a_known_trait_are_counted(tmp_path: Path) -> None:
    feed = 'signals = ["gender"]\ntrait_columns = ["traits"]\nmax_rejected = 1\nknown_traits_file = "known.txt"\n'
    world = World(tmp_path, feed)
    (tmp_path / "known.txt").write_text("# onboarded\n24\n\nic=gold\n026\n")
    world.sync(*((f"c{number}", uuid(number)) for number in range(9)))
    rows = [
        ("c0", "", "", "24"),
        ("c1", "", "", "99"),  # unknown alone
        ("c2", "", "", "99,24"),  # one of each
        ("c3", "f", "", "99"),  # a signal may lead to any trait
        ("c4", "d_sid=98,d_sid=24", "", ""),  # a signal's value is no item
        ("c5", "", "", "ic=gold"),
        ("c6", "", "", "ic=tin"),
        ("c7", "", "", "24:0"),  # a removal realizes nothing
        ("c8", "", "", "26"),
    ]
    world.put("a.csv", rows)
    rehearsed = world.run(dry_run=True)
    summary = world.run()
    assert rehearsed.traits == summary.traits
    assert summary.traits == {
        "known": 3,
        "lines": 9,
        "unrealized": 3,
        "failing": 4,
        "unknown_traits": 2,
        "unknown": [{"trait": "99", "lines": 3}, {"trait": "ic=tin", "lines": 1}],
    }
    assert expected(summary)["No Trait Realized"] == (0, 3)
    assert expected(summary)["Stored Records"] == (9, 6)
    assert "Traits that are sent and are not on the list: 2" in text(world)
    assert "99 3" in text(world)


@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"24\nx24\n", "line 2"), (b"", "names no trait"), (b"\xff\xfe", "not UTF-8"), (None, "No such file")],
)
def test_a_list_of_traits_that_is_none_stops_the_run(tmp_path: Path, content: bytes | None, fault: str) -> None:
    world = World(tmp_path, SIGNALS + 'known_traits_file = "known.txt"\n')
    if content is not None:
        (tmp_path / "known.txt").write_bytes(content)
    world.put("a.csv", [("c1", "f", "", "")])
    with pytest.raises(ConfigError, match=fault):
        world.run()
    assert not list(world.state.glob("runs/*"))


# --- the days --------------------------------------------------------------------------------------------------------


def test_the_chart_has_a_bar_for_each_day_with_a_delivery(world: World) -> None:
    for day, count in ((0, 2), (0, 3), (2, 5)):
        world.now = NOW + day * DAY
        world.put("a.csv", [(f"user-{number}", f"f{day}", "", "") for number in range(count)])
        world.run()
    figures = told(world)
    assert [(day["day"], day["runs"], day["matched"]) for day in figures["days"]] == [
        ("2026-09-21", 2, 5),
        ("2026-09-22", 0, 0),
        ("2026-09-23", 1, 5),
    ]
    chart = page_of(figures).chart
    assert chart is not None
    assert [bar.x for bar in chart.bars] == [0, 2]
    assert "2026-09-21 to 2026-09-23: 10 matched, 0 unmatched, 0 rejected" in chart.alternative


def test_days_go_back_a_month_and_count_what_was_delivered() -> None:
    rows = [
        {"state": "delivered", "planned_at": NOW - back * DAY, "read": 1, "matched": 1, "lines": 1}
        for back in range(40)
    ]
    rows += [{"state": "refused", "planned_at": NOW, "read": 7}, {"state": "failed"}]
    found = days(rows, NOW)
    assert len(found) == DAYS
    assert sum(day["read"] for day in found) == DAYS
    assert days([], NOW) == []


def test_a_summary_of_an_earlier_version_can_be_shown() -> None:
    """As the ledger may have it: without what came later."""
    summary = {"run": "1-daily", "feed": "daily", "status": "delivered", "read": 2, "matched": 2, "problem": ""}
    page = page_of(compose(summary, None, [], made_at=NOW, hidden=None))
    assert page.glance[0].value == "2"
    page = page_of(compose({"run": "1-daily", "feed": "daily", "status": "failed"}, None, [], made_at=NOW, hidden=None))
    assert page.status == "failed"


# --- for the endpoint ------------------------------------------------------------------------------------------------


def test_the_status_page_is_told_of_every_end(tmp_path: Path) -> None:
    world = World(tmp_path, SIGNALS)
    world.sync(("c1", uuid(1)))
    world.put("a.csv", [("c1", "f", "", ""), ("late", "f", "", "")])
    first = world.run()
    (run,) = feedruns.read(world.state).runs
    assert (run.feed, run.run, run.status, run.planned_at) == ("daily", first.run, "delivered", NOW)
    assert (run.read, run.matched, run.unmatched, run.held, run.lines) == (2, 1, 1, 1, 1)
    world.now += 1000
    world.put("b.csv", [("a:b", "f", "", "")])
    with pytest.raises(RunRefused):
        world.run()
    told_of = feedruns.read(world.state)
    assert [run.status for run in told_of.runs] == ["refused", "delivered"]
    assert not told_of.problem
    world.inbox.joinpath("b.csv").unlink()
    (world.state / feedruns.FILE).unlink()
    assert world.run().status == "nothing-to-do"
    assert len(feedruns.read(world.state).runs) == 2


def test_a_status_file_that_cannot_be_written_costs_no_run(world: World) -> None:
    world.put("a.csv", [("user-1", "f", "", "")])
    (world.state / feedruns.FILE).mkdir(parents=True)
    assert world.run().status == "delivered"
