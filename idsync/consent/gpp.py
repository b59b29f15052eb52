"""The IAB's Global Privacy Platform: a header that lists sections, and the sections, each after a tilde.

https://github.com/InteractiveAdvertisingBureau/Global-Privacy-Platform ("Consent String Specification" in Core,
"Section Information" in Sections). Which sections are in force is told beside the string (`gpp_sid`).
"""

import re
from typing import NamedTuple

from idsync.consent import tcf, us
from idsync.consent.bits import Bits, Unreadable

TCF_EU_SECTION = 2
# One may hold a whole TC string.
MAX_LENGTH = 4096

_TYPE = 3
_VERSION = 1
_NONE_IN_FORCE = "-1"
# 0 is what a consent tool says while it still loads.
_IN_FORCE = re.compile(r"[1-9][0-9]?(?:,[1-9][0-9]?)*")
# A section of a GPP string is spelled with these, the dot between its own parts.
_SECTION = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


class Reading(NamedTuple):
    """`in_force`: the IDs of the sections that apply, none with gpp_sid=-1. `refusal`: why one of them is a no."""

    in_force: frozenset[int]
    refusal: str | None


def read(text: str, sid: str, vendor: int, purposes: tuple[int, ...]) -> Reading:
    """A GPP string and the IDs of the sections in force, as `gpp` and `gpp_sid` have them. Raises Unreadable.

    Sections that are not in force are read all the same, so that a string which was cut off can't pass; what they say
    does not count.
    """
    if len(text) > MAX_LENGTH:
        raise Unreadable("is too long")
    in_force = _in_force(sid)
    header, *texts = text.split("~")
    ids = _section_ids(Bits(header), len(texts))
    if not in_force.issubset(ids):
        raise Unreadable("lacks a section that gpp_sid names")
    refusals = []
    for place, (section, section_text) in enumerate(zip(ids, texts, strict=True), 1):
        reason = _section_refusal(section, section_text, vendor, purposes, last=place == len(ids))
        if section in in_force:
            refusals.append(reason)
    return Reading(in_force, next(filter(None, refusals), None))


def _in_force(sid: str) -> frozenset[int]:
    if sid == _NONE_IN_FORCE:
        return frozenset()
    if len(sid) > MAX_LENGTH or not _IN_FORCE.fullmatch(sid):
        raise Unreadable("comes with a gpp_sid that is not a list of sections")
    ids = [int(part) for part in sid.split(",")]
    if len(set(ids)) != len(ids):
        raise Unreadable("comes with a gpp_sid that names a section twice")
    return frozenset(ids)


def _section_ids(bits: Bits, sections: int) -> list[int]:
    """In the order of the sections, which ascends: each is told by its distance from the one before."""
    if bits.integer(6) != _TYPE or bits.integer(6) != _VERSION:
        raise Unreadable("is not of version 1")
    ids: list[int] = []
    last = 0
    for _ in range(bits.integer(12)):
        is_range = bits.flag()
        first = last + bits.fibonacci()
        last = first + bits.fibonacci() if is_range else first
        if len(ids) + last - first >= sections:
            raise Unreadable("lacks a section that its header lists")
        ids.extend(range(first, last + 1))
    bits.end(groups=False)
    if len(ids) != sections:
        raise Unreadable("has a section that its header does not list")
    return ids


def _section_refusal(section: int, text: str, vendor: int, purposes: tuple[int, ...], *, last: bool) -> str | None:
    if section == TCF_EU_SECTION:
        return tcf.refusal(text, vendor, purposes)
    if section == us.US_PRIVACY_SECTION:
        return us.us_privacy_refusal(text)
    if section in us.SECTIONS:
        return us.section_refusal(section, text)
    # Canada's (5) among them: encoders in use write it in two ways that can't be told apart. Before another section it
    # is whole, whatever it says; at the end, nothing would tell that it was cut off.
    if last or not _SECTION.fullmatch(text):
        raise Unreadable("has a section that this version can't read")
    return "has a section in force that this version can't read"
