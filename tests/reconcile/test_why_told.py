"""What is told of records that did not match: figures that add up, IDs that are masked, sentences."""

import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from idsync.store import DAY
from reconcile.why import Diagnosis, Finding, Pair, explain
from reconcile.why.affixes import Affix
from reconcile.why.diagnosis import ORDER, shares
from tests.idsync.ids_of_all_kinds import any_id
from tests.reconcile.samples import NOW
from tests.reconcile.unmatched import ACUTE, NBSP, NUMBERS, ODD, know, look, world


@given(st.integers(0, 10**12), st.lists(st.integers(0, 10**9), min_size=1))
def test_shares_add_up(total: int, parts: list[int]) -> None:
    found = shares(total, parts)
    assert sum(found) == (total if any(parts) else 0)
    whole = sum(parts) or 1
    assert all(
        abs(share * whole - total * part) < whole for share, part in zip(found, parts, strict=True) if any(parts)
    )


@pytest.mark.parametrize(
    ("pair", "masked"),
    [
        (Pair("User-0012", "user-0012"), Pair("Us••-00••", "us••-00••")),
        (Pair("useR-1234", "user-1234"), Pair("us•R-12••", "us•r-12••")),
        (Pair("7", "07"), Pair("•", "0•")),
        (Pair("aB", "ab"), Pair("a•", "a•")),
        (Pair(" x1y2z3", f"x1y2z3{NBSP}"), Pair("␣x1••••", "x1••••⟨U+00A0⟩")),
        (Pair("caf\u00e9s", f"cafe{ACUTE}s"), Pair("ca•◦•", "ca••⟨U+0301⟩•")),
        (Pair("a%20bcd", "a bcd"), Pair("•%20•••", "•␣b••")),
        (
            Pair("e4fe9bde-caa0-47b6-908d", "E4FE9BDE-CAA0-47B6-908D"),
            Pair("e4••••••-ca••-••••-••••", "E4••••••-CA••-••••-••••"),
        ),
        (Pair("x" * 512, "X" * 512), Pair("xx" + "•" * 62 + "…", "XX" + "•" * 62 + "…")),
        (Pair("\x1b[31mabcd", "\u202eabcd"), Pair("⟨U+001B⟩[31•••••", "⟨U+202E⟩ab••")),
    ],
)
def test_masks_show_the_shape_only(pair: Pair, masked: Pair) -> None:
    assert pair.masked() == masked


@given(any_id | ODD, any_id | ODD)
def test_masks_show_five_letters_or_digits_at_most(one: str, other: str) -> None:
    for shown in Pair(one, other).masked():
        assert shown.isprintable()
        assert sum(map(str.isalnum, re.sub("⟨U\\+[0-9A-F]+⟩", "", shown))) <= 5


def test_sentences(tmp_path: Path) -> None:
    there = world(tmp_path)
    know(there, "user-1234", "a b", "web-1 x", *(f"CRM-{number}" for number in NUMBERS))
    know(there, "old-customer", seen=NOW - 121 * DAY)
    know(there, "elsewhere", dpid=777)
    records = ["USER-1234"] * 3 + ["a%20b", " WEB-1 x", "old-customer", "elsewhere", "nobody", "customer-9", *NUMBERS]
    before = tmp_path / "before.parquet"
    parquet.write_table(pa.table({"customer_id": ["customer-9"]}), before)
    found = look(there, records, matched_before=before)
    told = explain(found)
    total = len(records)
    assert told[0].startswith(f"{len(NUMBERS)} of {total} unmatched records (")
    assert 'would match if the file\'s IDs had the prefix "CRM-": the website sends `C••-11••`' in told[0]
    assert told[1] == (
        f"3 of {total} unmatched records ({3 / total:.1%}) would match if upper and lower case were ignored:"
        " the website sends `us••-12••`, the file has `US••-12••`; let one side change."
    )
    text = "\n".join(told[2:])
    for part in (
        "had a mapping that is past its lifetime: for one, o••-cu••••••. They match again",
        "matched in an earlier run, and the store no longer knows their customers: for one, cu••••••-•.",
        'would match under the data source "web": for one, el•••••••. Let the feed name it, or',
        "if blanks and invisible characters around the ID and upper and lower case were ignored",
        "if URL encoding were ignored",
        "no explanation was found",
    ):
        assert part in text
    revealed = "\n".join(explain(found, reveal=True))
    assert "the website sends `user-1234`, the file has `USER-1234`" in revealed
    assert "the file has `␣WEB-1␣x`" in revealed
    whole = "\n".join(told) + str(found.as_dict())
    assert not [record for record in records if len(record) > 4 and record in whole]
    assert {"record": "USER-1234", "mapping": "user-1234"} in found.as_dict(reveal=True)["findings"][3]["samples"]


def test_every_rule_has_its_sentence_also_of_a_sample_and_in_doubt() -> None:
    for rule in ORDER:
        affix = Affix("CRM-", "", "WEB-", "-x") if rule.startswith("affix") else None
        source = "web" if rule == "other-source" else None
        finding = Finding(rule, 1500, 150, 120, 7, (Pair("Record-1", "mapping-1"),), affix, source)
        (told, rest, sample) = explain(Diagnosis("crm", 3000, 300, 240, 10, (finding,), 1500))
        assert told.startswith("About 1,500 of 3,000 unmatched records (50.0%) ")
        assert rest.startswith("For about 1,500 of 3,000 unmatched records (50.0%) no explanation")
        assert sample == "Figures are extrapolated from a sample of 240 IDs on 300 records."
        assert ("Of 7 records out of 150 examined, more than one customer may be meant." in told) == (
            rule not in {"synced-since", "expired", "matched-before"}
        )
        assert (
            'the prefix "CRM-" of the file\'s IDs were "WEB-" and the file\'s IDs had the suffix "-x"' in told
            or not affix
        )
    assert explain(Diagnosis("crm", 0, 0, 0, 0, (), 0)) == []


def test_an_affix_of_a_few_is_masked_as_it_may_name_them() -> None:
    few = Finding("affix", 3, 3, 3, 0, (Pair("jane.doe.7", "7"),), Affix("jane.doe."))
    many = Finding("affix", 30, 30, 30, 0, (Pair("jane.doe.7", "7"),), Affix("jane.doe."))
    for finding, shown in ((few, "ja••.d••."), (many, "jane.doe.")):
        found = Diagnosis("crm", finding.records, finding.records, finding.ids, 9, (finding,), 0)
        assert f'the prefix "{shown}"' in explain(found)[0]
        assert found.as_dict()["findings"][0]["affix"]["record_prefix"] == shown
        assert found.as_dict(reveal=True)["findings"][0]["affix"]["record_prefix"] == "jane.doe."


@pytest.mark.parametrize("ids", [3, 30])
def test_an_affix_is_masked_where_none_of_its_samples_may_be_shown(ids: int) -> None:
    """Also one that is masked already: what is kept of a run after an erasure."""
    finding = Finding("affix", ids, ids, ids, 0, (Pair("jane.doe.7", "7"),), Affix("jane.doe."))
    found = Diagnosis("crm", ids, ids, ids, 9, (finding,), 0).keeping(lambda pair, _: pair.record != "jane.doe.7")
    for kept in (found, Diagnosis.from_dict(found.as_dict(reveal=True))):
        for reveal in (False, True):
            shown = str(kept.as_dict(reveal=reveal)) + "\n".join(explain(kept, reveal=reveal))
            assert "ja••.d••." in shown or "j•••.•••." in shown
            assert "jane" not in shown
            assert "doe" not in shown


def test_of_an_affix_what_is_left_is_asked_for_too() -> None:
    pair = Pair("crm-4711", "WEB-4711")
    finding = Finding("affix+case", 30, 30, 30, 0, (pair,), Affix("crm-", "", "web-"))
    asked: list[Pair] = []

    def wanted(each: Pair, _: str | None) -> bool:
        asked.append(each)
        return each.record != "4711"

    found = Diagnosis("crm", 30, 30, 30, 9, (finding,), 0).keeping(wanted)
    assert asked == [pair, Pair("4711", "WEB-4711")]
    assert found.findings[0].samples == ()
