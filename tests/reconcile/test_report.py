"""What a run tells: figures that agree, a page that shows them and nothing else, IDs that stay out of it."""

import json
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from idsync import feedruns
from idsync.errors import StoreUnavailable
from reconcile import aftermath, erasure, report
from reconcile.delivery.directory import DirectoryDelivery
from reconcile.errors import DestinationRefused, RunRefused, Undiagnosed
from reconcile.ledger import Ledger
from reconcile.report.figures import DAYS, TOP, compose, days
from reconcile.report.page import duration, page_of, share
from tests.idsync.status_samples import Reader
from tests.reconcile.reports import DAY, LENIENT, expected, folder_of, made_world, text, told
from tests.reconcile.samples import DPID, NOW, SIGNALS, World, uuid

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return made_world(tmp_path)


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
    for number, (error, problem) in enumerate(errors.items()):
        world.put("a.csv", [("USER-1", "f", "", ""), ("user-2", f"f{number}", "", "")])
        with monkeypatch.context() as patched:
            patched.setattr(aftermath, "diagnose", failing(error))
            summary = world.run()
        assert summary.status == "delivered"
        assert summary.why["problem"] == f"not looked into: {problem}"
        assert f"Not looked into: {problem}" in text(world)
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
