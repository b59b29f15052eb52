"""Why records did not match: prefixes and suffixes."""

from pathlib import Path

import pytest

from reconcile.why import affixes
from reconcile.why.affixes import Affix
from tests.reconcile.unmatched import NUMBERS, counted, know, look, world

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
