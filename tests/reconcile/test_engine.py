"""The engine against a plain definition: the same lines, the same figures, for any records and mappings."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from idsync import ids
from idsync.store.base import EXPORT_SCHEMA
from reconcile import lines
from reconcile.engine import sql
from reconcile.engine.duckdb import DuckEngine, Outcome
from reconcile.errors import RunRefused
from reconcile.feed import Plan, RuleItem, SignalItem, TraitsItem
from reconcile.lines import Line, Signal, Trait
from reconcile.screen import is_clean

ITEMS = (SignalItem(0), TraitsItem(1), RuleItem(0, "gold", 7, removes=True))
Record = tuple[str, str, str]
Mapping = tuple[str, str, int]


class Kept:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.text = b""
        self.count = 0

    def write(self, text: memoryview, count: int) -> None:
        self.text += bytes(text)
        self.count += count


def plan(*, by_uuid: bool = True, every_device: bool = False, emit: bool = False) -> Plan:
    return Plan("id", ("tier", "traits"), ITEMS, by_uuid, by_uuid and every_device, emit)


def run(
    folder: Path, asked: Plan, records: Sequence[Record], mappings: Sequence[Mapping]
) -> tuple[list[str], Outcome, list[str]]:
    """The lines, what became of the records, and the reasons of those rejected."""
    with DuckEngine(asked, folder, "500MB") as engine:
        columns = [pa.array(list(column), pa.string()) for column in zip(*records, strict=True)] or [
            pa.array([], pa.string())
        ] * 3
        seqs = pa.array(range(len(records)), pa.int64())
        engine.stage(iter([pa.RecordBatch.from_arrays([seqs, *columns], schema=engine.schema)]))
        rejected = engine.take_faults([(0, len(records))])
        engine.load_mappings(_exported(mappings, latest_only=not asked.every_device))
        sink = Kept()
        outcome = engine.render(sink)
    text = sink.text.decode()
    assert sink.count == outcome.lines == text.count("\n")
    return text.splitlines(keepends=True), outcome, [reject.reason for reject in rejected]


def _exported(mappings: Sequence[Mapping], *, latest_only: bool) -> Iterator[pa.RecordBatch]:
    rows = []
    for customer, devices in _devices(mappings).items():
        rows += [(customer, uuid, seen) for uuid, seen in (devices[:1] if latest_only else devices)]
    for row in rows:
        yield pa.RecordBatch.from_arrays([pa.array([value]) for value in row], schema=EXPORT_SCHEMA)


def _devices(mappings: Sequence[Mapping]) -> dict[str, list[tuple[str, int]]]:
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for customer, uuid, seen in mappings:
        found[customer][uuid] = max(seen, found[customer].get(uuid, 0))
    return {
        customer: sorted(devices.items(), key=lambda device: (device[1], device[0]), reverse=True)
        for customer, devices in found.items()
    }


def expected(
    asked: Plan, records: Sequence[Record], mappings: Sequence[Mapping]
) -> tuple[dict[str, list[lines.Item]], int, int]:
    """The items of each user in order, each once; how many records match; how many have nothing to send."""
    devices = _devices(mappings)
    said: dict[str, dict[lines.Item, None]] = defaultdict(dict)
    matched = silent = 0
    for customer, tier, traits in records:
        known = [uuid for uuid, _ in devices.get(customer, [])]
        matched += bool(known)
        found: list[lines.Item] = [Signal("tier", tier)] if tier else []
        found += [Trait(int(trait)) for trait in re.split(r"[,|;]", traits) if trait.strip()]
        found.append(Trait(7, remove=tier != "gold"))
        users = (
            (known if asked.every_device else known[:1])
            if asked.by_uuid
            else [customer] * bool(known or asked.emit_unmatched)
        )
        silent += not found and bool(users)
        for user in users:
            said[user] |= dict.fromkeys(found)
    return {user: list(found) for user, found in said.items() if found}, matched, silent


customers = st.sampled_from(["a", "A", "07", "7", "é"])
uuids = st.sampled_from([str(number).zfill(38) for number in range(3)])
records_ = st.lists(
    st.tuples(customers, st.sampled_from(["", "gold", "x,y"]), st.sampled_from(["", "24", "24,25", " 24 |7", "1;2"])),
    max_size=12,
)
mappings_ = st.lists(st.tuples(customers, uuids, st.integers(1, 4)), max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(records_, mappings_, st.booleans(), st.booleans(), st.booleans())
def test_lines_and_figures_are_those_of_the_definition(
    tmp_path: Path, records: list[Record], mappings: list[Mapping], by_uuid: bool, every_device: bool, emit: bool
) -> None:
    asked = plan(by_uuid=by_uuid, every_device=every_device, emit=emit and not by_uuid)
    texts, outcome, rejected = run(tmp_path, asked, records, mappings)
    said, matched, silent = expected(asked, records, mappings)
    got = [lines.parse(text) for text in texts]
    assert rejected == []
    assert sorted(line.user for line in got) == sorted(said)  # one line a user
    for line in got:
        content = [Trait(item.trait, item.remove) if isinstance(item, Trait) else item for item in line.items]
        assert list(dict.fromkeys(content)) == said[line.user]
        assert lines.render(Line(line.user, line.items)) in texts
    assert (outcome.records, outcome.matched, outcome.silent) == (len(records), matched, silent)
    assert sum(map(len, outcome.unmatched)) == len(records) - matched


def test_a_join_that_loses_a_record_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sql.lines_of
    monkeypatch.setattr(sql, "lines_of", lambda *arguments, **options: f"{whole(*arguments, **options)} WHERE seq <> 1")
    with pytest.raises(RunRefused, match="returned 2 of 3 records"):
        run(tmp_path, plan(), [("a", "gold", "")] * 3, [])


any_text = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["", " ", "  ", "a:b", "%3a", "%3A", "%3", "\x85", "\x0b"]
)


@settings(deadline=None, max_examples=300)
@given(st.lists(any_text, min_size=1, max_size=8))
@example(["x" * 512, "x" * 513, "é" * 256, "é" * 257])
@example(["\n", " \n", "\r\n", "a\n", " "])
def test_ids_are_judged_alike_on_the_endpoint_and_in_the_engine(texts: list[str]) -> None:
    query = f"SELECT {sql.fault(Plan('id', (), (), True, False, False))} FROM (SELECT unnest(?) AS id)"
    assert [reason for (reason,) in duckdb.execute(query, [texts]).fetchall()] == [
        ids.customer_id_fault(text) for text in texts
    ]


trait_text = st.sampled_from(["", "24", "24,25", "x", "1" * 18, "1" * 19, ",", " ", "\uff12\uff14"])


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(any_text, any_text, trait_text), min_size=1, max_size=4))
@example([("é", "x" * 60_000, "")])
@example([("a", "x" * 102_400, "")])
@example([("x" * 513, "", "")])
@example([("a", "", "1" * 19)])
@example([("a", "", "1/2")])
def test_what_the_screen_passes_breaks_no_rule(rows: list[tuple[str, str, str]]) -> None:
    asked = Plan("id", ("tier", "traits"), (SignalItem(0), TraitsItem(1)), True, False, False)
    columns = [pa.array(list(column), pa.string()) for column in zip(*rows, strict=True)]
    query = f"SELECT {sql.fault(asked)} FROM (SELECT unnest(?) AS id, unnest(?) AS v0, unnest(?) AS v1)"
    reasons = [reason for (reason,) in duckdb.execute(query, [column.to_pylist() for column in columns]).fetchall()]
    if is_clean(columns[0], columns[1:2], columns[2:]):
        assert reasons == [None] * len(rows)


def test_the_screen_passes_what_is_common() -> None:
    assert is_clean(pa.array(["C-000_1", "User", "7", "Ж"]), [pa.array(["", "Köln, Altstadt", "a=b"])])
    assert is_clean(pa.array([], pa.string()), [])


@pytest.mark.parametrize(
    ("text", "fine"),
    [("", True), ("24", True), ("24,25", True), (" 24 | 25 ", True), ("24;25", True)]
    + [(text, False) for text in ("x", "24,", ",24", "24,,25", "-1", "2.5", "1e5", "24 25", "1" * 19, "٢٤")],
)
def test_trait_columns_hold_lists_of_numbers(tmp_path: Path, text: str, fine: bool) -> None:
    _, outcome, rejected = run(tmp_path, plan(), [("a", "", text)], [])
    assert rejected == ([] if fine else ["trait-not-a-number"])
    assert outcome.records == int(fine)


def test_column_names_never_become_sql(tmp_path: Path) -> None:
    nasty = "x' || (SELECT 1) || '"
    asked = Plan("id", (nasty,), (SignalItem(0), RuleItem(0, "it's", 7, removes=False)), True, False, False)
    with DuckEngine(asked, tmp_path, "500MB") as engine:
        engine.stage(
            iter(
                [pa.RecordBatch.from_arrays([pa.array([0]), pa.array(["a"]), pa.array(["it's"])], schema=engine.schema)]
            )
        )
        engine.load_mappings(_exported([("a", "1" * 38, 1)], latest_only=True))
        sink = Kept()
        engine.render(sink)
    assert sink.text.decode() == f'{"1" * 38}\t"{nasty}"="it\'s",d_sid=7\n'
