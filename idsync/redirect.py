"""Where a sync call may send the visitor on to: the allow-list, and the macro that carries the UUID.

The check is one strict pattern over the raw text rather than a URL parser, because parsers disagree with browsers:
`urlsplit` reads `https://evil.example\\@good.example` as host good.example, browsers go to evil.example. What the
pattern passes has one reading only, and leaves byte for byte as it was checked.
"""

import re
from collections.abc import Sequence

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_MAX_PORT = 65535

# Everything that browsers strip, fold or read in their own way: blanks, controls, backslash, non-ASCII.
_UNSAFE = re.compile(r"[^\x21-\x7e]|\\")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_URL = re.compile(
    rf"(?P<scheme>https?)://(?P<host>{_LABEL}(?:\.{_LABEL})*|\[::1\])(?::(?P<port>[0-9]{{1,5}}))?(?P<rest>[/?#].*)?"
)
# A page that encodes the whole URL with encodeURI first, and then as a value, sends the second spelling.
_MACRO = re.compile(r"\$(?:\{DD_UUID\}|%7[Bb]DD_UUID%7[Dd])")


def fault(url: str, hosts: Sequence[str]) -> str | None:
    """Why `url` may not be redirected to, or None. `hosts`: exact ones, or ".example.com" for it and its subdomains.

    http is for loopback hosts alone, and they too must be listed. Any port will do. A macro can stand
    after the host only: the pattern has no other place for one.
    """
    if _UNSAFE.search(url):
        return "redir holds a space, a control character, a backslash or a non-ASCII character"
    match = _URL.fullmatch(url)
    if match is None or int(match["port"] or 0) > _MAX_PORT:
        return "redir must be https://host/path: absolute, without user name, the macro after the host only"
    host = match["host"].lower()
    if match["scheme"] == "http" and host not in LOOPBACK_HOSTS:
        return "redir must begin with https://"
    if not any(_allows(entry, host) for entry in hosts):
        return "the host of redir is not in endpoint.redirect_hosts"
    return None


def expand(url: str, uuid: str) -> str:
    """`url`, checked by `fault`, with each ${DD_UUID} replaced by `uuid`, in one pass; "" when there is none to tell.

    A macro that is encoded once more (`%24%7BDD_UUID%7D`) belongs to the next hop and stays.
    """
    return _MACRO.sub(uuid, url)


def _allows(entry: str, host: str) -> bool:
    if entry.startswith("."):
        return host == entry[1:] or host.endswith(entry)
    return host == entry
