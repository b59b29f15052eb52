"""Why records did not match: the rules by table and against a plain definition."""

import sys
from pathlib import Path
from urllib.parse import quote

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from reconcile.why import Pair
from reconcile.why.customers import Compared
from reconcile.why.diagnosis import ORDER
from reconcile.why.forms import RULES, common_lengths, fold, loosest, loosest_of, readings, spellings
from tests.idsync.ids_of_all_kinds import any_id
from tests.reconcile.unmatched import ACUTE, NBSP, ODD, ZERO_WIDTH, counted, know, look, world

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
        con.execute("CREATE TABLE known AS FROM given")
        found = list(Compared(con, "known", "name").like(texts))
    assert found == [sorted(other for other in texts if loosest(other) == loosest(text))[:10] for text in texts]


@pytest.mark.parametrize("odd", [0, 1])
def test_some_customers_at_hand_are_from_all_over_whichever_rows_are_theirs(odd: int) -> None:
    with duckdb.connect() as con:
        con.execute("CREATE TABLE known AS SELECT range AS number, range::VARCHAR AS name FROM range(2000)")
        found = Compared(con, "known", "name", f"number % 2 = {odd}").some(100)
    assert 90 <= len(set(found)) == len(found) <= 100
    assert {int(name) % 2 for name in found} == {odd}
    assert max(map(int, found)) > 1900


def test_nothing_but_blanks_has_no_spellings() -> None:
    assert spellings(f" {NBSP}") == []
    assert spellings("7", common_lengths(["007", "0070", "00800", "77"]))[0] == "7"
    assert {"007", "0007", "00007"} <= set(spellings("7", common_lengths(["007", "0070", "00800", "7777777"])))
    assert {"caf\u00e91", f"cafe{ACUTE}1", f"cafe{ACUTE}\uff11"} <= set(spellings("caf\u00e9\uff11"))
    assert "0000007" not in spellings("7", common_lengths(["007", "7777777"]))


@pytest.mark.parametrize(
    "text",
    [
        *("jane@example.com", "\uff4aane\uff20example\uff0ecom", "jane%40example.com", "jane%2540example.com%ff"),
        *(f"{NBSP}jane@example.com{ZERO_WIDTH}", "%20\uff4aane\uff0540example.com", "0%2Bjane@example.com"),
    ],
)
def test_an_id_is_read_in_all_ways(text: str) -> None:
    assert any("jane@example.com" in each for each in readings(text))
    assert text in readings(text)


def test_an_id_is_read_without_zeros_and_with_plus_signs_for_blanks() -> None:
    assert "4111 1111" in readings("+04111+1111")
    assert "+49 30" in readings("%2B49+30")


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
