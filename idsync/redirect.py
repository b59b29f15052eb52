"""Where a sync call may send the visitor on to: the allow-list, and the macros that tell the next hop who comes.

The check is one strict pattern over the raw text rather than a URL parser, because parsers disagree with browsers:
`urlsplit` reads `https://evil.example\\@good.example` as host good.example, browsers go to evil.example. What the
pattern passes has one reading only, and leaves byte for byte as it was checked, but for the values of macros. Those
stand after the host, and can neither end a segment of the path nor make a dot segment, whatever they hold.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple
from urllib.parse import quote

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
# Encoded once more it has to fit the request line, of at most 8190 bytes, of the call that brings it.
MAX_BYTES = 4096
# The next hop has that limit too. A macro is short and a consent string long: repeated, they would make megabytes.
MAX_LOCATION_BYTES = 8190
MAX_MACROS = 8
_MAX_PORT = 65535
_DEFAULT_PORTS = {"https": 443, "http": 80}

# Everything that browsers strip, fold or read in their own way: blanks, controls, backslash, non-ASCII. And broken
# escapes: some readers refuse them, and the value of a macro could complete one.
_UNSAFE = re.compile(r"[^\x21-\x7e]|\\|%(?![0-9A-Fa-f]{2})")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_NAME = rf"{_LABEL}(?:\.{_LABEL})*"
_PORT = r"[1-9][0-9]{0,4}"
_URL = re.compile(
    rf"(?P<scheme>https?)://(?P<host>{_NAME}|\[::1\])(?::(?P<port>{_PORT}))?(?P<path>/[^?#]*)?(?:[?#].*)?"
)
_ENTRY = re.compile(rf"(?P<host>\.?{_NAME}|\[::1\])(?::(?P<port>{_PORT}))?(?P<path>(?:/[A-Za-z0-9._~-]+)*/?)")
# Browsers take a host for an IPv4 address by its last label, and then know many spellings of it.
_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_BYTE}(?:\.{_BYTE}){{3}}")

# A page that encodes the whole URL with encodeURI first, and then as a value, sends the second spelling.
_MACRO_NAME = r"DD_UUID|GDPR(?:_CONSENT_[0-9]+)?"
_MACRO = re.compile(rf"\$(?:\{{({_MACRO_NAME})\}}|%7[Bb]({_MACRO_NAME})%7[Dd])")
# Browsers fold the first two dots, encoded or not. Some servers decode %2F first, and some cut a segment at its ";".
_DOT_SEGMENT = re.compile(r"(?:/|%2f|%5c)(?:\.|%2e)+(?=/|%2f|%5c|;|$)", re.IGNORECASE)
# No UUID, flag or consent string looks like that; in a path it would be a step upwards, for browsers or for servers.
_STEPS = re.compile(r"\.+|.*[/\\].*", re.DOTALL)


class _Entry(NamedTuple):
    """Of the allow-list. `host` with a dot in front: it and its subdomains. `port`: None for any."""

    host: str
    port: int | None
    path: str


def entry_fault(entry: str) -> str | None:
    """Why `entry` can't stand in the allow-list, or None."""
    match = _ENTRY.fullmatch(entry)
    if match is None or match["host"] != match["host"].lower() or int(match["port"] or 0) > _MAX_PORT:
        return (
            'must be a lower-case host, "dpm.demdex.net", or ".example.com" for it and its subdomains; '
            'then, if need be, a port and a path, "partner.example:8443/cb"'
        )
    if _NUMERIC.fullmatch(match["host"]) and not _IPV4.fullmatch(match["host"]):
        return "must be an IPv4 address of four decimal numbers, without subdomains, or no address at all"
    if _DOT_SEGMENT.search(match["path"]):
        return 'must have no path with "." or ".." as a segment: browsers resolve those'
    return None


def fault(url: str, entries: Sequence[str]) -> str | None:
    """Why `url` may not be redirected to, or None.

    `entries` without `entry_fault`: an exact host, or ".example.com" for it and its subdomains; with a port, that one
    alone, else any; with a path, that one and what lies below it. http is for loopback hosts alone, and they too must
    be listed. A macro can stand after the host only: the pattern has no other place for one.
    """
    if reason := _text_fault(url):
        return reason
    match = _URL.fullmatch(url)
    if match is None or int(match["port"] or 0) > _MAX_PORT:
        return "redir must be https://host/path: absolute, without user name, macros after the host only"
    scheme, host, path = match["scheme"], match["host"].lower(), match["path"] or "/"
    if scheme == "http" and host not in LOOPBACK_HOSTS:
        return "redir must begin with https://"
    # With the macros taken out: each may turn out empty.
    if _DOT_SEGMENT.search(_MACRO.sub("", path)):
        return 'the path of redir has "." or ".." as a segment, or a macro beside nothing but dots'
    port = int(match["port"] or _DEFAULT_PORTS[scheme])
    if not any(_allows(_entry(entry), host, port, path) for entry in entries):
        return "redir leads to no place in endpoint.redirect_hosts"
    return None


def expand(url: str, uuid: str, gdpr: str = "", gdpr_consent: str = "") -> str:
    """`url`, checked by `fault`, with each ${DD_UUID}, ${GDPR} and ${GDPR_CONSENT_<vendor>} replaced by its value.

    "" for what there is not to tell. It is one pass: a value that looks like a macro stays as it is. A macro that is
    encoded once more (`%24%7BDD_UUID%7D`) belongs to the next hop and stays too. Where all would be longer than
    MAX_LOCATION_BYTES, each macro becomes "": half of a consent string may say more than the whole.
    """
    uuid, gdpr, gdpr_consent = _encoded(uuid), _encoded(gdpr), _encoded(gdpr_consent)

    def value(macro: re.Match[str]) -> str:
        name = macro[1] or macro[2]
        return {"DD_UUID": uuid, "GDPR": gdpr}.get(name, gdpr_consent)

    location = _MACRO.sub(value, url)
    return location if len(location) <= MAX_LOCATION_BYTES else _MACRO.sub("", url)


def _text_fault(url: str) -> str | None:
    if len(url) > MAX_BYTES:
        return f"redir is longer than {MAX_BYTES} bytes"
    if _UNSAFE.search(url):
        return "redir holds a space, a control character, a backslash, a non-ASCII character or a broken %-escape"
    if len(_MACRO.findall(url)) > MAX_MACROS:
        return f"redir holds more than {MAX_MACROS} macros"
    return None


def _encoded(value: str) -> str:
    return "" if _STEPS.fullmatch(value) else quote(value, safe="")


@cache
def _entry(text: str) -> _Entry:
    """Entries are a setting, so there are few."""
    match = _ENTRY.fullmatch(text)
    if match is None:
        raise ValueError("the entry was not checked with entry_fault")
    return _Entry(match["host"], int(match["port"]) if match["port"] else None, match["path"])


def _allows(entry: _Entry, host: str, port: int, path: str) -> bool:
    below = path if entry.path.endswith("/") else f"{path}/"
    border = entry.path if entry.path.endswith("/") else f"{entry.path}/"
    return _holds(entry.host, host) and entry.port in {None, port} and below.startswith(border)


def _holds(listed: str, host: str) -> bool:
    if listed.startswith("."):
        return host == listed[1:] or host.endswith(listed)
    return host == listed
