"""The client's address behind proxies, and the limit of calls: no header lets a client choose whom it is taken for."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from idsync import config
from idsync.clients import RateLimit, TrustedProxies, client_address
from idsync.errors import ConfigError
from idsync.settings import Abuse
from tests.idsync.samples import NOW

TRUSTED = TrustedProxies(["10.0.0.0/8", "192.0.2.1", "2001:db8:aaaa::/48", "unix"])
NO_SOCKET = TrustedProxies(["10.0.0.0/8"])
NOBODY = TrustedProxies([])
PROXY = "10.0.0.1"
CONFIGURATION = """
store.url = "sqlite:///idsync.db"
privacy.gdpr_default = "does-not-apply"
data_sources = [{ name = "crm", dpid = 12345 }]
"""
VISITOR = "203.0.113.9"


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "trusted", "expected"),
    [
        # no proxy of ours: what it says of others is worth nothing
        (VISITOR, "", TRUSTED, VISITOR),
        (VISITOR, "198.51.100.1", TRUSTED, VISITOR),
        (PROXY, "198.51.100.1", NOBODY, PROXY),
        # one, two and three proxies
        (PROXY, VISITOR, TRUSTED, VISITOR),
        (PROXY, f"{VISITOR}, 10.9.9.9", TRUSTED, VISITOR),
        (PROXY, f"{VISITOR},192.0.2.1,\t10.9.9.9 ", TRUSTED, VISITOR),
        # the visitor's own header stands left of what the proxy added
        (PROXY, f"198.51.100.1, {VISITOR}", TRUSTED, VISITOR),
        (PROXY, f"10.1.1.1, {VISITOR}", TRUSTED, VISITOR),
        (PROXY, "10.1.1.1, 192.0.2.2, 10.9.9.9", TRUSTED, "192.0.2.2"),
        # a Unix socket
        ("", VISITOR, TRUSTED, VISITOR),
        ("", VISITOR, NO_SOCKET, ""),
        ("", "", TRUSTED, ""),
        # nobody but proxies, or not to be read
        (PROXY, "", TRUSTED, ""),
        (PROXY, "10.1.1.1, 10.1.1.2", TRUSTED, ""),
        (PROXY, "unknown", TRUSTED, ""),
        (PROXY, f"{VISITOR}, unix:", TRUSTED, ""),
        (PROXY, f"{VISITOR},", TRUSTED, ""),
        (PROXY, "203.0.113.009", TRUSTED, ""),
        (PROXY, "3405803785", TRUSTED, ""),
        (PROXY, "\u0662.\u0662.\u0662.\u0662", TRUSTED, ""),
        (PROXY, "203.0.113.9:123456", TRUSTED, ""),
        ("not an address", VISITOR, TRUSTED, ""),
        # with a port
        (PROXY, f"{VISITOR}:50123", TRUSTED, VISITOR),
        (PROXY, "[2001:db8:1:2:3::4]:50123", TRUSTED, "2001:db8:1:2::/64"),
        (PROXY, "[2001:db8:1:2:3::4]", TRUSTED, "2001:db8:1:2::/64"),
        # IPv6: by /64, and IPv4 in its clothes
        ("2001:db8:1:2:ffff::4", "", TRUSTED, "2001:db8:1:2::/64"),
        ("2001:db8:aaaa::7", "2001:db8:1:2::", TRUSTED, "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "", TRUSTED, "fe80::/64"),
        ("::ffff:203.0.113.9", "", TRUSTED, VISITOR),
        ("::ffff:10.0.0.1", f"::ffff:{VISITOR}", TRUSTED, VISITOR),
        ("::ffff:a00:1", VISITOR, TRUSTED, VISITOR),
    ],
)
def test_client_address(peer: str, forwarded_for: str, trusted: TrustedProxies, expected: str) -> None:
    assert client_address(peer, forwarded_for, trusted) == expected


ADDRESS_TEXTS = st.ip_addresses().map(str) | st.sampled_from(["10.0.0.1", "192.0.2.1", "unknown", "", "[::1]:1", "%"])
MADE_UP = st.lists(ADDRESS_TEXTS | st.text(max_size=10), max_size=50).map(",".join)


@given(MADE_UP)
@example("10.0.0.1," * 200)
@example("x" * 10_000)
def test_whatever_a_client_sends_it_stays_who_it_is(made_up: str) -> None:
    assert client_address(PROXY, f"{made_up}, {VISITOR}", TRUSTED) == VISITOR
    assert client_address(PROXY, f"{made_up}, {VISITOR}, 10.2.2.2", TRUSTED) == VISITOR
    assert client_address(VISITOR, made_up, TRUSTED) == VISITOR


@given(st.text(), MADE_UP | st.text())
def test_nothing_crashes(peer: str, forwarded_for: str) -> None:
    client_address(peer, forwarded_for, TRUSTED)


def test_an_address_that_the_limit_of_length_cuts_is_not_taken_for_another() -> None:
    proxies = ",".join(["10.10.10.10"] * 41)
    found = {client_address(PROXY, f"{VISITOR},{' ' * width}{proxies}", TRUSTED) for width in range(40)}
    assert found == {"", VISITOR}


def test_no_proxies_are_none() -> None:
    assert not NOBODY
    assert NO_SOCKET
    assert TrustedProxies(["unix"])


# --- the limit -------------------------------------------------------------------------------------------------------


def refusals(limit: RateLimit, times: Sequence[int], client: str = VISITOR) -> list[int]:
    return [limit.take(client, now) for now in times]


def test_a_minutes_calls_may_come_at_once_and_then_at_the_rate() -> None:
    limit = RateLimit(60, 100, b"k")
    assert refusals(limit, [NOW] * 60) == [0] * 60
    assert limit.take(VISITOR, NOW) == 1
    assert limit.take(VISITOR, NOW + 999) == 1
    assert limit.take(VISITOR, NOW + 1000) == 0
    assert limit.take(VISITOR, NOW + 1000) == 1
    assert limit.take("198.51.100.1", NOW + 1000) == 0
    assert refusals(limit, [NOW + 61_000] * 61) == [0] * 60 + [1]
    assert refusals(limit, [NOW + 3_600_000] * 61) == [0] * 60 + [1]


def test_retry_after_is_as_long_as_it_takes() -> None:
    limit = RateLimit(2, 100, b"k")
    assert refusals(limit, [NOW] * 4) == [0, 0, 30, 30]
    assert limit.take(VISITOR, NOW + 29_999) == 1
    assert limit.take(VISITOR, NOW + 30_000) == 0


def test_an_unknown_client_and_a_limit_of_0_are_not_limited() -> None:
    assert not any(refusals(RateLimit(1, 10, b"k"), [NOW] * 9, ""))
    assert not any(refusals(RateLimit(0, 10, b"k"), [NOW] * 9))


def test_a_clock_that_is_set_back_shuts_nobody_out_for_long() -> None:
    limit = RateLimit(60, 10, b"k")
    refusals(limit, [NOW] * 60)
    back = NOW - 86_400_000
    assert limit.take(VISITOR, back) == 1
    assert limit.take(VISITOR, back + 1000) == 0


@given(
    st.integers(1, 1000), st.lists(st.integers(0, 5000), min_size=1, max_size=200), st.binary(min_size=1, max_size=64)
)
def test_who_waits_as_told_is_let_in_and_no_minute_has_more_than_twice_the_limit(
    rate: int, pauses: list[int], key: bytes
) -> None:
    limit, other = RateLimit(rate, 10, key), RateLimit(rate, 10, key)
    now, let_in = NOW, []
    for pause in pauses:
        now += pause
        wait = limit.take(VISITOR, now)
        assert wait == other.take(VISITOR, now)
        if wait:
            now += wait * 1000
            assert limit.take(VISITOR, now) == other.take(VISITOR, now) == 0
        let_in.append(now)
    assert all(sum(start <= time < start + 60_000 for time in let_in) <= 2 * rate for start in let_in)


@given(st.lists(st.text(min_size=1), max_size=100))
def test_memory_is_bounded(clients: list[str]) -> None:
    limit = RateLimit(10, 7, b"k")
    for client in clients:
        limit.take(client, NOW)
        assert limit.tracked() <= 7


def test_a_client_that_keeps_calling_is_not_forgotten_in_the_crowd() -> None:
    limit = RateLimit(20, 50, b"k")
    waits = []
    for number in range(30):
        waits.append(limit.take(VISITOR, NOW))
        for other in range(40):
            limit.take(f"{number}.{other}", NOW)
    assert waits[:20] == [0] * 20
    assert all(waits[20:])


# --- the settings ----------------------------------------------------------------------------------------------------


def parse(extra: str) -> Abuse:
    return config.parse(f"{CONFIGURATION}\n{extra}", environ={}, base=Path()).abuse


def test_nothing_is_limited_by_address_until_proxies_are_named() -> None:
    assert not TrustedProxies(parse("").trusted_proxies)


def test_settings_of_proxies() -> None:
    entries = ("unix", "127.0.0.1", "::1", "10.0.0.0/8", "2001:db8::/32")
    abuse = parse(f"[abuse]\ntrusted_proxies = {list(entries)}")
    assert abuse.trusted_proxies == entries
    assert TrustedProxies(abuse.trusted_proxies)


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        *(
            (entry, "must be an address, a network")
            for entry in ("proxy.example", "10.0.0.1/8", "", "Unix", "10.0.0.0/33")
        ),
        *((entry, "trusts every address") for entry in ("0.0.0.0/0", "::/0")),
    ],
)
def test_settings_that_trust_the_wrong_ones(entry: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f'[abuse]\ntrusted_proxies = ["10.0.0.0/8", "{entry}"]')
    assert len(caught.value.faults) == 1
    assert caught.value.faults[0].startswith(f'abuse.trusted_proxies[1] = "{entry}": {fault}')
