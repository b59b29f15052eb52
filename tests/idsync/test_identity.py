"""The cookie, and the round trip through Audience Manager."""

from urllib.parse import unquote

import pytest

from idsync.call import SyncCall, parse
from idsync.identity import ask_audience_manager, from_cookie, set_cookie
from idsync.redirect import expand
from tests.idsync.samples import OTHER_UUID, UUID


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f"idsync={UUID}", UUID),
        (f"a=b; idsync={UUID}; c=d", UUID),
        (f"a=b;idsync={UUID};c", UUID),
        (f"other_idsync=1; idsync={UUID}", UUID),
        (f"idsync={UUID} ; x", UUID),
        ("", None),
        ("idsync", None),
        ("idsync=", None),
        (f"IDSYNC={UUID}", None),
        (f"xidsync={UUID}", None),
        (f"idsyncx={UUID}", None),
        (f'idsync="{UUID}"', None),
        (f"idsync={UUID[1:]}", None),
        (f"idsync={UUID}0", None),
        (f"idsync={UUID[1:]}x", None),
        (f"idsync={'٣' * 38}", None),
        (f"idsync={UUID}; idsync={UUID}", None),
        (f"idsync={UUID}; idsync={OTHER_UUID}", None),
        (f"idsync={UUID}; idsync=", None),
        (f"idsync={UUID},idsync={OTHER_UUID}", None),
    ],
)
def test_reading_the_cookie(header: str, expected: str | None) -> None:
    assert from_cookie(header, "idsync") == expected


def test_setting_the_cookie() -> None:
    expected = f"sid={UUID}; Path=/; Max-Age=10368000; Secure; HttpOnly; SameSite=None"
    assert set_cookie("sid", UUID, 120) == expected


def test_round_trip_through_audience_manager() -> None:
    """Audience Manager decodes redir once and fills in the macro. What comes back is the call, with UUID and mark."""
    redir = "https://a.partner.example/cb?x=1&u=${DD_UUID}"
    call = SyncCall(dpid="12345", dpuuid="a&b/é +%", redir=redir, d_rtbd="json", gdpr="0")
    location = ask_audience_manager(call, "https://sync.example.com")
    start = "https://dpm.demdex.net/ibs:dpid=12345&dpuuid=a%26b%2F%C3%A9%20%2B%25&redir="
    assert location.startswith(start)
    encoded = location.removeprefix(start)
    assert "&" not in encoded
    assert "${DD_UUID}" in unquote(encoded)
    way_back = expand(unquote(encoded), UUID)
    assert way_back.startswith("https://sync.example.com/sync?")
    expected = SyncCall(
        dpid="12345", dpuuid="a&b/é +%", redir=redir, d_rtbd="json", gdpr="0", d_uuid=UUID, idsync_return="1"
    )
    assert parse(way_back) == expected
