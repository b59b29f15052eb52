"""Every error code of Audience Manager that the endpoint knows: a call that earns it, and what is stored even so."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from idsync import config, signature
from idsync.app import create_app
from idsync.outcomes import Outcome
from idsync.service import Service, open_spool
from idsync.settings import Settings
from idsync.store import open_store
from tests.idsync.samples import NOW, OTHER_UUID, UUID
from tests.idsync.test_app import ask

CONFIGURATION = """
[store]
url = "sqlite:///idsync.db"

[endpoint]
redirect_hosts = ["dpm.demdex.net"]

[privacy]
gdpr_default = "does-not-apply"

[abuse]
uuids_per_customer_id = 2
customer_ids_per_uuid = 3
trusted_proxies = ["127.0.0.1"]
calls_per_minute = 20

[[data_sources]]
name = "crm"
dpid = 12345

[[data_sources]]
name = "shop"
dpid = 777
integration_code = "shop"

[[data_sources]]
name = "closed"
dpid = 888
denied = true

[[data_sources]]
name = "ios"
dpid = 20915

[[data_sources]]
name = "own pages only"
dpid = 600
referers = ["www.example.com"]

[[data_sources]]
name = "signed"
dpid = 500
signature = "required"
signing_keys_file = "keys"
"""
KEY = "k1 " + "5a" * 32
GOOD = "d_cid=12345%01good"


@pytest.fixture
def chosen(tmp_path: Path) -> Settings:
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    keys.chmod(0o600)
    text = CONFIGURATION.replace('"own pages only"', '"own-pages"')
    return config.parse(text, environ={}, base=tmp_path)


class Site:
    """Calls to the endpoint, and what its store holds of them."""

    def __init__(self, service: Service) -> None:
        self._service, self._app = service, create_app(service)
        self.store = open_store(service.settings.store)

    def call(self, target: str, **headers: str) -> tuple[int, str | None]:
        status, answered, body = ask(self._app, target, **headers)
        assert b"hush" not in body
        return status, answered.get("X-Error")

    def body(self, target: str) -> Any:
        return json.loads(ask(self._app, target)[2])

    def has(self, dpid: int, customer_id: str) -> list[str]:
        return [device.uuid for device in self.store.devices(dpid, customer_id, NOW)]

    def sign(self, customer_id: str, uuid: str = "", *, valid_for: int = 60) -> str:
        return signature.sign(self._service._keys[500], 500, customer_id, uuid, NOW // 1000 + valid_for)


@pytest.fixture
def site(chosen: Settings) -> Iterator[Site]:
    with closing(Service(chosen, open_store(chosen.store), open_spool(chosen), clock=lambda: NOW)) as service:
        made = Site(service)
        with closing(made.store):
            yield made


ROWS: list[tuple[int, Sequence[str]]] = [
    (101, [f"dpid=12345&dpuuid=hush&d_mid={UUID}0", f"dpid=12345&dpuuid=hush&d_mid=&d_uuid={UUID}"]),
    (102, ["dpid=12345&dpuuid=hush&d_uuid=1", f"dpid=12345&dpuuid=hush&d_uuid=&d_mid={UUID}"]),
    (104, ["", "d_uuid=" + UUID, "gdpr=0"]),
    (109, ["d_cid=600%01hush"]),
    (300, ["dpid=12345&dpuuid=hush%3A1", "dpid=12345", "d_cid=12345", "d_cid=12345%01hush%01x"]),
    (300, ["d_cid=12345%01hush%40example.com", "d_cid=12345%01hush%2540example.com", "d_cid=12345%01undefined"]),
    (300, ["d_cid=12345%01%2B14155552671", "d_cid=12345%014111111111111111", "d_cid=12345%01%24%7BUID%7D"]),
    (
        300,
        ["d_cid=500%01hush", "d_cid=500%01hush&d_sig=k1.1.x", "d_cid=20915%0100000000-0000-0000-0000-000000000000"],
    ),
    (302, ["dpid=999&dpuuid=hush", "dpuuid=hush", "d_cid=crm%01hush", "d_cid_ic=other%01hush"]),
    (304, ["d_cid=888%01hush"]),
    (312, ["d_cid=20915%01aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa", "dpid=20915&dpuuid=hush"]),
]


@pytest.mark.parametrize(("code", "query"), [(code, query) for code, queries in ROWS for query in queries])
def test_a_call_of_bad_ids_alone(site: Site, code: int, query: str) -> None:
    assert site.call(f"/sync?{query}") == (400, str(code))
    assert site.store.count(NOW) == {}


@pytest.mark.parametrize(
    ("code", "query"), [(code, query) for code, queries in ROWS for query in queries if code not in {101, 102, 104}]
)
def test_a_bad_id_among_good_ones(site: Site, code: int, query: str) -> None:
    assert site.call(f"/sync?{GOOD}&{query}") == (200, str(code))
    assert site.has(12345, "good")
    assert site.store.count(NOW).keys() == {12345}


def test_301_and_309(site: Site) -> None:
    ids = "&".join(f"d_cid={dpid}%01hush-{number}" for dpid in (12345, 777, 20915) for number in range(3))
    status, codes = site.call(f"/ibs:{ids}&d_cid=12345%01hush-1&d_cid=12345%01hush-9&d_cid=777%01hush-9")
    assert (status, codes) == (200, "312,310,301,309") or (status, codes) == (200, "312,301,310,309")
    assert not site.has(777, "hush-9")


def test_310_and_309(site: Site) -> None:
    ids = "&".join(f"d_cid=12345%01id-{number}" for number in range(5))
    assert site.call(f"/ibs:{ids}") == (200, "310,309")
    assert [bool(site.has(12345, f"id-{number}")) for number in range(5)] == [True, True, True, False, False]


def test_311(site: Site) -> None:
    assert site.call(f"/ibs:{GOOD}&dpuuid=hush%FF") == (400, "311")
    assert site.call(f"/ibs:{GOOD}&unknown=%zz") == (400, "311")
    assert site.store.count(NOW) == {}


@pytest.mark.parametrize("route", ["sync", "demoptout"])
@pytest.mark.parametrize(
    "bad",
    [
        "d_cid=x{}",
        "d_cid=12345%01x%01{}",
        "d_cid=12345%01hush%40{}.example.com",
        "d_cid=x{0}&d_cid=12345%01a%3A{0}&d_cid=999%01b{0}",
    ],
)
def test_hundreds_of_faults_have_a_small_reply(site: Site, route: str, bad: str) -> None:
    queries = "&".join(bad.format(number) for number in range(600))
    body = site.body(f"/{route}?{queries}&{GOOD}&d_rtbd=json")
    told = [error["msg"] for error in body["errors"] if error["code"] in {300, 302}]
    assert 10 <= len(told) <= 40
    assert "12345" not in str(told)
    if route == "demoptout":  # without a limit to the IDs
        assert any(message.startswith("and 58") for message in told)  # of 600, two or three have an honest state
        assert body["opted_out"] >= 1


def test_malformed_ids_hide_no_fault_of_an_id_that_counts(site: Site) -> None:
    malformed = "&".join(f"d_cid=x{number}" for number in range(300))
    ids = "&".join(f"d_cid=12345%01a%3A{number}" for number in range(10))
    told = [error["msg"] for error in site.body(f"/sync?{malformed}&{ids}")["errors"]]
    assert "and 289 more of this kind" in told
    for number in range(301, 311):
        assert any(message.startswith(f"d_cid {number}: ") for message in told)


def test_171(site: Site) -> None:
    assert site.call("/demoptout?d_cid=12345%01hush") == (200, None)
    assert site.call("/ibs:dpid=12345&dpuuid=hush") == (200, "171")
    assert site.call("/ibs:dpid=12345&dpuuid=hush&redir=https%3A%2F%2Fdpm.demdex.net%2F") == (302, "171")
    assert site.call(f"/ibs:{GOOD}&d_cid=12345%01hush") == (200, "171")
    assert site.store.count(NOW) == {}


def test_315(site: Site) -> None:
    assert site.call(f"/ibs:{GOOD}&gdpr=1") == (200, "315")
    assert site.call(f"/ibs:{GOOD}", sec_gpc="1") == (200, "315")
    assert site.store.count(NOW) == {}


def test_303_an_id_that_comes_from_too_many_visitors(site: Site) -> None:
    uuids = [f"{number:038}" for number in range(1, 9)]
    calls = [site.call(f"/ibs:d_cid=12345%01shared&d_uuid={uuid}") for uuid in uuids]
    assert calls[:2] == [(200, None)] * 2
    assert calls[-1] == (400, "303")
    assert len(site.has(12345, "shared")) == calls.count((200, None)) < 5
    assert site.call(f"/ibs:d_cid=12345%01shared&d_cid=777%01good&d_uuid={OTHER_UUID}") == (200, "303")
    assert site.has(777, "good") == [OTHER_UUID]


def test_306_a_device_that_comes_with_too_many_ids(site: Site) -> None:
    calls = [site.call(f"/ibs:d_cid=12345%01id-{number}&d_uuid={UUID}") for number in range(9)]
    assert calls[:3] == [(200, None)] * 3
    assert calls[-1] == (400, "306")
    assert site.call(f"/ibs:d_cid=12345%01id-1&d_cid=777%01other&d_uuid={UUID}") == (400, "306")
    assert site.call("/ibs:d_cid=12345%01id-1") == (200, None)


def test_306_a_device_id_that_comes_from_too_many_visitors(site: Site) -> None:
    device = "AAAAAAAA-AAAA-4AAA-8AAA-AAAAAAAAAAAA"
    calls = [site.call(f"/ibs:d_cid=20915%01{device}&d_uuid={number:038}") for number in range(1, 9)]
    assert calls[:2] == [(200, None)] * 2
    assert calls[-1] == (400, "306")


def test_repeating_a_call_locks_nobody_out(site: Site) -> None:
    for _ in range(15):
        assert site.call(f"/ibs:d_cid=12345%01victim&d_uuid={UUID}") == (200, None)
    assert site.call(f"/ibs:d_cid=12345%01victim&d_uuid={OTHER_UUID}") == (200, None)


def test_a_signed_call(site: Site) -> None:
    assert site.call(f"/ibs:dpid=500&dpuuid=a&d_sig={site.sign('a')}") == (200, None)
    assert site.call(f"/ibs:dpid=500&dpuuid=b&d_uuid={UUID}&d_sig={site.sign('b', UUID)}") == (200, None)
    assert site.has(500, "b") == [UUID]
    two = f"d_cid=500%01c&d_cid=500%01d&d_sig={site.sign('d')}&d_sig={site.sign('c')}"
    assert site.call(f"/ibs:{two}") == (200, None)
    assert (bool(site.has(500, "c")), bool(site.has(500, "d"))) == (True, True)


@pytest.mark.parametrize(
    ("query", "uuid", "valid_for"),
    [
        ("dpid=500&dpuuid=b", "", 60),
        (f"dpid=500&dpuuid=a&d_uuid={UUID}", "", 60),
        (f"dpid=500&dpuuid=a&d_uuid={UUID}", OTHER_UUID, 60),
        ("dpid=500&dpuuid=a", UUID, 60),
        ("dpid=500&dpuuid=a", "", 0),
        ("dpid=500&dpuuid=a", "", -1),
        (f"dpid=500&dpuuid=a&d_uuid={UUID}&idsync_return=1", "", 60),
    ],
)
def test_a_signature_for_something_else(site: Site, query: str, uuid: str, valid_for: int) -> None:
    assert site.call(f"/ibs:{query}&d_sig={site.sign('a', uuid, valid_for=valid_for)}") == (400, "300")
    assert site.store.count(NOW) == {}


def test_signed_calls_are_not_denied(site: Site) -> None:
    for number in range(1, 9):
        uuid = f"{number:038}"
        assert site.call(f"/ibs:dpid=500&dpuuid=a&d_uuid={uuid}&d_sig={site.sign('a', uuid)}") == (200, None)
    assert len(site.has(500, "a")) == 8


def test_pages_that_may_call(site: Site) -> None:
    call = "/ibs:dpid=600&dpuuid=a"
    assert site.call(call, referer="https://www.example.com/page?x=1") == (200, None)
    assert site.call(call, origin="https://www.example.com") == (200, None)
    assert site.call(call, origin="null", referer="https://www.example.com/") == (200, None)
    for headers in ({}, {"referer": "https://evil.example/"}, {"referer": "https://www.example.com@evil.example/"}):
        assert site.call(call, **headers) == (400, "109")
    assert site.call(call, origin="https://evil.example", referer="https://www.example.com/") == (400, "109")


def test_an_address_that_calls_too_often(site: Site) -> None:
    visitor, other = "203.0.113.7", "203.0.113.8"
    calls = [site.call(f"/ibs:{GOOD}", x_forwarded_for=visitor) for _ in range(25)]
    assert [status for status, _ in calls] == [200] * 20 + [429] * 5
    assert site.call(f"/ibs:{GOOD}", x_forwarded_for=other) == (200, None)
    assert site.call(f"/ibs:{GOOD}", x_forwarded_for=f"{other}, {visitor}") == (429, None)


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_purpose": "prefetch;prerender"},
        {"purpose": "prefetch"},
        {"x_moz": "prefetch"},
        {"x_purpose": "preview"},
        {"user_agent": "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"},
    ],
)
def test_calls_that_nobody_looks_at_are_answered_and_not_stored(site: Site, headers: dict[str, str]) -> None:
    assert site.call(f"/ibs:{GOOD}", **headers) == (200, None)
    assert site.call(f"/ibs:{GOOD}&redir=https%3A%2F%2Fdpm.demdex.net%2F", **headers) == (302, None)
    assert site.store.count(NOW) == {}


def test_every_code_has_a_test() -> None:
    text = Path(__file__).read_text()
    for outcome in Outcome:
        if outcome.code:
            assert f"({outcome.code}, [" in text or f"_{outcome.code}" in text, outcome
