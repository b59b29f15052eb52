"""TC strings: what each field does to the verdict, and that whatever is not exactly a string is none."""

import random
from dataclasses import replace
from datetime import date

import pytest

from idsync.consent.bits import Unreadable
from idsync.consent.tcf import MAX_LENGTH, read, refusal
from tests.idsync.consent_published import TCF, PublishedTc
from tests.idsync.consent_strings import (
    NEW,
    OLD,
    PURPOSES,
    VENDOR,
    Tc,
    Unit,
    bits_of,
    entries,
    number,
    random_tc,
    text_of,
    vendor_section,
)

OTHERS = (1, 12, 564, 566, 1000)
UNITS: list[Unit] = [6, 8, 24]


def grants(text: str) -> bool:
    return refusal(text, VENDOR, PURPOSES) is None


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("ranges", [False, True])
@pytest.mark.parametrize(
    "tc",
    [
        Tc(),
        Tc(created=date(2026, 11, 24)),
        Tc(created=date(2100, 1, 1)),
        Tc(created=OLD, disclosed=None),
        Tc(created=OLD),
        Tc(created=date(2023, 9, 30), policy=2, disclosed=None),
        Tc(created=date(2023, 10, 1), policy=4, disclosed=None),
        Tc(created=OLD, updated=NEW),
        Tc(policy=4),
        Tc(policy=63),
        Tc(purposes=range(1, 25), purposes_li=range(1, 25)),
        Tc(vendors=(VENDOR, *OTHERS), vendors_li=OTHERS, disclosed=(VENDOR, *OTHERS)),
        Tc(vendors=range(1, 2000), disclosed=range(1, 2000)),
        Tc(vendors=(564, 565), disclosed=(565, 566)),
        Tc(allowed=OTHERS, publisher=0),
        Tc(publisher=63),
        Tc(publisher=3, order=(3, 1, 2)),
        Tc(language="AA", country="ZZ"),
        Tc(cmp=2),
        Tc(restrictions=[(1, 1, (VENDOR,)), (10, 1, (VENDOR,)), (2, 0, (VENDOR,)), (1, 0, (564, 566)), (10, 2, ())]),
    ],
)
def test_granted(tc: Tc, ranges: bool, unit: Unit) -> None:
    assert refusal(replace(tc, ranges=ranges, unit=unit).text(), VENDOR, PURPOSES) is None


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("ranges", [False, True])
@pytest.mark.parametrize(
    "tc",
    [
        Tc(vendors=()),
        Tc(vendors=OTHERS, vendors_li=(VENDOR,)),
        Tc(vendors=range(1, 565)),
        Tc(vendors=range(566, 1000)),
        Tc(purposes=()),
        Tc(purposes=(1,)),
        Tc(purposes=(10,)),
        Tc(purposes=(10,), purposes_li=(1, 10)),
        Tc(purposes=(2, *range(11, 25)), purposes_li=PURPOSES),
        Tc(purposes=(10,), purpose_one_treatment=True),
        Tc(disclosed=None),
        Tc(disclosed=()),
        Tc(disclosed=OTHERS),
        Tc(created=OLD, disclosed=OTHERS),
        Tc(created=OLD, updated=NEW, disclosed=None),
        Tc(created=NEW, publisher=1, allowed=(VENDOR,), disclosed=None),
        Tc(service_specific=False),
        Tc(created=date(2020, 8, 20), service_specific=False, disclosed=None),
        Tc(policy=3),
        Tc(created=date(2023, 10, 1), policy=3, disclosed=None),
        Tc(created=date(2023, 9, 30), updated=date(2023, 10, 1), policy=3, disclosed=None),
        Tc(cmp=0),
        Tc(cmp=1),
        Tc(restrictions=[(1, 0, (VENDOR,))]),
        Tc(restrictions=[(10, 0, range(1, 2000))]),
        Tc(restrictions=[(10, 1, (VENDOR,)), (10, 0, (VENDOR,))]),
        Tc(restrictions=[(1, 2, (564, 565))]),
        Tc(restrictions=[(1, 3, (VENDOR,))]),
    ],
)
def test_refused(tc: Tc, ranges: bool, unit: Unit) -> None:
    assert refusal(replace(tc, ranges=ranges, unit=unit).text(), VENDOR, PURPOSES)


CORE, DISCLOSED = Tc().core_bits(), Tc().segment_bits()[0]
WHOLE = Tc().text()
AT_VENDORS = 213


def patched(bits: str, at: int, new: str) -> str:
    return bits[:at] + new + bits[at + len(new) :]


def core(bits: str) -> str:
    return f"{text_of(bits)}.{text_of(DISCLOSED)}"


def with_vendors(section: str) -> str:
    rest = CORE[AT_VENDORS + len(vendor_section((VENDOR,))) :]
    return core(CORE[:AT_VENDORS] + section + rest)


def test_the_ways_to_write_them_are_understood() -> None:
    assert grants(core(CORE))
    assert grants(with_vendors(number(VENDOR, 16) + "1" + entries((VENDOR,))))
    assert grants(with_vendors(number(600, 16) + "1" + number(2, 12) + "0" + number(600, 16) + "0" + number(565, 16)))


@pytest.mark.parametrize(
    "text",
    [
        # nothing, or almost
        "",
        ".",
        "C",
        "CA",
        WHOLE.partition(".")[0] + ".",
        WHOLE + ".",
        "." + WHOLE,
        WHOLE.replace(".", ".."),
        # other versions, and what is no version
        core(patched(CORE, 0, number(1, 6))),
        core(patched(CORE, 0, number(3, 6))),
        core(patched(CORE, 0, number(0, 6))),
        "BO2e4qiO2e4qiB9ABADEDS-AAAAxKABgACBiQA",
        # other alphabets
        WHOLE.replace(".", "~"),
        " " + WHOLE,
        WHOLE + " ",
        WHOLE + "\n",
        WHOLE + "=",
        WHOLE + "\x00",
        WHOLE.replace("C", "\u0421", 1),
        WHOLE.replace("A", "\uff21", 1),
        WHOLE.replace("A", "+", 1),
        WHOLE.replace("A", "/", 1),
        WHOLE.replace("A", "%41", 1),
        # segments: unknown, twice, a second core, the core not first
        WHOLE + "." + text_of(DISCLOSED),
        WHOLE + "." + text_of(number(1, 3) + vendor_section(OTHERS)),
        *(WHOLE + "." + text_of(number(kind, 3) + vendor_section(OTHERS)) for kind in (0, 4, 5, 6, 7)),
        WHOLE + "." + text_of(CORE),
        ".".join(reversed(WHOLE.split("."))),
        text_of(DISCLOSED),
        # fields
        core(patched(CORE, 6, "1" * 36)),  # made after it was updated
        core(patched(CORE, 108, number(26, 6))),  # language
        core(patched(CORE, 114, number(63, 6))),
        core(patched(CORE, 201, number(26, 6))),  # country
        core(patched(CORE, 207, number(26, 6))),
        with_vendors(number(VENDOR, 16) + "1" + number(1, 12) + "0" + number(0, 16)),
        with_vendors(number(VENDOR, 16) + "1" + number(1, 12) + "1" + number(566, 16) + number(565, 16)),
        with_vendors(number(VENDOR, 16) + "1" + number(1, 12) + "1" + number(1, 16) + number(566, 16)),
        with_vendors(number(VENDOR, 16) + "1" + number(2, 12) + "0" + number(565, 16)),
        with_vendors(number(60_000, 16) + "0" + "1" * 1000),
        # bits past the end
        core(CORE + "1"),
        core(CORE + "0" * 24),
        text_of(CORE) + "A." + text_of(DISCLOSED),
        f"{text_of(CORE)}.{text_of(DISCLOSED + '1')}",
        f"{text_of(CORE)}.{text_of(DISCLOSED)}A",
        f"{text_of(CORE)}.{text_of(DISCLOSED)}AAAA",
        # a byte more than an encoder would fill
        f"{text_of(CORE)}.{text_of(number(3, 3) + '0' * 54)}AAA",
        "C" * (MAX_LENGTH + 1),
        Tc(vendors=range(1, 65_000)).text(),
    ],
)
def test_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        read(text)


def test_bits_have_the_places_that_the_table_above_says() -> None:
    assert CORE[108:120] == "000100" + "001101"  # EN
    assert CORE[201:213] == "000011" + "000100"  # DE
    assert bits_of(WHOLE.partition(".")[0]).startswith(CORE)
    assert CORE[AT_VENDORS:].startswith(vendor_section((VENDOR,)))


@pytest.mark.parametrize("published", TCF)
def test_published(published: PublishedTc) -> None:
    try:
        granted = refusal(published.text, published.vendor, published.purposes) is None
    except Unreadable:
        granted = False
    assert granted is published.granted


def test_what_is_published_of_restrictions() -> None:
    """Issue 201: the vendors of type 1, "require consent", for purpose 1."""
    restrictions = read(TCF[0].text).restrictions
    for_purpose_1 = next(each for each in restrictions if (each.purpose, each.kind) == (1, 1))
    assert [each for each in range(1, 2000) if for_purpose_1.vendors.has(each)] == [7, 20, 71, 122, 140, 183]


def test_what_is_published_of_vendors() -> None:
    """The specification's example, see the tests of its encoder."""
    tc = read(TCF[-1].text)
    assert [each for each in range(1, 2000) if tc.vendors.has(each)] == [1, 2, 3, 4]


def test_what_is_written_is_read() -> None:
    chance = random.Random(7)
    for _ in range(500):
        tc = random_tc(chance)
        found = read(tc.text())
        assert found.purposes == set(tc.purposes)
        assert (found.cmp, found.policy, found.service_specific) == (tc.cmp, tc.policy, tc.service_specific)
        for held, written in (
            (found.vendors, tc.vendors),
            (found.disclosed, tc.disclosed),
            *((each.vendors, ids) for each, (_, _, ids) in zip(found.restrictions, tc.restrictions, strict=True)),
        ):
            assert (held is None) is (written is None)
            if held is not None and written is not None:
                assert {each for each in range(-1, 1400) if held.has(each)} == set(written)
        assert [each[:2] for each in found.restrictions] == [each[:2] for each in tc.restrictions]
