"""Identifiers: what a DPID, a UUID and a customer ID may look like.

The customer-ID rules are regular expressions in the dialect that Python's `re` and RE2 share, because the endpoint
applies them to one ID at a time in Python and the reconciler to millions at a time inside DuckDB. One table, two users.
"""

import re
from dataclasses import dataclass

MAX_CUSTOMER_ID_BYTES = 512
UUID_DIGITS = 38
UUID_ENTROPY_BYTES = 24

_UUID = re.compile(r"[0-9]{38}")
_DPID = re.compile(r"[1-9][0-9]{0,9}")


@dataclass(frozen=True, slots=True)
class Rule:
    """A reason to refuse a customer ID. `pattern` is searched for, anywhere in the ID."""

    reason: str
    pattern: str
    explanation: str


# Control characters first: to Python `$` stands before a line break at the end, too, to RE2 at the end alone.
CUSTOMER_ID_RULES = (
    Rule("id-control-character", r"[\x00-\x1f\x7f-\x9f]", "the customer ID holds a tab, a line break or the like"),
    Rule("id-empty", r"^ *$", "the customer ID is empty or blank"),
    Rule("id-colon", r":|%3[aA]", "the customer ID holds ':' or '%3A', which Audience Manager reserves"),
)
ID_TOO_LONG = "id-too-long"

# IDs of these alone can break no rule but that of length; nearly all are, and one look then does for three.
_PLAIN = re.compile(r"[!-$&-9;-~]+")
_COMPILED = tuple((rule.reason, re.compile(rule.pattern, re.ASCII)) for rule in CUSTOMER_ID_RULES)


def customer_id_fault(customer_id: str) -> str | None:
    """The reason why this customer ID is refused, or None. Reasons: those of CUSTOMER_ID_RULES, then `id-too-long`."""
    if not _PLAIN.fullmatch(customer_id):
        for reason, pattern in _COMPILED:
            if pattern.search(customer_id):
                return reason
    if len(customer_id.encode()) > MAX_CUSTOMER_ID_BYTES:
        return ID_TOO_LONG
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
