"""Nothing that was cut off, lengthened or misspelled grants; nor does a string in which one needed bit is flipped.

What no reader can see: where a TC string ends at a dot, alone or as the last section of a GPP string, the segments
after it are optional, and what is left is a string in full. So a cut that falls exactly there grants what the string
before the dot grants. Of a string made since the disclosed vendors are required it can't take them away; of an older
one it can, and with them a list that lacks our vendor. A US section has no such place: its subsection is required.

And zeros that only fill up the last byte, or of a TC string the last group, are not missed, because encoders differ in
how many they write: up to three characters of a TC string, and one of a GPP string that ends with Global Privacy
Control or with Utah's section. In the others, no character is filling alone.
"""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idsync.consent import gpp as gpp_reader
from idsync.consent import tcf
from idsync.consent.bits import Unreadable
from tests.idsync.consent_strings import (
    ALPHABET,
    GPC_ON,
    NEW,
    OLD,
    PURPOSES,
    US_FIELDS,
    VENDOR,
    WITHOUT_GPC,
    Tc,
    Unit,
    bits_of,
    gpp,
    header,
    random_gpp,
    random_tc,
    us,
    us_names,
    us_subsection,
    us_values,
)

FILLING = re.compile(r"A{1,3}")
SEGMENTS = re.compile(r"A{0,3}(\.[A-Za-z0-9_-]*)+")
OUTSIDE = "+/=%.~ \t\n\x00*,;\u00e9\uff21\u0410"
SEEDS = st.integers(0, 2**32)
UNITS: list[Unit] = [6, 8]


def tc_grants(text: str) -> bool:
    try:
        return tcf.refusal(text, VENDOR, PURPOSES) is None
    except Unreadable:
        return False


def gpp_grants(text: str, sid: str) -> bool:
    try:
        return gpp_reader.read(text, sid, VENDOR, PURPOSES).refusal is None
    except Unreadable:
        return False


def granting_tc(seed: int) -> str:
    chance = random.Random(seed)
    return next(text for text in iter(lambda: random_tc(chance).text(), None) if tc_grants(text))


def granting_gpp(seed: int) -> tuple[str, str]:
    chance = random.Random(seed)
    return next(made for made in iter(lambda: random_gpp(chance), None) if gpp_grants(*made))


@given(SEEDS)
def test_no_tc_string_that_was_cut_off_grants(seed: int) -> None:
    text = granting_tc(seed)
    whole = tcf.read(text)
    for at in range(len(text)):
        if tc_grants(text[:at]):
            assert FILLING.fullmatch(text[at:]) or SEGMENTS.fullmatch(text[at:])
            left = tcf.read(text[:at])
            assert left._replace(disclosed=None) == whole._replace(disclosed=None)
            assert left.disclosed in ({whole.disclosed} if whole.updated >= MADE_NEW else {whole.disclosed, None})


MADE_NEW = tcf.read(Tc(created=NEW).text()).updated


def granting_cuts(text: str, sid: str) -> list[str]:
    return [text[:at] for at in range(len(text)) if gpp_grants(text[:at], sid)]


TC_ALONE = {header([2], 6), header([2], 8)}


@given(SEEDS, st.booleans())
def test_no_gpp_string_that_was_cut_off_grants(seed: int, granting: bool) -> None:
    """Whether it granted before or not, and whatever is in force."""
    chance = random.Random(seed)
    text, sid = next(
        made
        for made in iter(lambda: random_gpp(chance), None)
        if made[0].partition("~")[0] not in TC_ALONE and gpp_grants(*made) is granting
    )
    for in_force in (sid, "-1"):
        filled = text.endswith("A") and gpp_grants(text, in_force)
        assert granting_cuts(text, in_force) in ([], [text[:-1]] if filled else [])


UTAH = 11
WITH_GPC = {section for section, _ in US_FIELDS} - WITHOUT_GPC
WITH_FILLING = WITH_GPC | {UTAH}


@pytest.mark.parametrize(
    ("section", "version", "after"),
    [(*layout, us_subsection(layout[0])) for layout in US_FIELDS]
    + [(*layout, GPC_ON) for layout in US_FIELDS if layout[0] in WITH_GPC],
)
def test_which_gpp_strings_end_with_a_character_of_filling(section: int, version: int, after: str) -> None:
    by_character, by_byte = (
        gpp({6: "1YNN", section: us(section, us_values(section, version), version=version, after=after, unit=unit)})
        for unit in UNITS
    )
    for sid, granted in ((str(section), after != GPC_ON), ("-1", True)):
        assert gpp_grants(by_byte, sid) is gpp_grants(by_character, sid) is granted
        assert granting_cuts(by_character, sid) == []
        assert granting_cuts(by_byte, sid) == ([by_byte[:-1]] if granted and section in WITH_FILLING else [])
    assert by_byte.endswith("A") or section not in WITH_FILLING


@given(SEEDS)
def test_a_tc_string_in_a_gpp_string_is_cut_off_as_one_alone_is(seed: int) -> None:
    text = granting_tc(seed)
    before = header([2]) + "~"
    alone = [before + text[:at] for at in range(len(text)) if tc_grants(text[:at])]
    assert granting_cuts(before + text, "2") == alone


@pytest.mark.parametrize("ranges", [False, True])
@pytest.mark.parametrize("tc", [Tc(unit=6), Tc(created=OLD, disclosed=None, unit=6)])
def test_no_cut_at_all_through_what_is_required(tc: Tc, ranges: bool) -> None:
    text = Tc(**{**vars(tc), "ranges": ranges}).text()
    assert tc_grants(text)
    assert not any(tc_grants(text[:at]) for at in range(len(text)))
    assert not any(gpp_grants(gpp({2: text}, 6)[:-cut], "2") for cut in range(1, len(text)))


@pytest.mark.parametrize("unit", [6, 8, 24])
def test_no_segment_that_is_required_can_be_left_out(unit: Unit) -> None:
    core, *segments = Tc(publisher=3, allowed=(1,), unit=unit).text().split(".")
    assert tc_grants(".".join([core, *segments]))
    assert tc_grants(".".join([core, segments[0]]))
    for left in ([core], [core, *segments[1:]], segments, [segments[0]], [*segments, core]):
        assert not tc_grants(".".join(left))


def test_no_section_can_be_left_out() -> None:
    national, state = us(7, us_values(7)), us(8, us_values(8))
    text = gpp({7: national, 8: state})
    head = text.partition("~")[0]
    assert gpp_grants(text, "7")
    for left in (f"{head}~{national}", f"{head}~{state}", head, f"{head}~{national}~", f"{head}~~{national}"):
        assert not gpp_grants(left, "7")
        assert not gpp_grants(left, "-1")


@given(SEEDS, st.text(ALPHABET, min_size=1, max_size=12))
def test_nothing_can_be_added(seed: int, junk: str) -> None:
    """But zeros that fill up what is not filled."""
    if not set(junk) <= {"A"} or len(junk) > 3:
        assert not tc_grants(granting_tc(seed) + junk)
        text, sid = granting_gpp(seed)
        assert not gpp_grants(text + junk, sid)
        assert not gpp_grants(text.replace("~", f"{junk}~", 1), sid)


@given(SEEDS, st.sampled_from(OUTSIDE), st.data())
def test_no_character_outside_the_alphabet(seed: int, character: str, data: st.DataObject) -> None:
    text = granting_tc(seed)
    at = data.draw(st.integers(0, len(text)))
    assert not tc_grants(text[:at] + character + text[at:])
    if text[at : at + 1] not in {"", character}:
        assert not tc_grants(text[:at] + character + text[at + 1 :]) or (character == "." and text[at] == "A")
    text, sid = granting_gpp(seed)
    at = data.draw(st.integers(0, len(text)))
    assert not gpp_grants(text[:at] + character + text[at:], sid)


@pytest.mark.parametrize("disclosed", [True, False])
def test_every_needed_bit_of_a_tc_string(disclosed: bool) -> None:
    """Of a string that grants one vendor and two purposes, and nothing else."""
    tc = Tc(disclosed=(VENDOR,)) if disclosed else Tc(created=OLD, disclosed=None)
    core, *segments = [*map(bits_of, tc.text().split("."))]
    needed = [152 + 0, 152 + 9, 138, 213 + 17 + VENDOR - 1]  # purposes 1 and 10, IsServiceSpecific, the vendor
    assert all(core[at] == "1" for at in needed)
    for at in needed:
        assert not tc_grants(".".join([flipped(core, at), *map(spelled, segments)]))
    if disclosed:
        assert not tc_grants(f"{spelled(core)}.{flipped(segments[0], 3 + 17 + VENDOR - 1)}")


def flipped(bits: str, at: int) -> str:
    return spelled(bits[:at] + ("0" if bits[at] == "1" else "1") + bits[at + 1 :])


def spelled(bits: str) -> str:
    return "".join(ALPHABET[int(bits[at : at + 6], 2)] for at in range(0, len(bits), 6))


@pytest.mark.parametrize("name", ["SaleOptOut", "SharingOptOut", "TargetedAdvertisingOptOut"])
def test_every_needed_bit_of_a_us_section(name: str) -> None:
    core, _, after = us(7, us_values(7)).partition(".")
    bits = bits_of(core)
    assert gpp_grants(gpp({7: f"{spelled(bits)}.{after}"}), "7")
    at = 6 + 2 * us_names(7).index(name)
    assert bits[at : at + 2] == "10"
    for answer in ("01", "11"):
        assert not gpp_grants(gpp({7: f"{spelled(bits[:at] + answer + bits[at + 2 :])}.{after}"}), "7")
