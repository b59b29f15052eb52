"""GPP strings: which sections count, what each field of a US section does, and that nothing half read passes."""

import random

import pytest

from idsync.consent import us
from idsync.consent.bits import Unreadable
from idsync.consent.gpp import MAX_LENGTH, read
from tests.idsync.consent_published import GPP, PublishedGpp
from tests.idsync.consent_strings import (
    GPC_OFF,
    GPC_ON,
    PURPOSES,
    US_FIELDS,
    VENDOR,
    WITH_SENSITIVE_SUBSECTION,
    WITHOUT_GPC,
    WITHOUT_SUBSECTION,
    Tc,
    Unit,
    fibonacci,
    gpp,
    header,
    number,
    text_of,
    us_names,
    us_subsection,
    us_values,
)
from tests.idsync.consent_strings import us as us_text

TC = Tc().text()
REFUSING_TC = Tc(purposes=()).text()
CANADA = "BPSG_8APSG_8AAyACAENGdCgf_gfgAfgfgBhADVqxGAD0AILVgAA.fHHHA4444ao"
LAYOUTS = pytest.mark.parametrize(("section", "version"), US_FIELDS)
SUBDIVIDED = [(section, version) for section, version in US_FIELDS if section not in WITHOUT_SUBSECTION]
UNITS: list[Unit] = [6, 8]


def grants(text: str, sid: str) -> bool:
    return read(text, sid, VENDOR, PURPOSES).refusal is None


def section_text(section: int) -> str:
    return {2: TC, 6: "1YNN"}.get(section) or us_text(section, us_values(section))


# --- the header ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "encoded"),
    # The examples of the specification, which fills up to a character, and of the IAB's encoder, which fills a byte.
    [([2], "DBABM"), ([2, 6], "DBACNY"), ([5, 6], "DBABjw"), ([2], "DBABMA"), ([2, 6], "DBACNYA"), ([], "DBAA")],
)
def test_published_headers(ids: list[int], encoded: str) -> None:
    assert encoded in {header(ids, unit) for unit in UNITS}
    sections = ["1YNN" if each == 6 else TC for each in ids]
    text = "~".join([encoded, *sections])
    assert read(text, ",".join(map(str, ids)) or "-1", VENDOR, PURPOSES) == (frozenset(ids), read_refusal(ids))


def read_refusal(ids: list[int]) -> str | None:
    return "has a section in force that this version can't read" if 5 in ids else None


@pytest.mark.parametrize("unit", UNITS)
def test_any_sections_in_any_number(unit: Unit) -> None:
    chance = random.Random(3)
    for _ in range(300):
        ids = sorted(chance.sample([2, *range(6, 28)], chance.randint(1, 23)))
        in_force = chance.sample(ids, chance.randint(1, len(ids)))
        found = read(
            *(gpp({each: section_text(each) for each in ids}, unit), ",".join(map(str, in_force))), VENDOR, PURPOSES
        )
        assert found == (frozenset(in_force), None)


NATIONAL = section_text(7)


def a_header(bits: str) -> str:
    return text_of(bits, 8)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "~",
        "D",
        "DB",
        "DBAB",
        NATIONAL,
        TC,
        f"~{NATIONAL}",
        f"{header([7])}",
        f"{header([7])}~",
        f"{header([7])}~{NATIONAL}~",
        f"{header([7])}~~{NATIONAL}",
        f"{header([7])}~{NATIONAL}~{NATIONAL}",
        f"{header([7, 8])}~{NATIONAL}",
        f"{header([7, 8])}~{NATIONAL}~",
        f"{header([])}~{NATIONAL}",
        f"{header([7])}A~{NATIONAL}",
        f"{header([7])}.A~{NATIONAL}",
        f" {header([7])}~{NATIONAL}",
        f"{header([7])}~ {NATIONAL}",
        f"{header([7])}~{NATIONAL}\n",
        f"{header([7])}~{NATIONAL}=",
        f"{header([7])}%7E{NATIONAL}",
        # type and version
        a_header(number(2, 6) + number(1, 6) + number(1, 12) + "0" + fibonacci(7)) + f"~{NATIONAL}",
        a_header(number(3, 6) + number(2, 6) + number(1, 12) + "0" + fibonacci(7)) + f"~{NATIONAL}",
        a_header(number(3, 6) + number(0, 6) + number(1, 12) + "0" + fibonacci(7)) + f"~{NATIONAL}",
        # more IDs than there are sections, and numbers that do not end
        a_header(number(3, 6) + number(1, 6) + number(4095, 12) + "0" + fibonacci(7)) + f"~{NATIONAL}",
        a_header(number(3, 6) + number(1, 6) + number(1, 12) + "1" + fibonacci(7) + fibonacci(20_000)) + f"~{NATIONAL}",
        a_header(number(3, 6) + number(1, 6) + number(1, 12) + "0" + "01" * 20 + "1") + f"~{NATIONAL}",
        a_header(number(3, 6) + number(1, 6) + number(1, 12) + "0" + "0" * 30) + f"~{NATIONAL}",
        a_header(number(3, 6) + number(1, 6) + number(1, 12) + "0" + fibonacci(7) + "01") + f"~{NATIONAL}",
        "D" * (MAX_LENGTH + 1),
    ],
)
@pytest.mark.parametrize("sid", ["7", "-1"])
def test_unreadable(text: str, sid: str) -> None:
    assert grants(f"{header([7])}~{NATIONAL}", sid)
    with pytest.raises(Unreadable):
        read(text, sid, VENDOR, PURPOSES)


def test_no_more_ids_are_made_of_a_header_than_there_are_sections() -> None:
    """A few characters could list millions of them."""
    bits = number(3, 6) + number(1, 6) + number(400, 12) + ("1" + fibonacci(1) + fibonacci(20_000)) * 400
    with pytest.raises(Unreadable, match="lacks a section"):
        read(f"{a_header(bits)}~{NATIONAL}", "7", VENDOR, PURPOSES)


def test_a_string_is_so_long_at_most() -> None:
    long = Tc(vendors=[VENDOR, 11_830], vendors_li=[11_830]).text()
    text = gpp({2: long, 7: NATIONAL})
    assert len(long) < MAX_LENGTH < len(text)
    with pytest.raises(Unreadable, match="too long"):
        read(text, "7", VENDOR, PURPOSES)
    assert grants(gpp({2: long}), "2")


# --- sections --------------------------------------------------------------------------------------------------------


def test_only_sections_in_force_count() -> None:
    both = gpp({2: REFUSING_TC, 7: NATIONAL})
    assert grants(both, "7")
    assert not grants(both, "2")
    assert not grants(both, "2,7")
    assert grants(both, "-1")


def test_what_is_not_in_force_must_be_whole_all_the_same() -> None:
    assert section_text(8).endswith(".QA")
    california = [section_text(8)[:-cut] for cut in (2, 3, 4)]
    for broken in (gpp({2: TC[:-3], 7: NATIONAL}), *(gpp({7: NATIONAL, 8: each}) for each in california)):
        for sid in ("7", "-1"):
            with pytest.raises(Unreadable):
                read(broken, sid, VENDOR, PURPOSES)


@pytest.mark.parametrize("unknown", [1, 3, 4, 5, 28, 63])
def test_sections_that_can_not_be_read(unknown: int) -> None:
    """They refuse where they are in force; elsewhere they are in the way only at the end, where they may be cut off."""
    with pytest.raises(Unreadable):
        read(gpp({unknown: CANADA}), str(unknown), VENDOR, PURPOSES)
    if unknown < 7:
        before = gpp({unknown: CANADA, 7: NATIONAL})
        assert grants(before, "7")
        assert not grants(before, str(unknown))
        assert not grants(before, f"{unknown},7")
        for junk in ("", ".", "A.", "A+", "A A"):
            with pytest.raises(Unreadable):
                read(gpp({unknown: junk, 7: NATIONAL}), "7", VENDOR, PURPOSES)
    if unknown > 2:
        with pytest.raises(Unreadable):
            read(gpp({2: TC, unknown: CANADA}), "2", VENDOR, PURPOSES)


@pytest.mark.parametrize(
    ("text", "granted"),
    [("1YNN", True), ("1---", True), ("1NNN", True), ("1-N-", True), ("1YYN", False), ("1-Y-", False)],
)
def test_us_privacy(text: str, granted: bool) -> None:
    assert (us.us_privacy_refusal(text) is None) is granted
    assert grants(gpp({6: text}), "6") is granted


@pytest.mark.parametrize("text", ["", "1", "1YN", "1YNNN", "1yNN", "0YNN", "2YNN", "1YN.", "1Y N", "1YNN\n", "1Y0N"])
def test_us_privacy_that_is_none(text: str) -> None:
    for sid in ("6", "-1"):
        with pytest.raises(Unreadable):
            read(gpp({6: text}), sid, VENDOR, PURPOSES)


@LAYOUTS
@pytest.mark.parametrize("unit", UNITS)
def test_what_grants(section: int, version: int, unit: Unit) -> None:
    for values in (us_values(section, version), [0 if v != 2 else 2 for v in us_values(section, version)]):
        for after in afters(section):
            assert (
                us.section_refusal(section, us_text(section, values, version=version, after=after, unit=unit)) is None
            )


def afters(section: int) -> list[str]:
    return [us_subsection(section), *(["01" * 8, "10" * 8] if section in WITH_SENSITIVE_SUBSECTION else [])]


@pytest.mark.parametrize(("section", "version"), SUBDIVIDED)
@pytest.mark.parametrize("unit", UNITS)
def test_what_lacks_its_subsection(section: int, version: int, unit: Unit) -> None:
    """It may have been cut off, and with it a no: the rest of a section with one is what a section without it was."""
    values = us_values(section, version)
    lacking = us_text(section, values, version=version, after="", unit=unit)
    for after in [*afters(section), *([] if section in WITHOUT_GPC else [GPC_ON])]:
        assert us_text(section, values, version=version, after=after, unit=unit).partition(".")[0] == lacking
    with pytest.raises(Unreadable, match=r"^lacks a subsection$"):
        us.section_refusal(section, lacking)
    for sections in ({section: lacking}, {2: TC, section: lacking}, {section: lacking, 63: CANADA}):
        for sid in (str(section), "-1"):
            with pytest.raises(Unreadable, match=r"^lacks a subsection$"):
                read(gpp(sections), sid, VENDOR, PURPOSES)


@pytest.mark.parametrize("section", WITHOUT_SUBSECTION)
def test_a_subsection_where_there_is_none(section: int) -> None:
    text = section_text(section)
    assert "." not in text
    assert us.section_refusal(section, text) is None
    for after in (GPC_OFF, GPC_ON, number(0, 16), "0"):
        with pytest.raises(Unreadable, match=r"^has a subsection where there is none$"):
            us.section_refusal(section, us_text(section, us_values(section), after=after))
    with pytest.raises(Unreadable, match=r"^has a subsection where there is none$"):
        us.section_refusal(section, text + ".")


def test_which_sections_have_a_subsection() -> None:
    assert {section for section, layouts in us._SECTIONS.items() if not layouts[0].after} == WITHOUT_SUBSECTION
    assert all(len({layout.after for layout in layouts}) == 1 for layouts in us._SECTIONS.values())


def refused_answers(name: str) -> set[int]:
    if name.startswith(("Sensitive", "Mspa")):
        return set()
    return {2} if name.endswith("Notice") else {1}


@LAYOUTS
def test_every_answer_of_every_field(section: int, version: int) -> None:
    names, granting = us_names(section, version), us_values(section, version)
    for at, name in enumerate(names):
        for answer in range(4):
            values = [*granting[:at], answer, *granting[at + 1 :]]
            text = us_text(section, values, version=version)
            if answer == 3 or (name == "MspaCoveredTransaction" and answer == 0):
                with pytest.raises(Unreadable, match="not defined"):
                    us.section_refusal(section, text)
            else:
                refused = us.section_refusal(section, text) is not None
                assert refused is (answer in refused_answers(name)), (name, answer)


@LAYOUTS
def test_global_privacy_control_in_a_section(section: int, version: int) -> None:
    granting, opted_out = us_values(section, version), us_values(section, version, SaleOptOut=1)
    for unit in UNITS:

        def refusal(values: list[int], after: str, unit: Unit = unit) -> str | None:
            return us.section_refusal(section, us_text(section, values, version=version, after=after, unit=unit))

        if section in WITHOUT_GPC:
            for after in (GPC_OFF, GPC_ON):
                with pytest.raises(Unreadable):
                    refusal(granting, after)
        else:
            assert refusal(granting, GPC_OFF) is None
            assert refusal(granting, GPC_ON) == "carries Global Privacy Control"
            assert refusal(opted_out, GPC_OFF) == "opts out"
            assert refusal(opted_out, GPC_ON) == "opts out"


@LAYOUTS
def test_a_section_that_is_not_exactly_one(section: int, version: int) -> None:
    text = us_text(section, us_values(section, version), version=version, unit=6)
    core, dot, after = text.partition(".")
    rest = dot + after
    assert us.section_refusal(section, text) is None
    broken = [
        "",
        rest,
        core[:-1] + rest,
        core[:-2] + rest,
        core + "B" + rest,
        core + "AA" + rest,
        core[:-1] + "_" + rest,
        text[:-1],
        text[:-2],
        text + "B",
        text + "AA",
        text[:-1] + "_",
        text + ".",
        text + (rest or "." + core),
        core + ".",
        core + ".A",
        core + "." + text_of("000", 8),
        core + "." + text_of("100", 8),
        core + "." + text_of("110", 8),
        core + "." + text_of(GPC_OFF + "1", 8),
        core + "." + text_of(GPC_OFF, 8) + "AA",
        core + "." + text_of(GPC_OFF, 8) + "." + text_of(GPC_OFF, 8),
        core + "." + text_of("01" * 6, 6),
        core + "." + text_of("01" * 9, 8),
        core + "." + text_of("11" + "00" * 7, 8),
        "." + text,
        "~" + text,
        " " + text,
        text_of(number(version + 2, 6))[:1] + text[1:],
        "A" + text[1:],
    ]
    for each in broken:
        with pytest.raises(Unreadable):
            us.section_refusal(section, each)


def test_the_national_section_is_read_as_its_version_says() -> None:
    first, second = (us_text(7, us_values(7, version), version=version) for version in (1, 2))
    assert len(first) < len(second)
    for crossed in ("C" + first[1:], "B" + second[1:]):
        with pytest.raises(Unreadable):
            us.section_refusal(7, crossed)


def test_the_sections_are_those_of_the_specification() -> None:
    assert us.SECTIONS == {section for section, _ in US_FIELDS} == set(range(7, 28))


@pytest.mark.parametrize("published", GPP)
def test_published(published: PublishedGpp) -> None:
    if published.unreadable:
        with pytest.raises(Unreadable, match=f"^{published.unreadable}$"):
            read(published.text, published.sid, VENDOR, PURPOSES)
    else:
        assert grants(published.text, published.sid) is published.granted
