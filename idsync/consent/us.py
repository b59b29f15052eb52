"""The choices that US states give: the US Privacy string, and the sections of a GPP string for the states.

https://github.com/InteractiveAdvertisingBureau/USPrivacy and, for the sections,
https://github.com/InteractiveAdvertisingBureau/Global-Privacy-Platform/tree/main/Sections

A section is a core, and where its layout has one, a subsection after a dot: consent tools write it, and without it
there would be no telling a section that was cut off at its dot, and so lost its Global Privacy Control. All of a core
but its version is fields of two bits: 0 is "not applicable", 1 and 2 are two answers, 3 is not defined.
"""

import re
from typing import Literal, NamedTuple

from idsync.consent.bits import Bits, Unreadable

US_PRIVACY_SECTION = 6

# Version 1: notice given, opt-out of sale, LSPA covered; Y, N, or - for "does not apply".
_US_PRIVACY = re.compile(r"1[YN-]([YN-])[YN-]")

# What a field asks, and which answers are a no.
_NOTICE = "n"  # was notice given? 2 is "no": nobody can opt out of what he was not told of
_OPT_OUT = "o"  # did the visitor opt out, of sale, sharing, targeted advertising? 1 is "yes"
_CONSENT = "c"  # consent for a child's data, or for uses beyond those told of? 1 is "no"
_COVERED = "m"  # is the transaction covered by the MSPA? Must be answered
_OTHER = "x"  # sensitive data, which an ID is not, and how the MSPA is applied: no answer is a no
_REFUSED = {
    (_NOTICE, 2): "tells of no notice",
    (_OPT_OUT, 1): "opts out",
    (_CONSENT, 1): "lacks a consent",
}
_UNDEFINED = 3
_GPC = 1


class _Layout(NamedTuple):
    """`version` that the core begins with; `fields` after it. `after`: what stands after the dot."""

    version: int
    fields: str
    after: Literal["", "gpc", "sensitive"] = "gpc"


def _sensitive(categories: int) -> str:
    return _OTHER * categories


def _layout(
    first: str, sensitive: int, consents: int, after: Literal["", "gpc", "sensitive"] = "gpc"
) -> tuple[_Layout, ...]:
    """The common order: notices and opt-outs, categories of sensitive data, consents, and three fields of the MSPA."""
    return (_Layout(1, first + _sensitive(sensitive) + _CONSENT * consents + "mxx", after),)


# Three notices (processing, sale, targeted advertising) and two opt-outs (sale, targeted advertising).
_STATE = "nnnoo"
# The states of 2025 give the MSPA's version first. Their specification puts a header before it that can't be encoded
# as written; this is what the IAB's own encoder makes.
_LATER = "mxnnnoo"

_SECTIONS: dict[int, tuple[_Layout, ...]] = {
    # 7 national: also sharing. Version 2 has more categories of sensitive data, and a third age of children.
    7: (_Layout(1, "nnnnxxooo" + _sensitive(12) + "cccmxx"), _Layout(2, "nnnnxxooo" + _sensitive(16) + "ccccmxx")),
    8: _layout("nnxoo", 9, 3),  # California: sale and sharing
    9: _layout(_STATE, 8, 1, ""),  # Virginia
    10: _layout(_STATE, 7, 1),  # Colorado
    11: _layout("nnnxoo", 8, 1, ""),  # Utah
    12: _layout(_STATE, 8, 3),  # Connecticut
    13: _layout(_STATE, 8, 4, ""),  # Florida
    14: _layout(_STATE, 8, 4),  # Montana
    15: _layout(_STATE, 11, 4),  # Oregon
    16: _layout(_STATE, 8, 2),  # Texas
    17: _layout(_STATE, 9, 6),  # Delaware
    18: _layout("nnnxoo", 8, 1),  # Iowa
    19: _layout(_STATE, 8, 2),  # Nebraska
    20: _layout(_STATE, 8, 4),  # New Hampshire
    21: _layout(_STATE, 10, 6),  # New Jersey
    22: _layout(_STATE, 8, 2),  # Tennessee
    23: _layout(_STATE, 8, 2),  # Minnesota
    24: (_Layout(1, _LATER + "c"),),  # Maryland
    25: (_Layout(1, _LATER + "cc", "sensitive"),),  # Indiana
    26: (_Layout(1, _LATER + "cc", "sensitive"),),  # Kentucky
    27: (_Layout(1, _LATER + "cc", "sensitive"),),  # Rhode Island
}
SECTIONS = frozenset(_SECTIONS)


def us_privacy_refusal(text: str) -> str | None:
    """Why a US Privacy string is a no, or None. Raises Unreadable."""
    match = _US_PRIVACY.fullmatch(text)
    if match is None:
        raise Unreadable("is not a US Privacy string")
    return "opts out of sale" if match[1] == "Y" else None


def section_refusal(section: int, text: str) -> str | None:
    """Why a section, one of SECTIONS, is a no, or None. Every bit is read either way. Raises Unreadable."""
    core, dot, after = text.partition(".")
    bits = Bits(core)
    version = bits.integer(6)
    layout = next((layout for layout in _SECTIONS[section] if layout.version == version), None)
    if layout is None:
        raise Unreadable("has a section of an unknown version")
    reason = _fields(bits, layout.fields)
    bits.end(groups=False)
    if bool(dot) != bool(layout.after):
        raise Unreadable("has a subsection where there is none" if dot else "lacks a subsection")
    if not layout.after:
        return reason
    bits = Bits(after)
    if layout.after == "gpc":
        if bits.integer(2) != _GPC:
            raise Unreadable("has a subsection of an unknown type")
        if bits.flag():
            reason = reason or "carries Global Privacy Control"
    else:
        _fields(bits, _sensitive(8))
    bits.end(groups=False)
    return reason


def _fields(bits: Bits, fields: str) -> str | None:
    reason = None
    for field in fields:
        answer = bits.integer(2)
        if answer == _UNDEFINED or (field == _COVERED and not answer):
            raise Unreadable("has an answer that is not defined")
        reason = reason or _REFUSED.get((field, answer))
    return reason
