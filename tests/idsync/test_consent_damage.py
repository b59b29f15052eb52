"""Nothing that was cut off, lengthened or misspelled grants; nor does a string in which one needed bit is flipped.

What no reader can see: where a string ends at a dot, the segments after it are optional, and what is left is a string
in full. So a cut that falls exactly there grants what the string before the dot grants. It takes with it nothing that
the verdict rests on: the disclosed vendors are required of every string made since they are. And zeros that only fill
up the last byte are not missed, because encoders differ in how many they write.
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
    GPC_OFF,
    NEW,
    OLD,
    PURPOSES,
    VENDOR,
    Tc,
    Unit,
    bits_of,
    gpp,
    random_gpp,
    random_tc,
    us,
    us_names,
    us_values,
)

FILLING = re.compile(r"A{1,3}")
SEGMENTS = re.compile(r"A{0,3}(\.[A-Za-z0-9_-]*)+")
OUTSIDE = "+/=%.~ \t\n\x00*,;\u00e9\uff21\u0410"
SEEDS = st.integers(0, 2**32)


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


@given(SEEDS)
def test_no_gpp_string_that_was_cut_off_grants(seed: int) -> None:
    text, sid = granting_gpp(seed)
    for at in range(len(text)):
        if gpp_grants(text[:at], sid):
            assert FILLING.fullmatch(text[at:]) or SEGMENTS.fullmatch(text[at:])
            assert text[:at].count("~") == text.count("~")


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
    national, state = us(7, us_values(7), after=GPC_OFF), us(8, us_values(8))
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
    bits = bits_of(us(7, us_values(7)))
    at = 6 + 2 * us_names(7).index(name)
    assert bits[at : at + 2] == "10"
    for answer in ("01", "11"):
        assert not gpp_grants(gpp({7: spelled(bits[:at] + answer + bits[at + 2 :])}), "7")
