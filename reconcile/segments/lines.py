"""The grammar of an outbound line, as text and as the patterns that the engine matches. Pure.

    <UUID><SPACE><segment>,<segment>,…[<SPACE><removed segment>,…]

One space separates. The documentation's sample has two in each place, which is read, too; but in a line with a single
list two spaces may as well stand around an empty list of current segments, so such a line is refused: to take a removal
for the contrary would be worse. Source: Audience Manager documentation, "Outbound Data File Contents".
"""

import re
from typing import Literal

from idsync.ids import UUID_DIGITS

Reason = Literal["blank", "not-a-uuid", "no-segments", "bad-segments", "two-spaces", "too-many-lists"]

# In the order of their codes.
EXPLANATIONS: dict[Reason, str] = {
    "blank": "the line is empty",
    "not-a-uuid": f"the line does not begin with a UUID of {UUID_DIGITS} digits and a space",
    "no-segments": "nothing follows the UUID",
    "bad-segments": "a list of segments holds something else than numbers and commas",
    "two-spaces": "two spaces before a single list: it may be of current or of removed segments",
    "too-many-lists": "more than two lists of segments",
}
REASONS: tuple[Reason, ...] = tuple(EXPLANATIONS)

_LIST = "[0-9]+(?:,[0-9]+)*"
_UUID = f"[0-9]{{{UUID_DIGITS}}}"
LINE = f"{_UUID} {_LIST}(?: {_LIST})?\\n"  # after `narrowed`; RE2 and Python read it alike
LISTS_AT = UUID_DIGITS + 2  # counted from 1, as SQL does

_WIDE = re.compile(rf"^({_UUID})  ({_LIST})  ({_LIST})$".encode(), re.MULTILINE)
_ENDS_IN_SPACES = re.compile(rb" +(?=\n)")
_SEGMENTS = re.compile(_LIST)
_IS_UUID = re.compile(_UUID)
_NOT_ASCII = bytes(range(128)) + b"?" * 128


def narrowed(text: bytes) -> bytes:
    """Whole lines, with single spaces for the documented pairs, nothing blank at their ends, and ASCII alone.

    No line is added or lost. What is not ASCII is no part of the grammar: a question mark in its place is as wrong.
    """
    if not text.isascii():
        text = text.translate(_NOT_ASCII)
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
    if b" \n" in text:
        text = _ENDS_IN_SPACES.sub(b"", text)
    return _WIDE.sub(rb"\1 \2 \3", text) if b"  " in text else text


def reason(line: str) -> Reason:
    """Why a line that LINE does not match is refused."""
    line = line.rstrip("\n")
    if not line.strip():
        return "blank"
    uuid, *lists = line.rstrip(" ").split(" ")
    if not _IS_UUID.fullmatch(uuid):
        return "not-a-uuid"
    if not lists:
        return "no-segments"
    if len(lists) == 2 and not lists[0]:  # noqa: PLR2004
        return "two-spaces"
    filled = [segments for segments in lists if segments]
    if not all(_SEGMENTS.fullmatch(segments) for segments in filled):
        return "bad-segments"
    return "too-many-lists"
