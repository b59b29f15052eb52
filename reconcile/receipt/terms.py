"""The figures of a receipt. Pure.

Source: Audience Manager documentation, "Sample Message to Partners after Inbound Processing", and for the older
spelling of the terms its edition of 2013. `Invalid Device ID` stands in the Onboarding Status Report.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

RECEIVED = "Records received"
FORMAT = "Format Errors"
INVALID = "Invalid AAM ID"
INVALID_DEVICE = "Invalid Device ID"
NO_MATCH = "No Matching AAM ID"
NO_TRAIT = "No Trait Realized"
PROCESSED = "Records processed"
STORED = "Stored Records"
FAILED_USERS = "Total users that have traits which failed validation"
FAILED_TRAITS = "Total traits failed validation"

# What Stored Records lacks of Records processed.
ERRORS = (FORMAT, INVALID, INVALID_DEVICE, NO_MATCH, NO_TRAIT)
TERMS = (
    *(RECEIVED, *ERRORS, PROCESSED, STORED),
    *("Total devices", "Total signals", "Total unused signals", "Total realized traits", "Total removed traits"),
    *(FAILED_TRAITS, FAILED_USERS),
)
_OLDER = {
    "Invalid lines": FORMAT,
    "Invalid UUIDs": INVALID,
    "Failed UUID lookup": NO_MATCH,
    "Records without traits": NO_TRAIT,
    "Succeeded": STORED,
}
_NAMES = {re.sub(r"\s+", " ", name).lower(): term for name, term in ({term: term for term in TERMS} | _OLDER).items()}
_STARTED, _ENDED = "job start time", "job end time"

_BLANK = r"[ \t\u00a0\u2007\u202f]"
_LABELS = "|".join(re.escape(name).replace("\\ ", f"{_BLANK}{{1,4}}") for name in [*_NAMES, _STARTED, _ENDED])
# A line may be quoted by a mail program, marked as bold, or be the item of a list.
_LINE = re.compile(
    rf"^[ \t>|*_•\-\u00a0]{{0,40}}({_LABELS})[*_]{{0,2}}"
    rf"{_BLANK}{{0,20}}[:=\t]{_BLANK}{{0,20}}[*_]{{0,2}}([^\r\n]{{0,200}})$",
    re.IGNORECASE | re.MULTILINE,
)
_NUMBER = re.compile(r"[0-9]{1,18}|[0-9]{1,3}(?:([,.'\u2019 \u00a0\u2007\u202f])[0-9]{3})(?:\1[0-9]{3}){0,4}")
_TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?: ?(?:Z|UTC|GMT))?")
# What ends a name: nothing that can stand in one.
_FILE = re.compile(r"(?:ftp_dpm|adobe_id|c2c_id)_[A-Za-z0-9_.-]{1,240}")


class Receipt(NamedTuple):
    """`figures` by term, those that it tells. `files`: names without folders, each once, in the receipt's order. Times
    in milliseconds; the message names no zone, they are read as UTC.
    """

    figures: Mapping[str, int]
    files: tuple[str, ...]
    started: int | None = None
    ended: int | None = None


def parse(texts: Iterable[str]) -> Receipt:
    """The receipt that stands in the first of these texts that tells how many records were received or stored.

    Raises ValueError where there is none, or, saying which, where a figure can't be read or stands twice with different
    values in the best of them.
    """
    fault: ValueError | None = None
    for text in texts:
        try:
            receipt = _read(text.replace("\r\n", "\n").replace("\r", "\n"))
        except ValueError as error:
            fault = fault or error
            continue
        if RECEIVED in receipt.figures or STORED in receipt.figures:
            return receipt
    raise fault or ValueError(f'no line "{RECEIVED}: <number>"')


def _read(text: str) -> Receipt:
    figures: dict[str, int] = {}
    times: dict[str, int] = {}
    for match in _LINE.finditer(text):
        label, value = re.sub(rf"{_BLANK}+", " ", match[1]).lower(), match[2].strip(" \t*_\u00a0")
        if label in {_STARTED, _ENDED}:
            _put(times, label, _time(label, value))
        else:
            _put(figures, _NAMES[label], _number(_NAMES[label], value))
    files = dict.fromkeys(name.rstrip(".-_") for name in _FILE.findall(text))
    return Receipt(figures, tuple(files), times.get(_STARTED), times.get(_ENDED))


def _put(found: dict[str, int], name: str, value: int) -> None:
    if found.setdefault(name, value) != value:
        raise ValueError(f'"{name}" stands twice, with {found[name]:,} and {value:,}: give one receipt at a time')


def _number(term: str, text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f'"{term}" is {text[:40]!r}, which is no whole number')
    return int(re.sub(r"[^0-9]", "", text))


def _time(label: str, text: str) -> int:
    if (match := _TIME.fullmatch(text)) is None:
        raise ValueError(f'"{label}" is {text[:40]!r}, which is no time such as 2018-05-17 18:07:49')
    try:
        at = datetime.fromisoformat(f"{match[1]}T{match[2]}").replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(f'"{label}" is {text[:40]!r}: there is no such time') from None
    return int(at.timestamp() * 1000)
