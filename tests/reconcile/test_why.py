"""Why records did not match: the rules by table and against a plain definition, on stores as they are."""

import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import cast
from urllib.parse import quote

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from idsync.errors import StoreUnavailable
from idsync.store import DAY, open_store
from idsync.store.base import EXPORT_SCHEMA, MappingStore
from reconcile import join as joining
from reconcile.why import Diagnosis, Pair, Undiagnosed, affixes, diagnose, explain, search
from reconcile.why.affixes import Affix
from reconcile.why.customers import Compared
from reconcile.why.diagnosis import ORDER
from reconcile.why.forms import RULES, common_lengths, fold, loosest, loosest_of, spellings
from tests.idsync.ids_of_all_kinds import any_id
from tests.reconcile.samples import NOW, SIGNALS, World, uuid
from tests.servers import RedisServer

SECOND_SOURCE = '[[data_sources]]\nname = "web"\ndpid = 777\n[[data_sources]]\nname = "app"\ndpid = 888\n'
NBSP, ZERO_WIDTH, ACUTE = "\u00a0", "\u200b", "\u0301"
BY_NAME = {rule.name: rule for rule in RULES}


def world(folder: Path, url: str = "sqlite:///idsync.db") -> World:
    return World(folder, feed=SIGNALS + SECOND_SOURCE, url=url)


def know(there: World, *names: str, dpid: int = 12345, seen: int | None = None) -> None:
    there.sync(*((name, uuid(number)) for number, name in enumerate(names, 1)), dpid=dpid, seen=seen)


def look(
    there: World, records: Sequence[str], *, batch: int = 1000, sample_ids: int | None = 100_000, **more: object
) -> Diagnosis:
    scratch = there.folder / "scratch"
    scratch.mkdir(exist_ok=True)
    chunks = [records[start : start + batch] for start in range(0, len(records), batch)]
    batches = [pa.record_batch({"id": pa.array(chunk, pa.string())}) for chunk in chunks]
    with closing(open_store(there.settings.store)) as store:
        found = diagnose(
            batches,
            store,
            there.settings,
            there.settings.data_sources[0],
            NOW,
            scratch=scratch,
            memory_limit="300MB",
            sample_ids=sample_ids,
            **more,  # type: ignore[arg-type]
        )
    assert list(scratch.iterdir()) == []
    assert sum(finding.records for finding in found.findings) + found.unexplained == found.unmatched == len(records)
    return found


def counted(found: Diagnosis) -> dict[str, int]:
    counts: dict[str, int] = {}
    for finding in found.findings:
        counts[finding.rule] = counts.get(finding.rule, 0) + finding.records
    return counts


# --- the rules -------------------------------------------------------------------------------------------------------

# record, mapping, the first rule that explains it; None: nothing does
TABLE = [
    ("USER-1", "user-1", "case"),
    ("STRASSE", "straße", "case"),
    ("STRAẞE", "straße", "case"),
    ("İZMİR", "izmir", "case"),
    ("İZMİR", "i\u0307zmi\u0307r", "case"),
    ("ISPARTA", "\u0131sparta", "case"),
    ("ΣΊΣΥΦΟΣ", "σίσυφος", "case"),
    (" user", "user", "blanks"),
    ("user", "user  ", "blanks"),
    (f"{NBSP}user{NBSP}", "user", "blanks"),
    (f"user{ZERO_WIDTH}", "user", "blanks"),
    ("\ufeffuser", "user", "blanks"),
    ("\u202duser\u202c", "user", "blanks"),
    ("us er", "user", None),
    ("0042", "42", "zeros"),
    ("42", "00042", "zeros"),
    ("000", "0", "zeros"),
    ("0", "0000", "zeros"),
    ("0", "x", None),
    ("0x7", "x7", "zeros"),
    ("400", "4", None),
    ("é1", f"e{ACUTE}1", "nfc"),
    ("12", "\uff11\uff12", "nfkc"),
    ("x²", "x2", "nfkc"),
    ("\ufb01x", "fix", "case"),  # the ligature fi: whoever turns it to upper case gets FI
    ("a%20b", "a b", "percent"),
    ("a b", "a%2520b", "percent"),
    ("a%2520b", "a%20b", "percent"),
    ("a+b", "a b", "percent"),
    ("a+b", "a%2Bb", "percent"),
    ("m%C3%BCller", "müller", "percent"),
    ("m%25C3%25BCller", "müller", "percent"),
    ("a%25252520b", "a b", None),  # four times
    ("100%", "100%25", "percent"),
    ("%ff1", "\ufffd1", None),  # not UTF-8: no replacement characters are made up
    (" USER", "user", "blanks+case"),
    ("0USER", "user", "case+zeros"),
    (" 007", "7", "blanks+zeros"),
    ("%20user", "user", "blanks+percent"),
    ("M%C3%9CLLER", "müller", "case+percent"),
    ("m%C3%BCller", "mu\u0308ller", "percent+nfc"),
    ("\uff10\uff17", "7", "zeros+nfkc"),
    (" 00%41", "a", "several"),
    (NBSP, ZERO_WIDTH, None),  # nothing is left of either
    (NBSP, "0", None),
    (NBSP, f"00{NBSP}", None),
    ("user-1", "user-2", None),
]


@pytest.mark.parametrize(("record", "mapping", "rule"), TABLE)
def test_each_rule_by_table(tmp_path: Path, record: str, mapping: str, rule: str | None) -> None:
    there = world(tmp_path)
    know(there, mapping, "someone else")
    found = look(there, [record])
    assert counted(found) == ({rule: 1} if rule else {})
    assert [finding.samples for finding in found.findings] == ([(Pair(record, mapping),)] if rule else [])
    assert found.unexplained == (0 if rule else 1)


@pytest.mark.parametrize(("record", "mapping", "rule"), TABLE)
def test_the_rules_work_both_ways(record: str, mapping: str, rule: str | None) -> None:
    """Which side is which makes no difference; the loosest form is common to all that a rule calls the same."""
    first = next((each.name for each in RULES if each.same(mapping, record)), None)
    assert first == rule
    assert rule is None or loosest(record) == loosest(mapping)


def test_every_case_of_every_character_folds_to_one() -> None:
    for character in map(chr, (*range(0xD800), *range(0xE000, sys.maxunicode + 1))):
        if not character.isalpha():
            continue
        cases = {fold(change(character)) for change in (str, str.lower, str.upper, str.title, str.casefold)}
        assert len(cases) == 1, hex(ord(character))


ODD = st.text(st.sampled_from(f"aAbB0 1+%25e4É{ACUTE}é{NBSP}{ZERO_WIDTH}ßıİſ２²-"), max_size=8)
TEXTS = any_id | ODD
CHANGES = st.sampled_from(
    [
        *(str.upper, str.lower, str.title, str.swapcase, str.strip, quote, lambda text: quote(quote(text))),
        *(lambda text: f" {text}", lambda text: f"00{text}", lambda text: f"{text}{ZERO_WIDTH}", lambda text: text),
        *(lambda text: text.replace(" ", "+"), lambda text: text.replace("é", f"e{ACUTE}")),
    ]
)


@settings(max_examples=400)
@given(TEXTS, st.lists(CHANGES, max_size=3))
@example("%ef%bc%85", [])
@example("%0A", [lambda text: f"00{text}"])
@example("0\n", [lambda text: quote(quote(text))])
@example(NBSP, [lambda text: f"00{text}"])
def test_what_a_rule_calls_the_same_has_one_loosest_form(text: str, changes: list[object]) -> None:
    other = text
    for change in changes:
        other = change(other)  # type: ignore[operator]
    for rule in RULES:
        assert not rule.same(text, text)
        assert rule.same(text, other) == rule.same(other, text)
        if rule.same(text, other):
            assert loosest(text) == loosest(other), rule.name


@settings(max_examples=300)
@given(st.lists(TEXTS | st.sampled_from(["0", "00", "", " ", "a%41", "+0+"])))
def test_the_loosest_form_of_a_column_is_that_of_its_texts(texts: list[str]) -> None:
    assert loosest_of(pa.array(texts, pa.string())).to_pylist() == list(map(loosest, texts))


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS | st.sampled_from(["0", "00", "", " ", "a%41", "+0+", "\x1f\x0ba\t", "0'a'"]), unique=True))
def test_customers_at_hand_are_alike_who_have_one_loosest_form(texts: list[str]) -> None:
    with duckdb.connect() as con:
        con.register("given", pa.table({"name": pa.array(texts, pa.string())}))
        found = list(Compared(con, "given", "name").like(texts))
    assert found == [sorted(other for other in texts if loosest(other) == loosest(text))[:10] for text in texts]


def test_nothing_but_blanks_has_no_spellings() -> None:
    assert spellings(f" {NBSP}") == []
    assert spellings("7", common_lengths(["007", "0070", "00800", "77"]))[0] == "7"
    assert {"007", "0007", "00007"} <= set(spellings("7", common_lengths(["007", "0070", "00800", "7777777"])))
    assert "0000007" not in spellings("7", common_lengths(["007", "7777777"]))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(known=st.lists(ODD.filter(bool), max_size=8, unique=True), records=st.lists(ODD.filter(bool), max_size=12))
def test_findings_are_those_of_a_plain_definition(
    tmp_path_factory: pytest.TempPathFactory, known: list[str], records: list[str]
) -> None:
    """No rule claims an exact match; the first rule that applies to any mapping is the one; nothing is overlooked."""
    there = world(tmp_path_factory.mktemp("world"))
    know(there, *known)
    found = look(there, records, samples=100)
    said = {pair.record: finding for finding in found.findings for pair in finding.samples}
    for record in records:
        if record in known:
            assert said[record].rule == "synced-since"
            continue
        explained = ((rule.name, [name for name in known if rule.same(record, name)]) for rule in RULES)
        rule, meant = next(((rule, meant) for rule, meant in explained if meant), ("", []))
        if not rule:
            assert record not in said or said[record].affix
            continue
        assert said[record].rule == rule
        assert (said[record].ambiguous > 0) >= (len(meant) > 1)
    for finding in found.findings:
        if finding.rule not in ORDER[:4]:
            assert all(pair.record != pair.mapping and pair.mapping in known for pair in finding.samples)


def test_the_cheapest_rule_counts_and_doubt_is_counted(tmp_path: Path) -> None:
    there = world(tmp_path)
    know(there, "user", "User", "uSER ", "7", "07")
    found = look(there, ["USER", "USER", "uSER", "007"])
    assert counted(found) == {"blanks": 1, "case": 2, "zeros": 1}
    assert {finding.rule: finding.ambiguous for finding in found.findings} == {"blanks": 0, "case": 2, "zeros": 1}
    (case,) = (finding for finding in found.findings if finding.rule == "case")
    assert (case.records, case.ids, case.samples) == (2, 1, (Pair("USER", "User"),))


def test_many_alike_cost_no_more_than_a_few(tmp_path: Path) -> None:
    there = world(tmp_path)
    know(there, *(f"{'0' * zeros}7" for zeros in range(200)))
    (finding,) = look(there, ["7 "]).findings
    assert (finding.rule, finding.ambiguous) == ("blanks+zeros", 1)  # "7" itself stands too far behind


def test_as_many_samples_are_kept_as_asked(tmp_path: Path) -> None:
    there = world(tmp_path)
    know(there, *(f"user-{number}" for number in range(9)))
    records = [f"USER-{number}" for number in range(9)]
    assert [len(look(there, records, samples=most).findings[0].samples) for most in (0, 3, 50)] == [0, 3, 9]


# --- the very ID, elsewhere or at another time -----------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "redis"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    if request.param == "sqlite":
        return world(tmp_path)
    server: RedisServer = request.getfixturevalue("shared_redis")
    with server.client() as client:
        client.flushall()
    return world(tmp_path, server.url)


def test_what_has_expired_is_told_until_it_is_swept(either: World) -> None:
    know(either, "old", seen=NOW - 120 * DAY - 10)
    know(either, "young", "OLD", seen=NOW - 120 * DAY + 10)
    records = ["old", "old", "young", "none"]
    assert counted(look(either, records)) == {"expired": 2, "synced-since": 1}
    with closing(open_store(either.settings.store)) as store:
        assert store.sweep(NOW) == 1
    assert counted(look(either, records)) == {"case": 2, "synced-since": 1}  # its like is still there


def test_an_opted_out_device_does_not_count_as_expired(either: World) -> None:
    know(either, "old", seen=NOW - 121 * DAY)
    either.opt_out(devices=[uuid(1)])
    assert counted(look(either, ["old"])) == {}


def test_customers_of_earlier_runs_whom_the_store_has_forgotten(tmp_path: Path) -> None:
    there = world(tmp_path)
    know(there, "known")
    before = [pa.record_batch({"customer_id": ["gone", "known", "gone"]}), pa.record_batch({"customer_id": ["x"]})]
    found = look(there, ["gone", "known", "other"], matched_before=iter(before))
    assert counted(found) == {"matched-before": 1, "synced-since": 1}


def test_the_same_id_under_another_data_source(either: World) -> None:
    know(either, "a", "b", dpid=777)
    know(either, "b", "c", dpid=888)
    know(either, "gone", dpid=888, seen=NOW - 121 * DAY)
    know(either, "nobody", dpid=999)  # not in the configuration
    found = look(either, ["a", "b", "c", "c", "gone", "nobody"])
    told = {(finding.data_source, finding.records, finding.ambiguous) for finding in found.findings}
    assert told == {("web", 2, 1), ("app", 2, 0)}
    assert {finding.rule for finding in found.findings} == {"other-source"}


def test_the_store_is_not_read_whole_where_that_tells_nothing(tmp_path: Path) -> None:
    there = world(tmp_path)
    know(there, "a", "b")
    assert look(there, ["a"]).compared == 0
    assert look(there, []) == Diagnosis("crm", 0, 0, 0, 0, (), 0)
    assert look(there, ["c"]).compared == 2


class _Late:
    """A store in which the ID was recorded between one look and the next."""

    def export(self, dpid: int, now: int, **options: object) -> Iterator[pa.RecordBatch]:
        if "customer_ids" not in options:
            yield pa.RecordBatch.from_pylist([{"customer_id": "a", "uuid": uuid(1), "last_seen": now}], EXPORT_SCHEMA)


def test_an_id_that_is_synced_between_two_looks_is_no_case_for_a_rule(tmp_path: Path) -> None:
    there = world(tmp_path)
    batches = [pa.record_batch({"id": ["a", "A"]})]
    found = diagnose(
        batches,
        cast(MappingStore, _Late()),
        there.settings,
        there.settings.data_sources[0],
        NOW,
        scratch=tmp_path,
        memory_limit="100MB",
    )
    assert counted(found) == {"synced-since": 1, "case": 1}


def test_an_unreachable_store_is_told_as_such(tmp_path: Path) -> None:
    there = world(tmp_path)
    (tmp_path / "idsync.db").mkdir()
    with pytest.raises(StoreUnavailable):
        look(there, ["a"])


def test_a_scratch_folder_without_room_is_told_as_such(tmp_path: Path) -> None:
    there = world(tmp_path)
    know(there, "a")
    with sqlite3.connect(tmp_path / "idsync.db") as db:
        rows = ((12345, f"CUSTOMER-{number:0>300}", uuid(number), NOW) for number in range(20_000))
        db.executemany("INSERT INTO mappings VALUES (?, ?, ?, ?)", rows)
    db.close()
    blocked = tmp_path / "scratch"
    blocked.write_text("no folder")
    with (
        closing(open_store(there.settings.store)) as store,
        pytest.raises(Undiagnosed, match="ran out of memory") as told,
    ):
        diagnose(
            [pa.record_batch({"id": ["nobody"]})],
            store,
            there.settings,
            there.settings.data_sources[0],
            NOW,
            scratch=blocked,
            memory_limit="4MB",
        )
    assert "memory_limit" in told.value.mend


# --- among all customers, or by their spelling ------------------------------------------------------------------------

USUAL = [
    ("USER-1", "user-1", "case"),
    ("user-2", "USER-2", "case"),
    ("ada-lovelace", "Ada-Lovelace", "case"),
    (" user-3", "user-3", "blanks"),
    ("0042", "42", "zeros"),
    ("43", "0000043", "zeros"),
    ("e\u0301-1", "\u00e9-1", "nfc"),
    ("\u00e9-2", "e\u0301-2", "nfc"),
    ("\uff14\uff15\uff16", "456", "nfkc"),
    ("a%20b", "a b", "percent"),
    ("a/c", "a%2Fc", "percent"),
    ("M%C3%BCLLER", "m\u00fcller", "case+percent"),
    ("CRM-7", "u7", "affix"),
    ("CRM-8", "u8", "affix"),
]


def test_of_many_customers_usual_spellings_are_found(either: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "FEW_CUSTOMERS", 0)
    know(either, *(mapping for _, mapping, _ in USUAL), "0000099", "mIxEd", *(f"u{number}" for number in range(100)))
    records = [record for record, _, _ in USUAL]
    found = look(either, [*records, "MiXeD"])
    told = {pair.record: (pair.mapping, finding.rule) for finding in found.findings for pair in finding.samples}
    assert told == {record: (mapping, rule) for record, mapping, rule in USUAL}
    assert (found.compared, found.unexplained) == (0, 1)
    assert found.spellings > 100
    assert "A dry run compares" in explain(found)[-1]
    assert counted(look(either, ["MiXeD"], thorough=True)) == {"case": 1}


def test_more_than_a_run_may_spell_are_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "FEW_CUSTOMERS", 0)
    monkeypatch.setattr(search, "SPELLED_IDS", 10)
    there = world(tmp_path)
    know(there, "user")
    found = look(there, [f"other-{number}" for number in range(30)], sample_ids=None)
    assert (found.unmatched, found.ids, found.sampled) == (30, 10, True)
    assert look(there, [f"other-{number}" for number in range(30)], sample_ids=None, thorough=True).ids == 30


@pytest.mark.parametrize("all_read", [True, False])
def test_a_run_that_has_read_all_mappings_asks_the_store_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_read: bool
) -> None:
    monkeypatch.setattr(search, "FEW_CUSTOMERS", 0)
    monkeypatch.setattr(joining, "SUBSET_CUSTOMERS", 0 if all_read else 10)
    there = World(tmp_path, feed=f'{SIGNALS}devices = "all"\n')
    know(there, "mIxEd", "user-2")
    there.sync(("mIxEd", uuid(7)))
    there.put("a.csv", [("MiXeD", "f", "", ""), ("user-2", "f", "", "")])
    why = there.run().why
    assert (why["compared"], [finding["rule"] for finding in why["findings"]]) == (2 * all_read, ["case"] * all_read)
    assert (why["spellings"] > 0) is not all_read


# --- prefixes and suffixes -------------------------------------------------------------------------------------------

NUMBERS = [str(number) for number in range(1000, 1200, 7)]
AFFIXES = [
    ("{}", "CRM-{}", Affix(mapping_prefix="CRM-")),
    ("CRM-{}", "{}", Affix(record_prefix="CRM-")),
    ("CRM-{}", "WEB_{}", Affix(record_prefix="CRM-", mapping_prefix="WEB_")),
    ("u{}", "{}", Affix(record_prefix="u")),
    ("{}", "{}@de", Affix(mapping_suffix="@de")),
    ("{}-x", "{}", Affix(record_suffix="-x")),
    ("{{{}}}", "{}", Affix(record_prefix="{", record_suffix="}")),
    ("{}", "({})", Affix(mapping_prefix="(", mapping_suffix=")")),
    ("49{}", "{}", Affix(record_prefix="49")),  # digits before digits, but on all of them
    ("acme/de/crm-{}", "{}", Affix(record_prefix="acme/de/crm-")),
]


@pytest.mark.parametrize(("record", "mapping", "affix"), AFFIXES)
def test_prefixes_and_suffixes_are_found(tmp_path: Path, record: str, mapping: str, affix: Affix) -> None:
    there = world(tmp_path)
    know(there, *map(mapping.format, NUMBERS))
    found = look(there, [*map(record.format, NUMBERS), "nobody"])
    (finding,) = found.findings
    assert (finding.rule, finding.affix, finding.records, found.unexplained) == ("affix", affix, len(NUMBERS), 1)
    assert all(pair.mapping in map(mapping.format, NUMBERS) for pair in finding.samples)


def test_prefixes_with_other_differences(tmp_path: Path) -> None:
    there = world(tmp_path)
    know(there, *(f"user{number}" for number in NUMBERS), *(f"9{number}" for number in NUMBERS))
    records = [f"CRM-USER{number}" for number in NUMBERS] + [f"X/009{number}" for number in NUMBERS]
    found = look(there, records)
    assert counted(found) == {"affix+case": len(NUMBERS), "affix+zeros": len(NUMBERS)}
    assert {finding.affix for finding in found.findings} == {Affix("CRM-"), Affix("X/")}


def test_a_match_by_chance_is_no_prefix(tmp_path: Path) -> None:
    """Numbers lie close together: one digit less is often somebody else, even where all begin with it."""
    there = world(tmp_path)
    know(there, *(str(number) for number in range(1000, 10_000, 10)))
    records = [str(number) for number in range(11_000, 20_000, 7)]
    assert 0.05 < sum(record[1:] in map(str, range(1000, 10_000, 10)) for record in records) / len(records) < 0.2
    assert counted(look(there, records)) == {}
    found = look(there, ["A-1000", *(f"nobody{number}" for number in range(100))])
    assert counted(found) == {}  # one ID is no pattern


@pytest.mark.parametrize(
    ("record", "mapping", "affix"),
    [
        ("1000", "CRM-1000", Affix(mapping_prefix="CRM-")),
        ("CRM-1000", "1000", Affix(record_prefix="CRM-")),
        ("u1000", "1000", Affix(record_prefix="u")),
        ("1000", "1000@de", Affix(mapping_suffix="@de")),
        ("1000.0", "1000", Affix(record_suffix=".0")),
        ("a-zz", "zz", None),  # what they share is too short
        ("11000", "1000", None),  # numbers lie close together
    ],
)
def test_of_a_few_records_the_only_one_that_lacks_a_prefix_counts(
    tmp_path: Path, record: str, mapping: str, affix: Affix | None
) -> None:
    there = world(tmp_path)
    know(there, mapping, "zoe", "17-xy")
    found = look(there, [record, *(f"nobody{number}" for number in range(99))])
    assert [finding.affix for finding in found.findings] == [affix] * (affix is not None)
    assert counted(found) == ({"affix": 1} if affix else {})


def test_an_affix_is_chosen_for_what_others_leave_over() -> None:
    first, second, third = Affix("a-"), Affix("a-b-"), Affix("c-")
    tried = ["a-b-1", "a-b-2", "a-b-3", "c-1", "c-2"]
    hits = {second: {"a-b-2", "a-b-3"}, third: {"c-1", "c-2"}, first: {"a-b-1", "a-b-2", "a-b-3"}}
    assert affixes.choose(hits, tried) == [first, third]
    tried += [f"{number}" for number in range(100)]
    assert affixes.choose({first: {"a-b-1", "a-b-2"}, third: {"a-b-2", "c-1"}}, tried) == [first]


def test_an_affix_leaves_something_between() -> None:
    assert not Affix("CRM-").fits("CRM-")
    assert not Affix("aa", "aa").fits("aaa")
    assert Affix("aa", "aa", "b").applied("aaxaa") == "bx"


def test_a_prefix_goes_with_the_sign_behind_it() -> None:
    texts = [f"CRM-{number}" for number in range(10)] + [f"{number}x" for number in range(90)]
    found = affixes.prefixes(texts)
    assert "CRM-" in found
    assert "CRM" not in found


def test_the_work_on_affixes_is_bounded() -> None:
    """However many prefixes are frequent, and however long the one that most have in common."""
    letters = "abcdefghijklmnopqrst"
    texts = [f"{letters[number % 20]}-{number}-{letters[number % 20]}" for number in range(400)]
    texts += [f"{'k' * 30}{number}{'k' * 30}" for number in range(600)]
    assert len(affixes.prefixes(texts)) <= 16
    assert len(affixes.suffixes(texts)) <= 16
    both = [affix for affix in affixes.candidates(texts, texts) if affix.record_prefix and affix.record_suffix]
    assert len(both) == 16


# --- samples ---------------------------------------------------------------------------------------------------------


def test_of_too_many_a_sample_is_taken_always_the_same(tmp_path: Path) -> None:
    there = world(tmp_path)
    know(there, *(f"user-{number}" for number in range(0, 4000, 2)))
    records = [f"USER-{number}" for number in range(4000) for _ in range(1 + number % 3)]
    found = look(there, records, sample_ids=500, batch=700)
    assert (found.unmatched, found.ids, found.sampled) == (len(records), 500, True)
    assert found.examined == sum(finding.examined for finding in found.findings) + round(
        found.unexplained * found.examined / found.unmatched
    )
    (case,) = found.findings
    assert case.examined < case.records
    assert 0.4 < case.records / found.unmatched < 0.6
    again = look(there, records[::-1], sample_ids=500, batch=333)
    assert again.as_dict(reveal=True) == found.as_dict(reveal=True)
    whole = look(there, records, sample_ids=4000)
    assert (whole.sampled, whole.ids) == (False, 4000)
    assert counted(whole) == {"case": sum(1 + number % 3 for number in range(0, 4000, 2))}


def test_an_id_in_the_sample_counts_with_all_its_records(tmp_path: Path) -> None:
    """However the batches fall, and whatever is thinned out between them."""
    there = world(tmp_path)
    know(there, *(f"user-{number}" for number in range(300)))
    records = [f"USER-{number}" for _ in range(5) for number in range(300)]
    found = look(there, records, sample_ids=20, batch=100)
    assert (found.examined, found.ids) == (100, 20)
