"""What a call's headers and connection say of who asks, as far as it bears on the call."""

from collections.abc import Iterable
from typing import NamedTuple

# by header, in lower case: field
FIELDS = {
    "cookie": "cookie",
    "sec-gpc": "sec_gpc",
    "origin": "origin",
    "referer": "referer",
    "user-agent": "user_agent",
    "sec-purpose": "sec_purpose",
    "purpose": "purpose",
    "x-moz": "x_moz",
    "x-purpose": "x_purpose",
    "x-forwarded-for": "forwarded_for",
}
_RAW_FIELDS = {header.encode(): field for header, field in FIELDS.items()}


class Signals(NamedTuple):
    """Headers by their names, "" where there is none. `peer`: the address that the connection comes from, "" for a
    socket of this machine.
    """

    cookie: str = ""
    sec_gpc: str = ""
    origin: str = ""
    referer: str = ""
    user_agent: str = ""
    sec_purpose: str = ""
    purpose: str = ""
    x_moz: str = ""
    x_purpose: str = ""
    forwarded_for: str = ""
    peer: str = ""


def from_raw(headers: Iterable[tuple[bytes, bytes]], peer: str) -> Signals:
    """Of headers as they came, with names in lower case. Repeated ones are joined as a WSGI server joins them."""
    found: dict[str, str] = {}
    for name, value in headers:
        field = _RAW_FIELDS.get(name)
        if field is not None:
            text = value.decode("latin-1")
            found[field] = f"{found[field]},{text}" if field in found else text
    return Signals(**found, peer=peer)
