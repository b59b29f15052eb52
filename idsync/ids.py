"""Identifiers: what a DPID, a UUID and a customer ID may look like.

One function judges customer IDs, `customer_id_fault`, for the endpoint and for the reconciler alike. Nearly all IDs are
ordinary: one look at `IdRules.ordinary` clears them. That pattern is in the dialect which Python's `re` and RE2 share,
so that the reconciler can clear whole columns with it and bring only the rest here.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal, NamedTuple
from urllib.parse import unquote

from idsync import personal, placeholders

MAX_CUSTOMER_ID_BYTES = 512
UUID_DIGITS = 38
UUID_ENTROPY_BYTES = 24

_UUID = re.compile(r"[0-9]{38}")
_DPID = re.compile(r"[1-9][0-9]{0,9}")

CheckName = Literal["sentinel", "macro", "email", "phone", "card"]
Format = Literal["any", "hashed-email"]
COUNTRIES = personal.COUNTRIES

ID_TOO_LONG = "id-too-long"
DEVICE_ID_SHAPE = "device-id-shape"
_NATIONAL_ID = "id-national-id"
_NOT_HASHED_EMAIL = "id-not-hashed-email"

# Every reason to refuse a customer ID, in the order in which they are looked for.
EXPLANATIONS = {
    "id-control-character": "the customer ID holds a tab, a line break or the like",
    "id-empty": "the customer ID is empty or blank",
    "id-colon": "the customer ID holds ':' or '%3A', which Audience Manager reserves",
    ID_TOO_LONG: f"the customer ID is longer than {MAX_CUSTOMER_ID_BYTES} bytes",
    "id-sentinel": "the customer ID is a word for nothing, such as null, undefined, 0 or an all-zero device ID",
    "id-macro": "the customer ID is or holds a macro that was not expanded, such as ${UID}, [UID] or %%UID%%",
    "id-email": "the customer ID holds an e-mail address; send a random ID or a hash",
    "id-phone": "the customer ID is a phone number; send a random ID or a hash",
    "id-card": "the customer ID is the number of a payment card; send a random ID or a hash",
    _NATIONAL_ID: "the customer ID is a national ID number of a person; send a random ID or a hash",
    _NOT_HASHED_EMAIL: "the data source takes SHA-256 hashes of e-mail addresses: 64 hex digits in lower case",
    DEVICE_ID_SHAPE: "the device ID has not the form that its global data source asks for",
}

# Control characters first: a line break by itself is blank, too.
_STRUCTURE = (
    ("id-control-character", re.compile(r"[\x00-\x1f\x7f-\x9f]")),
    ("id-empty", re.compile(r"^ *$")),
    ("id-colon", re.compile(r":|%3[aA]")),
)

# What follows can break no rule of structure, is no macro, holds no e-mail address, and is no phone number: that takes
# a sign which is not among these, or one between digits alone. The words for nothing start with N or U, are no longer
# than `undefined`, and have no digit. No card has a letter or 20 digits, or starts with 0, 1, 7, 8 or 9.
_SIGNS = "._+/=-"
_SIGN_OR_WORD = f"[A-Za-z0-9{_SIGNS}]"
_LETTER_BUT_N_U = "[A-MO-TV-Za-mo-tv-z]"
_TEXT = "|".join(
    [
        f"{_LETTER_BUT_N_U}{_SIGN_OR_WORD}*",
        f"[NUnu]{_SIGN_OR_WORD}{{9,}}",
        f"[NUnu][A-Za-z{_SIGNS}]{{0,8}}[0-9]{_SIGN_OR_WORD}*",
        f"[0-9][0-9{_SIGNS}]*[A-Za-z]{_SIGN_OR_WORD}*",
    ]
)
_ORDINARY = re.compile(f"0+[1-9][0-9]*|[1789][0-9]*|[2-6][0-9]{{0,11}}|[2-6][0-9]{{19,}}|{_TEXT}")
_ORDINARY_BUT_FOR_CARDS = re.compile(f"0*[1-9][0-9]*|{_TEXT}")


class Plain(NamedTuple):
    """A kind of IDs that both patterns match, told by bytes alone: what they begin with and consist of, how long they
    are at most."""

    starts: bytes
    characters: bytes
    longest: int


def _those_of(pattern: str) -> bytes:
    return bytes(byte for byte in range(0x80) if re.fullmatch(pattern, chr(byte)))


PLAIN = (
    Plain(_those_of(_LETTER_BUT_N_U), _those_of(_SIGN_OR_WORD), MAX_CUSTOMER_ID_BYTES),
    Plain(b"123456789", b"0123456789", 12),
)


class Shape(NamedTuple):
    """The form that all IDs of a data source have; `reason` is for those that don't.

    `hexadecimal`: an ID of this form is ordinary if it holds a letter.
    """

    pattern: re.Pattern[str]
    reason: str
    hexadecimal: bool = False


_LOWER_HEX = Shape(re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"), DEVICE_ID_SHAPE, hexadecimal=True)
_UPPER_HEX = Shape(re.compile(r"[0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12}"), DEVICE_ID_SHAPE, hexadecimal=True)
_ALPHANUMERIC = Shape(re.compile(r"[0-9A-Za-z]+"), DEVICE_ID_SHAPE)
_HASHED_EMAIL = Shape(re.compile(r"[0-9a-f]{64}"), _NOT_HASHED_EMAIL, hexadecimal=True)

# Audience Manager's global device data sources by DPID.
DEVICE_ID_SHAPES = {
    20914: _LOWER_HEX,  # Google Advertising ID
    20915: _UPPER_HEX,  # Apple IDFA
    121963: _LOWER_HEX,  # Roku RIDA
    488258: _LOWER_HEX,  # Amazon Fire TV
    1171485: _LOWER_HEX,  # LG LGUDID
    389146: _ALPHANUMERIC,  # Microsoft MAID
    963906: _ALPHANUMERIC,  # Samsung TIFA
    1171489: _ALPHANUMERIC,  # Vizio IFA
}

# Their integration codes, which are everybody's.
DEVICE_ID_CODES = {"DSID_20914": 20914, "DSID_20915": 20915}

_CHECKS: dict[CheckName, tuple[str, Callable[[str], bool]]] = {
    "sentinel": ("id-sentinel", placeholders.is_sentinel),
    "macro": ("id-macro", placeholders.holds_macro),
    "email": ("id-email", personal.holds_email),
    "phone": ("id-phone", personal.is_phone),
    "card": ("id-card", personal.is_card),
}


class IdRules(NamedTuple):
    """What is asked of the customer IDs of a data source, beyond their structure.

    An ID that `ordinary` matches in full, and that is not too long, breaks none of `checks`; None: any ID may.
    """

    ordinary: re.Pattern[str] | None
    checks: tuple[tuple[str, Callable[[str], bool]], ...]
    shape: Shape | None


def id_rules(
    dpid: int, form: Format = "any", unchecked: Iterable[CheckName] = (), national_ids: Iterable[str] = ()
) -> IdRules:
    """The rules of a data source; `national_ids` are countries, of COUNTRIES."""
    left_out, countries = frozenset(unchecked), tuple(national_ids)
    checks = [check for name, check in _CHECKS.items() if name not in left_out]
    if countries:
        checks.append((_NATIONAL_ID, partial(personal.is_national_id, countries=countries)))
    ordinary = _ORDINARY_BUT_FOR_CARDS if "card" in left_out else _ORDINARY
    shape = _HASHED_EMAIL if form == "hashed-email" else DEVICE_ID_SHAPES.get(dpid)
    return IdRules(None if countries else ordinary, tuple(checks), shape)


DEFAULT_RULES = id_rules(0)


def customer_id_fault(customer_id: str, rules: IdRules | None = None) -> str | None:
    """The reason why this customer ID is refused, of EXPLANATIONS, or None. Without `rules`: DEFAULT_RULES."""
    ordinary, checks, shape = rules or DEFAULT_RULES
    if ordinary is not None and ordinary.fullmatch(customer_id):
        if len(customer_id) > MAX_CUSTOMER_ID_BYTES:  # ordinary IDs are ASCII
            return ID_TOO_LONG
    elif reason := _structural_fault(customer_id) or _suspicion(customer_id, checks):
        return reason
    return None if shape is None or shape.pattern.fullmatch(customer_id) else shape.reason


def _structural_fault(customer_id: str) -> str | None:
    for reason, pattern in _STRUCTURE:
        if pattern.search(customer_id):
            return reason
    return ID_TOO_LONG if len(customer_id.encode()) > MAX_CUSTOMER_ID_BYTES else None


def _suspicion(customer_id: str, checks: Iterable[tuple[str, Callable[[str], bool]]]) -> str | None:
    """Templates and tag managers encode an ID once too often, or twice: it is looked at decoded, too."""
    texts = [customer_id]
    while "%" in texts[-1] and len(texts) <= 2:  # noqa: PLR2004
        texts.append(unquote(texts[-1]))
    for reason, applies in checks:
        for text in texts:
            if applies(text):
                return reason
    return None


def is_uuid(text: str) -> bool:
    """Whether `text` is an Audience Manager UUID: 38 ASCII digits, leading zeros included, never a number."""
    return _UUID.fullmatch(text) is not None


def parse_dpid(text: str) -> int | None:
    """The DPID in `text` (decimal, no sign, no leading zero, at most 10 digits), or None."""
    return int(text) if _DPID.fullmatch(text) else None


def uuid_from_bytes(entropy: bytes) -> str:
    """A UUID of 38 digits out of UUID_ENTROPY_BYTES random bytes; over 192 bits the modulo bias is below 2^-65."""
    if len(entropy) < UUID_ENTROPY_BYTES:
        raise ValueError(f"a UUID needs {UUID_ENTROPY_BYTES} random bytes or more, not {len(entropy)}")
    return str(int.from_bytes(entropy, "big") % 10**UUID_DIGITS).zfill(UUID_DIGITS)
