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
from pyarrow import parquet

from idsync import ids
from idsync.settings import MAX_TRAIT_DIGITS, DataSource, Feed
from idsync.store.base import EXPORT_SCHEMA
from reconcile import lines
from reconcile.conflicts import Policy
from reconcile.engine import queries, sql
from reconcile.engine.changes import ChangesEngine
from reconcile.engine.duckdb import DuckEngine, Outcome
from reconcile.errors import RunRefused
from reconcile.feed import OneOf, Plan, RuleItem, SignalItem, TraitsItem
from reconcile.feed import plan as plan_of
from reconcile.lines import Line, Signal, Trait
from reconcile.screen import doubtful_ids, is_clean
from tests.idsync.ids_of_all_kinds import any_id
from tests.reconcile.definitions import settled

ITEMS = (SignalItem(0, "tier"), TraitsItem(1, True), RuleItem(0, OneOf(("gold",)), 7, removes=True))
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


def plan(*, by_uuid: bool = True, every_device: bool = False, emit: bool = False, policy: Policy = "all") -> Plan:
    return Plan("id", ("tier", "traits"), ITEMS, by_uuid, by_uuid and every_device, emit, policy=policy)


def run(
    folder: Path, asked: Plan, records: Sequence[Record], mappings: Sequence[Mapping], *, changes: bool = False
) -> tuple[list[str], Outcome, list[str]]:
    """The lines, what became of the records, and the reasons of those rejected. `changes`: nothing was sent before."""
    with (ChangesEngine if changes else DuckEngine)(asked, folder, "500MB") as engine:
        columns = [pa.array(list(column), pa.string()) for column in zip(*records, strict=True)] or [
            pa.array([], pa.string())
        ] * 3
        seqs = pa.array(range(len(records)), pa.int64())
        engine.stage(iter([pa.RecordBatch.from_arrays([seqs, *columns], schema=engine.schema)]))
        if isinstance(engine, ChangesEngine):
            engine.load_sent(None, 0, oldest=0, marked=True)
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
    said: dict[str, list[lines.Item]] = defaultdict(list)
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
            said[user] += found
    return {user: settled(found, asked.policy) for user, found in said.items() if found}, matched, silent


uuids_ = [str(number).zfill(38) for number in range(3)]
customers = st.sampled_from(["a", "A", "07", "7", "é"])
uuids = st.sampled_from(uuids_)
records_ = st.lists(
    st.tuples(customers, st.sampled_from(["", "gold", "x,y"]), st.sampled_from(["", "24", "24,25", " 24 |7", "1;2"])),
    max_size=12,
)
mappings_ = st.lists(st.tuples(customers, uuids, st.integers(1, 4)), max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(
    records_,
    mappings_,
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["all", "last", "first"]),
    st.booleans(),
)
def test_lines_and_figures_are_those_of_the_definition(
    tmp_path: Path,
    records: list[Record],
    mappings: list[Mapping],
    by_uuid: bool,
    every_device: bool,
    emit: bool,
    policy: Policy,
    changes: bool,
) -> None:
    asked = plan(by_uuid=by_uuid, every_device=every_device, emit=emit and not by_uuid, policy=policy)
    texts, outcome, rejected = run(tmp_path, asked, records, mappings, changes=changes)
    said, matched, silent = expected(asked, records, mappings)
    got = [lines.parse(text) for text in texts]
    assert rejected == []
    assert sorted(line.user for line in got) == sorted(said)  # one line a user
    for line in got:
        content = [Trait(item.trait, item.remove) if isinstance(item, Trait) else item for item in line.items]
        assert list(dict.fromkeys(content)) == said[line.user]
        assert lines.render(Line(line.user, line.items)) in texts
    assert (outcome.records, outcome.matched) == (len(records), matched)
    assert changes or outcome.silent == silent
    assert sum(map(len, outcome.unmatched)) == len(records) - matched


@pytest.mark.parametrize(("query", "customers"), [("lines_of", "abc"), ("rows_of_several", "aaa")])
def test_a_join_that_loses_a_record_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str, customers: str
) -> None:
    whole = getattr(queries, query)
    monkeypatch.setattr(queries, query, lambda *arguments: f"FROM ({whole(*arguments)}) WHERE seq <> 1")
    with pytest.raises(RunRefused, match="returned 2 of 3 records"):
        run(tmp_path, plan(), [(customer, "gold", "") for customer in customers], [])


@pytest.mark.parametrize(("changes", "query", "second"), [(False, "rows_left_out", "b"), (True, "several", "a")])
def test_a_merge_that_loses_a_record_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, changes: bool, query: str, second: str
) -> None:
    whole = getattr(queries, query)
    monkeypatch.setattr(queries, query, lambda *arguments: f"FROM ({whole(*arguments)}) WHERE seq <> 1")
    records = [("a", "gold", ""), (second, "silver", "")]
    with pytest.raises(RunRefused, match="1 of 2 records were merged"):
        run(tmp_path, plan(), records, [("a", "7" * 38, 1), ("b", "7" * 38, 2)], changes=changes)


def test_a_path_is_no_pattern(tmp_path: Path) -> None:
    for name in ("a-z", "a*z"):
        parquet.write_table(pa.table({"name": [name]}), tmp_path / name)
    found = duckdb.execute(f"FROM {sql.reader('read_parquet', [str(tmp_path / 'a*z')])}").fetchall()
    assert found == [("a*z",)]


RULES = [
    ids.DEFAULT_RULES,
    ids.id_rules(12345, unchecked=["card", "phone"]),
    ids.id_rules(12345, national_ids=["us", "de"]),
    ids.id_rules(12345, "hashed-email"),
    *(ids.id_rules(dpid) for dpid in (20914, 20915, 389146)),
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(st.lists(any_id, min_size=1, max_size=8), st.sampled_from(RULES))
@example(["x" * 512, "x" * 513, "é" * 256, "é" * 257], ids.DEFAULT_RULES)
@example(["\n", " \n", "\r\n", "a\n", " "], ids.DEFAULT_RULES)
@example(["C0001", "john@example.com", "C0002"], ids.DEFAULT_RULES)
@example(["C0001", "C0002"], ids.id_rules(20914))
@example(["536904399"], ids.id_rules(12345, national_ids=["us"]))
def test_ids_are_judged_as_on_the_endpoint(tmp_path: Path, texts: list[str], rules: ids.IdRules) -> None:
    asked = Plan("id", (), (), True, False, False, rules)
    column = pa.array(texts, pa.string())
    suspects = [] if is_clean(column, rules, []) else [(0, len(texts) - 1)]
    with DuckEngine(asked, tmp_path, "500MB") as engine:
        engine.stage(iter([pa.RecordBatch.from_arrays([pa.array(range(len(texts))), column], schema=engine.schema)]))
        rejected = engine.take_faults(suspects)
        left = engine.count()
    reasons = [ids.customer_id_fault(text, rules) for text in texts]
    refused = [(seq, text, reason) for seq, (text, reason) in enumerate(zip(texts, reasons, strict=True)) if reason]
    assert [(reject.seq, reject.customer_id, reject.reason) for reject in rejected] == refused
    assert left == len(texts) - len(refused)


# What the screen tells by its bytes, and what nearly is that.
nearly_plain = st.from_regex(r"[A-Za-z][A-Za-z0-9._+/=-]{0,12}|[0-9]{1,20}|[Nn](ull|aN)?", fullmatch=True)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(any_id, min_size=1, max_size=8) | st.lists(nearly_plain | st.just(""), min_size=1, max_size=4),
    st.integers(0, 7),
    st.sampled_from(RULES),
)
@example(["null"], 0, ids.DEFAULT_RULES)
@example(["C1", "", "C2"], 0, ids.DEFAULT_RULES)
@example(["C1", ""], 0, ids.DEFAULT_RULES)
@example(["C1", "x" * 513], 0, ids.DEFAULT_RULES)
@example(["1", "4111111111111111"], 0, ids.DEFAULT_RULES)
@example(["1", "0", "2"], 0, ids.DEFAULT_RULES)
@example(["6f9619ff", "C1"], 0, ids.id_rules(20914))
def test_what_the_screen_does_not_doubt_breaks_no_rule(texts: list[str], skip: int, rules: ids.IdRules) -> None:
    """Of a slice, too: its buffers hold more than it shows."""
    doubtful = doubtful_ids(pa.array(texts, pa.string())[skip:], rules)
    assert len(doubtful) == len(texts[skip:])
    for text, doubted in zip(texts[skip:], doubtful, strict=True):
        assert doubted or ids.customer_id_fault(text, rules) is None


def test_a_feed_takes_the_id_rules_of_its_data_source() -> None:
    feed = Feed(name="f", data_source="s", inputs="x", id_column="id", destination="d")
    source = DataSource(name="s", dpid=20914, national_ids=("us",))
    assert plan_of(feed, source).id_rules is source.id_rules


def test_an_id_is_blamed_before_the_values_and_each_record_once(tmp_path: Path) -> None:
    records = [("a", "gold", "x"), ("null", '"', "x"), ("b", '"', ""), ("john@example.com", "", ""), ("c", "", "")]
    with DuckEngine(plan(), tmp_path, "500MB") as engine:
        columns = [pa.array(list(column)) for column in zip(*records, strict=True)]
        engine.stage(iter([pa.RecordBatch.from_arrays([pa.array(range(5)), *columns], schema=engine.schema)]))
        rejected = [(reject.seq, reject.reason) for reject in engine.take_faults([(0, 1), (2, 4)])]
        assert engine.count() == 1
    assert rejected == [(0, "trait-not-a-number"), (1, "id-sentinel"), (2, "value-unsendable"), (3, "id-email")]


any_text = any_id | st.text(st.characters(codec="utf-8"), max_size=12)
trait_text = st.sampled_from(["", "24", "24,25", "x", "1" * 18, "1" * 19, ",", " ", "\uff12\uff14"])


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(any_text, any_text, trait_text), min_size=1, max_size=4))
@example([("é", "x" * 60_000, "")])
@example([("a", "x" * 102_400, "")])
@example([("x" * 513, "", "")])
@example([("a", "", "1" * 19)])
@example([("a", "", "1/2")])
def test_what_the_screen_passes_breaks_no_rule(rows: list[tuple[str, str, str]]) -> None:
    asked = Plan("id", ("tier", "traits"), (SignalItem(0, "tier"), TraitsItem(1, True)), True, False, False)
    columns = [pa.array(list(column), pa.string()) for column in zip(*rows, strict=True)]
    query = f"SELECT {sql.value_fault(asked)} FROM (SELECT unnest(?) AS id, unnest(?) AS v0, unnest(?) AS v1)"
    reasons = [reason for (reason,) in duckdb.execute(query, [column.to_pylist() for column in columns]).fetchall()]
    if is_clean(columns[0], asked.id_rules, columns[1:2], columns[2:]):
        assert reasons == [None] * len(rows)
        assert [ids.customer_id_fault(row[0]) for row in rows] == [None] * len(rows)


def test_the_screen_passes_what_is_common() -> None:
    common = ["C-000_1", "Fred", "7", "00042", "123456789012", "6f9619ff-8b86-d011-b42d-00cf4fc964ff", "d41d8cd98f00"]
    assert is_clean(pa.array(common), ids.DEFAULT_RULES, [pa.array(["", "Köln, Altstadt", "a=b"])])
    assert is_clean(pa.array([], pa.string()), ids.DEFAULT_RULES, [])
    assert is_clean(pa.array(["6f9619ff-8b86-d011-b42d-00cf4fc964ff"]), ids.id_rules(20914), [])
    assert is_clean(pa.array(["4111111111111111"]), ids.id_rules(12345, unchecked=["card"]), [])


@pytest.mark.parametrize(
    ("text", "fine"),
    [("", True), ("24", True), ("24,25", True), (" 24 | 25 ", True), ("24;25", True)]
    + [(text, False) for text in ("x", "24,", ",24", "24,,25", "-1", "2.5", "1e5", "24 25", "1" * 19, "٢٤")],
)
def test_trait_columns_hold_lists_of_numbers(tmp_path: Path, text: str, fine: bool) -> None:
    _, outcome, rejected = run(tmp_path, plan(), [("a", "", text)], [])
    assert rejected == ([] if fine else ["trait-not-a-number"])
    assert outcome.records == int(fine)


@pytest.mark.parametrize(("lines_needed", "fits"), [(200, True), (201, False)])
def test_a_record_that_needs_too_many_lines_by_itself_is_rejected(
    tmp_path: Path, lines_needed: int, fits: bool
) -> None:
    first = 10 ** (MAX_TRAIT_DIGITS - 1)
    on_a_line = (lines.MAX_LINE_BYTES - ids.UUID_DIGITS - 1) // len(f"d_sid={first},")
    traits = ",".join(str(first + number) for number in range(on_a_line * (lines_needed - 1) + 1))
    texts, _, rejected = run(tmp_path, plan(), [("a", "gold", traits), ("b", "", "")], [("a", uuids_[0], 1)])
    assert rejected == ([] if fits else ["too-many-lines"])
    assert len(texts) == (lines_needed if fits else 0)


def test_column_names_never_become_sql(tmp_path: Path) -> None:
    nasty = "x' || (SELECT 1) || '"
    asked = Plan(
        "id", (nasty,), (SignalItem(0, nasty), RuleItem(0, OneOf(("it's",)), 7, removes=False)), True, False, False
    )
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
