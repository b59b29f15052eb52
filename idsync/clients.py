"""Who calls: the client's address behind proxies that we trust, and how many calls a minute it may make.

X-Forwarded-For is written from left to right, each proxy adding whom it heard the call from, so it is read from the
right, and only as far as those who wrote it are trusted. What stands further left, a client may have made up.

Where the address can't be told it is "", and nobody is limited for it: to count such calls as one client would turn a
proxy that leaves the header out into an outage for all. Addresses are never logged.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

# In the settings, for a proxy on this host that calls through a Unix socket, and so has no address.
UNIX = "unix"

# One who hands on 16 addresses is no proxy of ours; and what is cached must have an end.
_MAX_FORWARDED_FOR = 512
_CACHED = 4096
_KEY_BYTES = 16
_WITH_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?")
# One visitor has a /64 as a rule, and all addresses in it to choose from.
_IPV6_HOST_BITS = 64

_Address = IPv4Address | IPv6Address


class TrustedProxies:
    """Built once of the setting `trusted_proxies`, and compared by identity: a cache asks for it at each call."""

    def __init__(self, entries: Iterable[str]) -> None:
        """`entries`: addresses, networks, or "unix"; ValueError for anything else."""
        listed = tuple(entries)
        self.unix = UNIX in listed
        self._networks: tuple[IPv4Network | IPv6Network, ...] = tuple(
            ip_network(entry) for entry in listed if entry != UNIX
        )

    def __bool__(self) -> bool:
        return self.unix or bool(self._networks)

    def hold(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)


def client_address(peer: str, forwarded_for: str, trusted: TrustedProxies) -> str:
    """The address that is not a trusted proxy's and nearest to us, or "": IPv4, or the /64 network of an IPv6 address.

    `peer`: the other end of the connection, "" for a Unix socket. `forwarded_for`: X-Forwarded-For, several headers
    joined with commas in their order.
    """
    if len(forwarded_for) > _MAX_FORWARDED_FOR:
        # The first of what is left may be cut, and half an address is another one.
        forwarded_for = forwarded_for[-_MAX_FORWARDED_FOR:].partition(",")[2]
    return _client_address(peer, forwarded_for, trusted)


@lru_cache(_CACHED)
def _client_address(peer: str, forwarded_for: str, trusted: TrustedProxies) -> str:
    if peer:
        hops = [*forwarded_for.split(","), peer]
    elif trusted.unix:
        hops = forwarded_for.split(",")
    else:
        return ""
    for hop in reversed(hops):
        address = _parse(hop)
        if address is None:
            return ""
        if not trusted.hold(address):
            return _client(address)
    return ""


def _parse(hop: str) -> _Address | None:
    """Some proxies add the port. ::ffff:192.0.2.1 is how a socket for both kinds shows an IPv4 address."""
    text = hop.strip(" \t")
    if with_port := _WITH_PORT.fullmatch(text):
        text = with_port[1] or with_port[2]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _client(address: _Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    return f"{IPv6Address(int(address) >> _IPV6_HOST_BITS << _IPV6_HOST_BITS)}/{_IPV6_HOST_BITS}"


class RateLimit:
    """A token bucket for each of the latest `tracked` clients, of one process. It holds the calls of one minute.

    A bucket is one number: the time at which it will be full again, in units of which a millisecond has
    `calls_per_minute` and a call costs a minute's milliseconds, so that nothing is ever rounded. Clients are kept as
    hashes keyed with `key`. 0 calls a minute is no limit.
    """

    _CALL = 60_000

    def __init__(self, calls_per_minute: int, tracked: int, key: bytes) -> None:
        self._rate, self._tracked = calls_per_minute, tracked
        self._capacity = calls_per_minute * self._CALL
        self._keyed = blake2b(key=key, digest_size=_KEY_BYTES)
        self._lock = threading.Lock()
        self._full_at: OrderedDict[bytes, int] = OrderedDict()

    def take(self, client: str, now: int) -> int:
        """0, or after how many seconds to try again. `now` in milliseconds. A call that is refused costs nothing."""
        if not client or not self._rate:
            return 0
        keyed = self._keyed.copy()
        keyed.update(client.encode())
        key, time = keyed.digest(), now * self._rate
        with self._lock:
            # An empty bucket is the worst that there is, also after the clock was set back.
            full_at = min(max(self._full_at.get(key, 0), time), time + self._capacity)
            lacking = full_at + self._CALL - time - self._capacity
            # Who is refused is noted, too: else a crowd would push it out, and its bucket would be full again.
            self._full_at[key] = full_at if lacking > 0 else full_at + self._CALL
            self._full_at.move_to_end(key)
            if len(self._full_at) > self._tracked:
                self._full_at.popitem(last=False)
        return max(0, -(-lacking // (self._rate * 1000)))

    def tracked(self) -> int:
        """Clients in memory."""
        with self._lock:
            return len(self._full_at)
