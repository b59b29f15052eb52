"""The cookie, and the round trip through Audience Manager."""

from urllib.parse import unquote

import pytest

from idsync.call import SyncCall, parse
from idsync.declared import declared
from idsync.identity import ask_audience_manager, from_cookie, set_cookie
from idsync.settings import Endpoint
from idsync.signals import Signals
from tests.idsync.samples import NOW, OTHER_UUID, UUID, settings


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f"__Host-idsync={UUID}", UUID),
        (f"a=b; __Host-idsync={UUID}; c=d", UUID),
        (f"a=b;__Host-idsync={UUID};c", UUID),
        (f"other___Host-idsync=1; __Host-idsync={UUID}", UUID),
        (f"__Host-idsync={UUID} ; x", UUID),
        ("", None),
        ("idsync", None),
        ("__Host-idsync=", None),
        (f"IDSYNC={UUID}", None),
        (f"x__Host-idsync={UUID}", None),
        (f"__Host-idsyncx={UUID}", None),
        (f"idsync={UUID}", None),
        (f'__Host-idsync="{UUID}"', None),
        (f"__Host-idsync={UUID[1:]}", None),
        (f"__Host-idsync={UUID}0", None),
        (f"__Host-idsync={UUID[1:]}x", None),
        (f"__Host-idsync={'٣' * 38}", None),
        (f"__Host-idsync={UUID}; __Host-idsync={UUID}", None),
        (f"__Host-idsync={UUID}; __Host-idsync={OTHER_UUID}", None),
        (f"__Host-idsync={UUID}; __Host-idsync=", None),
        (f"__Host-idsync={UUID},__Host-idsync={OTHER_UUID}", None),
        (f"\t __Host-idsync={UUID}\t ;", UUID),
        (f"__Host-idsync ={UUID}", None),
        (f"__Host-idsync= {UUID}", None),
        (f"__Host-idsync; __Host-idsync={UUID}", UUID),
    ],
)
def test_reading_the_cookie(header: str, expected: str | None) -> None:
    assert from_cookie(header, Endpoint()) == expected


def test_reading_the_cookie_of_a_domain() -> None:
    endpoint = Endpoint(cookie_domain="example.com")
    assert from_cookie(f"idsync={UUID}; __Host-idsync={OTHER_UUID}", endpoint) == UUID


@pytest.mark.parametrize(
    ("endpoint", "start", "end"),
    [
        (Endpoint(), "__Host-idsync={}; Path=/;", ""),
        (Endpoint(cookie_name="sid"), "__Host-sid={}; Path=/;", ""),
        (Endpoint(cookie_domain="sync.example.com"), "idsync={}; Path=/; Domain=sync.example.com;", ""),
        (Endpoint(cookie_partitioned=True), "__Host-idsync={}; Path=/;", "; Partitioned"),
    ],
)
def test_setting_the_cookie(endpoint: Endpoint, start: str, end: str) -> None:
    expected = f"{start.format(UUID)} Max-Age=10368000; Secure; HttpOnly; SameSite=None{end}"
    assert set_cookie(endpoint, UUID, 120) == expected


def ask(call: SyncCall) -> tuple[str, str]:
    """The URL at Audience Manager up to redir, and the way back with the macro filled in."""
    good, faults = declared(call, Signals(), settings(), {}, now=NOW)
    assert not faults
    start, _, encoded = ask_audience_manager(call, good, "https://sync.example.com").partition("&redir=")
    assert "&" not in encoded
    assert "${DD_UUID}" in unquote(encoded)
    return start, unquote(encoded).replace("${DD_UUID}", UUID)


def test_round_trip_through_audience_manager() -> None:
    """Audience Manager decodes redir once and fills in the macro. What comes back is the call, with UUID and mark."""
    redir = "https://a.partner.example/cb?x=1&u=${DD_UUID}"
    call = SyncCall(dpid="12345", dpuuid="a&b/é +%", redir=redir, d_rtbd="json", gdpr="0")
    start, way_back = ask(call)
    assert start == "https://dpm.demdex.net/ibs:dpid=12345&dpuuid=a%26b%2F%C3%A9%20%2B%25&gdpr=0"
    assert way_back.startswith("https://sync.example.com/sync?")
    assert parse(way_back) == call._replace(d_uuid=UUID, idsync_return="1")


def test_round_trip_with_several_ids() -> None:
    cids = (("d_cid_ic", "acme-crm\x01a&b\x011"), ("d_cid", "777\x01c"))
    call = SyncCall(cids=cids, d_mid=OTHER_UUID, d_sig=("k.1.x", "k.2.y"))
    start, way_back = ask(call)
    assert start == f"https://dpm.demdex.net/ibs:dpid=12345&dpuuid=a%26b&d_cid=777%01c&d_mid={OTHER_UUID}"
    assert parse(way_back) == call._replace(d_uuid=UUID, idsync_return="1")
