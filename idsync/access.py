"""Who may see the status page: those on this machine, or those who know a token.

"On this machine" is what the connection says, and what every proxy on the way says. Behind a proxy that nobody declared
the whole world is on this machine, so a call that shows a sign of one is refused. Not every proxy leaves a sign, hence
also the look at Host: it keeps out what such a proxy passes on under the site's own name, and a page in an operator's
browser whose name was made to lead here (DNS rebinding).
"""

import base64
import binascii
import hmac
import re
from enum import Enum
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple, Protocol

from idsync.clients import TrustedProxies
from idsync.errors import ConfigError
from idsync.settings import Endpoint

_TOKEN = re.compile(rb"[!-~]{32,256}")
_FORBIDDEN_MODE = 0o027
# What proxies add that don't tell, or do not only tell, by X-Forwarded-For.
_SIGNS = ("Forwarded", "Via", "X-Real-IP", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Client-IP")
_LOCAL_HOST = re.compile(r"(localhost|127\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)


class _Headers(Protocol):
    def get(self, name: str, default: str, /) -> str: ...

    def __contains__(self, name: str, /) -> bool: ...


class Access(Enum):
    GRANTED = "granted"
    NOT_HERE = "not-here"  # not from this machine, or not for certain
    NO_TOKEN = "no-token"  # noqa: S105  none, or a wrong one


class Asker(NamedTuple):
    """Who asks: the other end of the connection ("" for a Unix socket), and the headers as they came, "" without one.

    `signed`: whether any header tells of a proxy, other than X-Forwarded-For.
    """

    peer: str = ""
    forwarded_for: str = ""
    host: str = ""
    authorization: str = ""
    signed: bool = False


def asker(peer: str, headers: _Headers) -> Asker:
    """`headers` by name, in any case."""
    forwarded_for, host, authorization = (
        headers.get(name, "") for name in ("X-Forwarded-For", "Host", "Authorization")
    )
    return Asker(peer, forwarded_for, host, authorization, signed=any(name in headers for name in _SIGNS))


def by_place(asker: Asker, proxies: TrustedProxies) -> Access:
    """Whether the call comes from this machine, by all that is said of where it comes from."""
    declared = proxies.unix if not asker.peer else _declared(asker.peer, proxies)
    if not asker.forwarded_for:
        here = _is_loopback(asker.peer) and not asker.signed and bool(_LOCAL_HOST.fullmatch(asker.host))
    else:
        hops = asker.forwarded_for.split(",")
        here = declared and all(_is_loopback(hop.strip(" \t")) for hop in hops)
        here = here and (not asker.peer or _is_loopback(asker.peer))
    return Access.GRANTED if here else Access.NOT_HERE


def by_token(asker: Asker, token: bytes) -> Access:
    """As `Bearer <token>`, or as the password of any name, for which a browser asks."""
    scheme, _, given = asker.authorization.partition(" ")
    offered = given.strip().encode("latin-1", "replace")
    if scheme.lower() == "basic":
        offered = _password(offered)
    elif scheme.lower() != "bearer":
        return Access.NO_TOKEN
    return Access.GRANTED if hmac.compare_digest(offered, token) else Access.NO_TOKEN


def read_token(endpoint: Endpoint) -> bytes:
    """The token of the settings, b"" where none is asked for. Raises ConfigError; no fault quotes the file."""
    path = endpoint.status_token_file
    if endpoint.status != "token" or path is None:
        return b""
    return _read(path)


def _read(path: Path) -> bytes:
    try:
        mode, token = path.stat().st_mode, path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(str(path), [f"endpoint.status_token_file can't be read: {error.strerror}"]) from None
    faults = []
    if mode & _FORBIDDEN_MODE:
        faults.append(f"open to others (mode {mode & 0o777:04o}): whoever reads it sees the page; chmod 600 or 640")
    if not _TOKEN.fullmatch(token):
        faults.append("must hold one token of 32 to 256 characters, such as `openssl rand -hex 32` prints")
    if faults:
        raise ConfigError(str(path), faults)
    return token


def _password(given: bytes) -> bytes:
    try:
        return base64.b64decode(given, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""


def _declared(peer: str, proxies: TrustedProxies) -> bool:
    try:
        return proxies.hold(ip_address(peer))
    except ValueError:
        return False


def _is_loopback(text: str) -> bool:
    """Of an address without port. ::ffff:127.0.0.1 is how a socket for both kinds shows an IPv4 address."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
