"""What a feed's records become: rules, signals and their keys, constants, lists of traits, items that can't be sent."""

import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from idsync.errors import ConfigError
from idsync.settings import DataSource, Feed, TraitRule
from idsync.store.base import EXPORT_SCHEMA
from reconcile import lines
from reconcile.conflicts import Policy
from reconcile.engine.changes import ChangesEngine
from reconcile.engine.duckdb import DuckEngine
from reconcile.feed import plan
from reconcile.lines import Item, Signal, Trait, TraitCode
from tests.reconcile.definitions import settled
from tests.reconcile.samples import NOW, World, figures, uuid
from tests.reconcile.test_engine import Kept

SOURCE = DataSource(name="s", dpid=12345)
Record = tuple[str, str, str]  # customer, tier, traits
DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)", re.ASCII)


def feed(**options: Any) -> Feed:
    needed = {"name": "f", "data_source": "s", "inputs": "x", "id_column": "id", "destination": "d"}
    return Feed.model_validate(needed | options)


def rendered(folder: Path, asked: Feed, records: Sequence[Record]) -> tuple[dict[str, list[Item]], list[int], int]:
    """The items of each user, the numbers of the records rejected, and how many were silent. Customers are known."""
    kind = ChangesEngine if asked.changes_only else DuckEngine
    wanted = plan(asked, SOURCE)
    with kind(wanted, folder, "500MB") as engine:
        columns = {"id": 0, "tier": 1, "traits": 2}
        values = [[record[columns[name]] for record in records] for name in ("id", *wanted.columns)]
        arrays = [pa.array(range(len(records)), pa.int64()), *(pa.array(column, pa.string()) for column in values)]
        engine.stage(iter([pa.RecordBatch.from_arrays(arrays, schema=engine.schema)]))
        if isinstance(engine, ChangesEngine):
            engine.load_sent(None, NOW, oldest=0, marked=True)
        rejected = [reject.seq for reject in engine.take_faults([(0, len(records))])]
        known = sorted({record[0] for record in records})
        mapped = [pa.array(known), pa.array([uuid(ord(name)) for name in known]), pa.array([1] * len(known))]
        exported = [array.cast(field.type) for array, field in zip(mapped, EXPORT_SCHEMA, strict=True)]
        engine.load_mappings(iter([pa.RecordBatch.from_arrays(exported, schema=EXPORT_SCHEMA)]))
        sink = Kept()
        outcome = engine.render(sink)
    said = [lines.parse(text) for text in sink.text.decode().splitlines()]
    assert len({line.user for line in said}) == len(said)
    return {line.user: list(line.items) for line in said}, rejected, outcome.silent


def adds(rule: TraitRule, value: str) -> bool:
    """A rule by its definition."""
    if rule.range is not None:
        if not DECIMAL.fullmatch(value):
            return False
        number = Decimal(value)
        return (rule.range.min is None or number >= rule.range.min) and (
            rule.range.max is None or number <= rule.range.max
        )
    if rule.regex is not None:
        return re.fullmatch(rule.regex, value, re.ASCII) is not None
    if rule.present is not None:
        return bool(value.strip(" \t\n\v\f\r")) == rule.present
    return value == rule.equals if rule.one_of is None else value in rule.one_of


def trait(of: int | str) -> Item:
    return Trait(of) if isinstance(of, int) else TraitCode(of)


def said(asked: Feed, record: Record) -> list[Item] | None:
    """The items of a record by the definition, or None if it is rejected."""
    values = dict(zip(("id", "tier", "traits"), record, strict=True))
    faults, items = _of_columns(asked, values)
    if faults and asked.unsendable == "record":
        return None
    for rule in asked.rules:
        if adds(rule, values[rule.column]):
            items.append(trait(rule.adds))
        elif rule.otherwise == "remove" and removes(asked):
            items.append(Trait(rule.trait or 0, remove=True))
    items += map(trait, asked.constant_traits)
    if sent(asked, items) or asked.empty_overwrite:
        items += [Signal(key, value) for key, value in asked.constants.items()]
    return items


def removes(asked: Feed) -> bool:
    """In an overwrite file a removal is never written, but may contradict what was said before it, or is after."""
    return asked.mode == "sync" or asked.conflicts != "all"


def sent(asked: Feed, items: list[Item]) -> list[Item]:
    return [item for item in items if asked.mode == "sync" or not (isinstance(item, Trait) and item.remove)]


def _of_columns(asked: Feed, values: dict[str, str]) -> tuple[int, list[Item]]:
    """How many items can't be sent, and those that can."""
    faults, items = 0, list[Item]()
    for column in asked.signals:
        value = values[column]
        if re.search(lines.UNSENDABLE, value) or len(value) > lines.MAX_LINE_BYTES - 100:
            faults += 1
        elif value:
            items.append(Signal(asked.signal_keys.get(column, column), value))
    for column in asked.trait_columns:
        for entry in re.split("[,|;]", values[column]) if values[column] else []:
            match = re.fullmatch(r" *(?:([0-9]{1,18})(:0|:-1)?|ic=([!-~]+)) *", entry, re.ASCII)
            if not match:
                faults += 1
            elif match[3]:
                items.append(TraitCode(match[3]))
            elif not match[2] or removes(asked):
                items.append(Trait(int(match[1]), remove=bool(match[2])))
    return faults, items


# fmt: off
TESTS: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"equals": "gold"}, ["gold"], ["Gold", "gold ", ""]),
    ({"equals": ""}, [""], [" ", "x"]),
    ({"in": ["gold", "it's"]}, ["gold", "it's"], ["silver", "", "gold,it's"]),
    ({"range": {"min": 0.1, "max": 10}}, ["0.1", "0.10", "+1", ".5", "5.", "10", "10.000", "00010"],
     ["0.09999999999999999999999999999", "10.0000000000000000000000000000000000000000001", "-1", "-0.1", "", " 1", "1 ",
      "1e0", "1,5", "x", ".", "-", "+", "--1", "0x1", "NaN", "inf", "1\n", "\u0661", "1" * 60]),
    ({"range": {"min": -2, "max": -0.5}}, ["-2", "-0.5", "-1.99", "-02.0"], ["-2.01", "-0.49", "0", "-0", "1", "-20"]),
    ({"range": {"min": -2}}, ["-2", "0", "-0", "7" * 50, "-1.5"], ["-2.1", "-3", "-10", "x"]),
    ({"range": {"max": 0}}, ["0", "-0", "-0.0", "-7", "+0", ".0"], ["0.1", "1", "00.01"]),
    ({"range": {"min": 0}}, ["0", "-0", "-0.00", "5"], ["-0.01", "-1"]),
    ({"range": {"min": "90071992547409931234567890.1"}}, ["90071992547409931234567890.1", "1" * 27],
     ["90071992547409931234567890.09", "90071992547409931234567890"]),
    ({"regex": "g(old|reen)"}, ["gold", "green"], ["gold ", "agold", "", "GOLD"]),
    ({"regex": "(?i)it's|[0-9]{3}"}, ["IT'S", "007"], ["0077", "x"]),
    ({"regex": "a|b"}, ["a", "b"], ["ab", "ax", "xb"]),
    ({"present": True}, ["x", " x ", "0", "\u00a0"], ["", " ", "\t", " \v\f\r\n"]),
    ({"present": False}, ["", " ", "\t "], ["x", "-"]),
]
# fmt: on


@pytest.mark.parametrize(("test", "passing", "failing"), TESTS, ids=[str(test[0]) for test in TESTS])
def test_each_test_of_a_rule(tmp_path: Path, test: dict[str, Any], passing: list[str], failing: list[str]) -> None:
    rule = {"column": "tier", "trait": 7, "otherwise": "remove"} | test
    records = [(chr(0x4E00 + index), value, "") for index, value in enumerate(passing + failing)]
    users, _, _ = rendered(tmp_path, feed(rules=[rule]), records)
    added = [value for name, value, _ in records if users[uuid(ord(name))] == [Trait(7)]]
    removed = [value for name, value, _ in records if users[uuid(ord(name))] == [Trait(7, remove=True)]]
    assert (added, removed) == (passing, failing)


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        ({"trait": 1}, "exactly one of"),
        ({"trait": 1, "equals": "a", "present": True}, "exactly one of"),
        ({"equals": "a"}, "either trait or ic"),
        ({"equals": "a", "trait": 1, "ic": "x"}, "either trait or ic"),
        ({"equals": "a", "ic": "x", "otherwise": "remove"}, "no removal by integration code"),
        ({"equals": "a", "ic": "a b"}, "pattern"),
        ({"in": [], "trait": 1}, "at least 1"),
        ({"range": {}, "trait": 1}, "give min, max or both"),
        ({"range": {"min": 2, "max": 1}, "trait": 1}, "min is more than max"),
        ({"range": {"min": "1e5"}, "trait": 1}, "must be a number"),
        ({"range": {"min": True}, "trait": 1}, "must be a number"),
        ({"range": {"min": 0.12345678901234567}, "trait": 1}, "write it in quotes"),
        ({"range": {"min": float("inf")}, "trait": 1}, "finite"),
        ({"regex": "a(", "trait": 1}, "not a pattern of RE2"),
        ({"regex": "(?=a)", "trait": 1}, "not a pattern of RE2"),
    ],
)
def test_a_rule_that_says_nothing_clear_is_refused(rule: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        feed(rules=[{"column": "tier"} | rule])


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ('signals = ["tier"]\nsignal_keys = { teir = "loyalty" }', "not in signals: teir"),
        ('signals = ["tier"]\nsignal_keys = { tier = "a\\"b" }', "signal_keys.tier"),
        ('signals = ["tier"]\nconstants = { source = "" }', "constants.source"),
        ('signals = ["tier"]\nconstant_traits = ["24"]', "must be a trait ID"),
        ('constants = { source = "crm" }', "sends nothing"),
        ('signals = ["tier"]\nempty_overwrite = true\nconstants = { a = "b" }', 'needs mode = "overwrite"'),
        ('signals = ["tier"]\nempty_overwrite = true\nmode = "overwrite"', "needs constants"),
        ('rules = [{ column = "tier", regex = "(", trait = 1 }]', "not a pattern of RE2"),
    ],
)
def test_faults_of_a_feed_are_told_with_their_key(tmp_path: Path, options: str, fault: str) -> None:
    with pytest.raises(ConfigError) as raised:
        _ = World(tmp_path, options).settings
    assert fault in str(raised.value)


rules_ = st.one_of(
    st.fixed_dictionaries(
        {"column": st.sampled_from(["tier", "traits"]), "trait": st.sampled_from([7, 24])},
        optional={"otherwise": st.sampled_from(["nothing", "remove"])},
    ),
    st.fixed_dictionaries({"column": st.just("tier"), "ic": st.sampled_from(["it's", "x"])}),
).flatmap(lambda rule: st.sampled_from([{**rule, **test} for test, *_ in TESTS]))
feeds = st.fixed_dictionaries(
    {
        "signals": st.sampled_from([[], ["tier"], ["tier", "traits"]]),
        "trait_columns": st.sampled_from([[], ["traits"]]),
        "rules": st.lists(rules_, max_size=3),
        "constants": st.sampled_from([{}, {"source": "it's, crm"}, {"LOYALTY, tier": "x", "b": "1", "B": "2"}]),
        "constant_traits": st.sampled_from([[], [9], [9, "ic=x"]]),
        "unsendable": st.sampled_from(["record", "item"]),
    }
)
MODES: list[dict[str, Any]] = [{}, {"user_id": "customer-id"}, {"mode": "overwrite"}, {"changes_only": True}]
modes = st.sampled_from([mode | {"conflicts": policy} for mode in MODES for policy in ("all", "last", "first")])
numbers = st.from_regex(DECIMAL, fullmatch=True) | st.sampled_from(
    [text for _, good, bad in TESTS for text in good + bad]
)
LONG = "<long>"  # stands for more than fits a line: Hypothesis can't show a failure with such a text in it
tiers = numbers | st.sampled_from(["", 'a"b', LONG, "gold"])
entries = st.sampled_from(
    ["24", " 25 ", "24:0", "26:-1 ", "ic=it's", "ic=x", "x", "", "24 25", "ic=", "24:1", "1" * 19]
)
lists = st.lists(entries, max_size=4).flatmap(lambda found: st.sampled_from([sign.join(found) for sign in ",|;"]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(feeds, modes, st.booleans(), st.lists(st.tuples(st.sampled_from("abc"), tiers, lists), max_size=6))
@example({"trait_columns": ["traits"]}, {"changes_only": True}, False, [("a", "", "24:0,ic=x,25"), ("a", "", "24")])
@example({"signals": ["tier"], "constants": {"k": "v"}}, {"mode": "overwrite"}, True, [("a", "", "")] * 2)
@example(
    {"rules": [{"column": "tier", "trait": 7, "otherwise": "remove", "equals": "gold"}], "constants": {"k": "v"}},
    {"mode": "overwrite", "conflicts": "last"},
    False,
    [("a", "gold", ""), ("a", "silver", ""), ("b", "silver", ""), ("c", "silver", ""), ("c", "gold", "")],
)
@example(
    {"trait_columns": ["traits"], "rules": [{"column": "tier", "trait": 24, "otherwise": "remove", "equals": "gold"}]},
    {"changes_only": True},
    False,
    [("a", "Gold", "24")],
)
def test_lines_say_what_the_definition_says(
    tmp_path: Path, options: dict[str, Any], mode: dict[str, Any], empty: bool, records: list[Record]
) -> None:
    if not any(options.get(key) for key in ("signals", "trait_columns", "rules", "constant_traits")):
        options = options | {"signals": ["tier"]}
    if options.get("signals"):
        other = {"traits": "Loyalty, tier"} if "traits" in options["signals"] else {}
        options = options | {"signal_keys": {"tier": "loyalty, tier"} | other}
    if mode.get("mode") == "overwrite" and options.get("constants"):
        mode = mode | {"empty_overwrite": empty}
    asked = feed(**options, **mode)
    records = [(name, tier.replace(LONG, "x" * 102_400), traits) for name, tier, traits in records]
    found, rejected, silent = rendered(tmp_path, asked, records)
    by_definition = [said(asked, record) for record in records]
    users: dict[str, list[Item]] = {}
    for (name, _, _), items in zip(records, by_definition, strict=True):
        users.setdefault(name if asked.user_id == "customer-id" else uuid(ord(name)), []).extend(items or ())
    expected = {user: sent(asked, settled(said, asked.conflicts)) for user, said in users.items()}
    assert {user: list(dict.fromkeys(items)) for user, items in found.items()} == {
        user: items for user, items in expected.items() if items
    }
    assert rejected == [seq for seq, items in enumerate(by_definition) if items is None]
    if not asked.changes_only:
        assert silent == sum(items is not None and not sent(asked, items) for items in by_definition)


@pytest.mark.parametrize("policy", ["all", "first"])
@pytest.mark.parametrize(
    ("tier", "traits", "items"),
    [
        ("gold", "24 | 26", "d_sid=24,d_sid=26,ic=a.b"),
        ("gold", "124,240,24:0", "d_sid=124,d_sid=240,d_unsid=24,d_sid=24,d_sid=26,ic=a.b"),
        ("gold", "", "d_sid=24,d_sid=26,ic=a.b"),
        ("", "26;ic=a.b;24", "d_sid=26,ic=a.b,d_sid=24"),
        ("", "ic=axb", "ic=axb,ic=a.b,d_sid=26"),
    ],
)
def test_a_trait_for_several_reasons_is_said_once(
    tmp_path: Path, policy: Policy, tier: str, traits: str, items: str
) -> None:
    rules: list[dict[str, Any]] = [
        {"column": "tier", "equals": "gold", "trait": 24},
        {"column": "tier", "present": True, "trait": 24},
        {"column": "tier", "regex": "g.*", "trait": 26},
        {"column": "traits", "present": True, "ic": "a.b"},
    ]
    asked = feed(trait_columns=["traits"], rules=rules, constant_traits=[26, "ic=a.b"], conflicts=policy)
    found, _, _ = rendered(tmp_path, asked, [("a", tier, traits)])
    said = list(lines.parse(f"user\t{items}").items)
    assert found[uuid(ord("a"))] == (settled(said, policy) if ":" in traits else said)


def test_items_left_out_are_counted_and_their_records_named(tmp_path: Path) -> None:
    world = World(tmp_path, 'signals = ["gender", "tier"]\ntrait_columns = ["traits"]\nunsendable = "item"\n')
    world.sync(("a", uuid(1)), ("b", uuid(2)))
    world.put("1.csv", [("a", "f", 'x"y', "24,no,26,"), ("b", "m", 'x"y', "24"), ("c", "f", "", "")])
    summary = world.run()
    assert figures(summary, "read", "matched", "unmatched", "rejected") == (3, 2, 1, 0)
    place = str(world.inbox / "1.csv")
    assert summary.items_left_out == [
        {
            "column": "tier",
            "reason": "value-unsendable",
            "items": 2,
            "samples": [f"{place}, line 2", f"{place}, line 3"],
        },
        {"column": "traits", "reason": "trait-not-a-number", "items": 2, "samples": [f"{place}, line 2"]},
    ]
    assert sorted(world.lines()) == [
        f'{uuid(1)}\t"gender"="f",d_sid=24,d_sid=26\n',
        f'{uuid(2)}\t"gender"="m",d_sid=24\n',
    ]


def test_traits_lost_since_the_last_run_are_taken_away_and_codes_stay(tmp_path: Path) -> None:
    options = (
        'trait_columns = ["traits"]\nconstants = { source = "crm" }\n'
        'rules = [{ column = "tier", range = { min = 10 }, trait = 7 },'
        ' { column = "tier", present = true, ic = "has" }]\n'
    )
    world = World(tmp_path, options, changes={})
    world.sync(("a", uuid(1)))
    world.put("1.csv", [("a", "", "10.0", "24,ic=x,25")])
    world.run()
    world.now += 60_000
    world.put("2.csv", [("a", "", "9.99", "25,26:0")])
    world.run()
    assert world.lines() == [
        f'{uuid(1)}\td_sid=24,ic=x,d_sid=25,d_sid=7,ic=has,"source"="crm"\n',
        f'{uuid(1)}\td_sid=25,d_unsid=26,ic=has,"source"="crm",d_unsid=7,d_unsid=24\n',
    ]


def test_a_constant_trait_is_taken_from_who_had_it_once_the_feed_drops_it(tmp_path: Path) -> None:
    world = World(tmp_path, 'signals = ["tier"]\nconstant_traits = [9, 10, "ic=vip"]\n', changes={})
    world.sync(("a", uuid(1)))
    world.put("1.csv", [("a", "", "", "")])
    world.run()
    world.now += 60_000
    world.feed = 'signals = ["tier"]\nconstant_traits = [9]\n'
    world.put("2.csv", [("a", "", "gold", "")])
    world.run()
    assert world.lines() == [
        f"{uuid(1)}\td_sid=9,d_sid=10,ic=vip\n",
        f'{uuid(1)}\t"tier"="gold",d_sid=9,d_unsid=10\n',
    ]
