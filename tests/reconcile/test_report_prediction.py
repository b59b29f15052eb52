"""A run in Audience Manager's words: every record has a term, or is said to have none."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idsync.errors import ConfigError
from reconcile import rejects
from reconcile.errors import RunRefused
from reconcile.ledger import Ledger
from reconcile.report import prediction
from reconcile.report.page import NONE
from tests.reconcile.reports import DAY, LENIENT, expected, made_world, text
from tests.reconcile.samples import SIGNALS, World, uuid


@pytest.fixture
def world(tmp_path: Path) -> World:
    return made_world(tmp_path)


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
