"""Opt-outs over HTTP: whom they take, what the replies say, and what becomes of calls from then on."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from idsync import config
from idsync.app import create_app
from idsync.errors import StoreUnavailable
from idsync.reply import PIXEL
from idsync.service import Service, open_spool
from idsync.store import open_store
from idsync.store.base import MappingStore, Sync
from idsync.store.optouts import OptOut
from tests.idsync.samples import ENTROPY, NOW, OTHER_UUID, UUID, configuration
from tests.idsync.test_app import ask
from tests.servers import wait_until

FRESH = "44311200144916688449305687896108635671"
COOKIE = f"__Host-idsync={UUID}"
LASTING = "; Path=/; Max-Age=34560000; Secure; HttpOnly; SameSite=None"
GOOD = "/ibs:dpid=12345&dpuuid=user-1&d_rtbd=json"
OUT = {"code": 171, "msg": "not stored: opted out"}


class Site:
    """An endpoint in this process; `away` lets its store raise."""

    def __init__(self, base: Path, *, identity: str = "mint", extra: str = "") -> None:
        text = configuration(identity=identity).replace("[privacy]", f"[privacy]\n{extra}")
        chosen = config.parse(text, environ={}, base=base)
        self.store = Store(open_store(chosen.store))
        self.spool = open_spool(chosen)
        options: dict[str, Any] = {"clock": lambda: NOW, "entropy": lambda size: ENTROPY[:size]}
        self.service = Service(chosen, cast(MappingStore, self.store), self.spool, **options)
        self._app = create_app(self.service)

    def close(self) -> None:
        self.service.close()

    def call(self, target: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        status, answered, body = ask(self._app, target, method=method, **headers)
        assert answered["Cache-Control"] == "no-store"
        return status, dict(answered), body

    def document(self, target: str, **headers: str) -> dict[str, object]:
        status, _, body = self.call(target, **headers)
        assert status == 200
        found: dict[str, object] = json.loads(body)
        return found

    def is_out(self, *customers: str, uuids: tuple[str, ...] = ()) -> list[bool]:
        since = self.store.opted_out([(12345, each) for each in customers], uuids)
        return [at is not None for at in since]


class Store:
    """A store that can be away."""

    def __init__(self, real: MappingStore) -> None:
        self._real = real
        self.away = False

    def __getattr__(self, name: str) -> Any:
        if self.away and name in {"record", "opt_out", "opted_out", "latest", "check"}:
            raise StoreUnavailable("the store is away", mend="wait")
        return getattr(self._real, name)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with closing(Site(tmp_path)) as made:
        yield made


def record(site: Site, customer: str, uuid: str, seen: int = NOW - 5, dpid: int = 12345) -> None:
    site.store.record([Sync(dpid, customer, uuid, "", seen)])


# --- whom it takes ---------------------------------------------------------------------------------------------------


def test_by_cookie(site: Site) -> None:
    record(site, "user-1", UUID)
    status, headers, body = site.call("/demoptout", cookie=COOKIE)
    assert (status, headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert b"opted out" in body
    assert headers["Set-Cookie"] == COOKIE + LASTING  # the browser keeps what the store knows as opted out
    assert site.is_out("user-1", uuids=(UUID,)) == [False, True]
    assert site.document(GOOD, cookie=COOKIE) == {"uuid": "", "stored": 0, "errors": [OUT]}


def test_by_uuid(site: Site) -> None:
    _, headers, _ = site.call(f"/demoptout?d_uuid={UUID}")
    assert "Set-Cookie" not in headers
    assert site.is_out(uuids=(UUID, OTHER_UUID)) == [True, False]


@pytest.mark.parametrize(
    "named",
    [
        "dpid=12345&dpuuid=user-1",
        "d_dpid=12345&d_dpuuid=user-1",
        "d_cid=12345%01user-1",
        "d_cid_ic=acme-crm%01user-1%011",
    ],
)
def test_by_customer_id_or_integration_code_with_the_last_device(site: Site, named: str) -> None:
    record(site, "user-1", UUID, NOW - 9)
    record(site, "user-1", OTHER_UUID, NOW - 5)
    _, headers, _ = site.call(f"/demoptout.jpg?{named}")
    assert "Set-Cookie" not in headers
    assert site.is_out("user-1", uuids=(UUID, OTHER_UUID)) == [True, False, True]
    assert site.store.devices(12345, "user-1", NOW) == []


def test_a_uuid_on_the_call_stands_in_place_of_the_linked_and_the_cookie(site: Site) -> None:
    record(site, "user-1", OTHER_UUID)
    _, headers, _ = site.call(f"/demoptout?d_cid=12345%01user-1&d_uuid={FRESH}", cookie=COOKIE)
    assert "Set-Cookie" not in headers
    assert site.is_out("user-1", uuids=(FRESH, OTHER_UUID, UUID)) == [True, True, False, False]


def test_a_page_takes_customer_cookie_and_last_device(site: Site) -> None:
    record(site, "user-1", OTHER_UUID)
    site.call("/demoptout.jpg?d_cid=12345%01user-1", cookie=COOKIE)
    assert site.is_out("user-1", uuids=(OTHER_UUID, UUID)) == [True, True, True]


def test_by_ecid(site: Site) -> None:
    record(site, OTHER_UUID, UUID, dpid=0)
    site.call(f"/demoptout?d_mid={OTHER_UUID}")
    assert site.is_out(uuids=(UUID,)) == [True]
    assert site.document(f"{GOOD}&d_mid={OTHER_UUID}")["errors"] == [OUT]


def test_more_ids_than_a_sync_call_may_carry(site: Site) -> None:
    cids = "&".join(f"d_cid=12345%01user-{number}" for number in range(30))
    assert site.document(f"/demoptout?{cids}&d_rtbd=json") == {"opted_out": 30, "errors": []}
    assert all(site.is_out(*[f"user-{number}" for number in range(30)]))


def test_nothing_is_asked_of_the_asker(site: Site) -> None:
    """No consent, no leave of a data source, no person at the screen: to store less needs none."""
    target = "/demoptout?d_cid=888%01user-1&gdpr=1&d_rtbd=json"
    assert site.document(target, sec_gpc="1", purpose="prefetch", user_agent="Googlebot/2.1")["opted_out"] == 1


def test_bad_ids_are_told_and_the_others_go_on(site: Site) -> None:
    target = "/demoptout?d_cid=12345%01user-1&d_cid=12345%01a%40example.com&d_cid=999%01x"
    status, headers, body = site.call(f"{target}&d_rtbd=json")
    assert (status, headers["X-Error"]) == (200, "300,302")
    assert json.loads(body)["opted_out"] == 1
    assert [error["code"] for error in json.loads(body)["errors"]] == [300, 302]
    assert site.is_out("user-1") == [True]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("d_cid=999%01x", "302"),
        ("d_uuid=1", "102"),
        ("d_mid=x", "101"),
        ("d_cid=12345%01%FF", "311"),
        ("dpid=12345", "300"),
    ],
)
def test_an_opt_out_of_nobody_is_refused(site: Site, query: str, code: str) -> None:
    status, headers, _ = site.call(f"/demoptout?{query}")
    assert (status, headers["X-Error"]) == (400, code)
    assert site.store.opt_outs() == {}


def test_a_browser_without_a_cookie_gets_one_that_names_nobody(site: Site) -> None:
    for cookie in ("", "__Host-idsync=optout", "__Host-idsync=123"):
        _, headers, _ = site.call("/demoptout.jpg", cookie=cookie)
        assert headers["Set-Cookie"] == "__Host-idsync=optout" + LASTING
    assert site.store.opt_outs() == {}
    status, headers, body = site.call(GOOD, cookie="a=b; __Host-idsync=optout")
    assert (status, headers["X-Error"]) == (200, "171")
    assert "Set-Cookie" not in headers
    assert json.loads(body) == {"uuid": "", "stored": 0, "errors": [OUT]}
    assert site.store.count(NOW) == {}


# --- what it replies -------------------------------------------------------------------------------------------------


def test_the_image(site: Site) -> None:
    status, headers, body = site.call("/demoptout.jpg", cookie=COOKIE)
    assert (status, headers["Content-Type"], body) == (200, "image/gif", PIXEL)
    assert headers["Cross-Origin-Resource-Policy"] == "cross-origin"


def test_a_redirect_back_to_the_site(site: Site) -> None:
    target = "/demoptout?d_cid=12345%01user-1&redir=https%3A%2F%2Fwww.partner.example%2Fbye%3Fu%3D%24%7BDD_UUID%7D"
    status, headers, _ = site.call(target)
    assert (status, headers["Location"]) == (302, "https://www.partner.example/bye?u=")


def test_a_redirect_elsewhere_opts_nobody_out(site: Site) -> None:
    status, headers, _ = site.call("/demoptout?d_cid=12345%01user-1&redir=https%3A%2F%2Fevil.example%2F")
    assert status == 400
    assert "Location" not in headers
    assert site.store.opt_outs() == {}


def test_a_callback(site: Site) -> None:
    _, headers, body = site.call("/demoptout?d_cb=done", cookie=COOKIE)
    assert headers["Content-Type"].startswith("text/javascript")
    assert body == b'/**/done({"opted_out": 1, "errors": []});\n'


def test_head_and_other_methods(site: Site) -> None:
    assert site.call("/demoptout", "OPTIONS")[0] == 204
    assert site.call("/demoptout", "POST", cookie=COOKIE)[0] == 405
    assert site.store.opt_outs() == {}
    assert site.call("/demoptout", "HEAD", cookie=COOKIE)[0] == 200
    assert site.is_out(uuids=(UUID,)) == [True]


# --- calls from then on ----------------------------------------------------------------------------------------------


@pytest.fixture
def opted_out(site: Site) -> Site:
    """user-1 and OTHER_UUID are out."""
    site.store.opt_out(OptOut(((12345, "user-1"),), (OTHER_UUID,), NOW, takes_devices=False))
    return site


def test_redirects_go_on_without_a_uuid_and_no_cookie_is_set(opted_out: Site) -> None:
    target = "/ibs:dpid=12345&dpuuid=user-1&redir=https%3A%2F%2Fdpm.demdex.net%2F%3Fu%3D%24%7BDD_UUID%7D"
    status, headers, _ = opted_out.call(target, cookie=COOKIE)
    assert (status, headers["Location"], headers["X-Error"]) == (302, "https://dpm.demdex.net/?u=", "171")
    assert "Set-Cookie" not in headers
    assert opted_out.store.count(NOW) == {}


def test_a_call_with_one_opted_out_id_stores_none(opted_out: Site) -> None:
    """All IDs of a call are one person's."""
    found = opted_out.document(f"{GOOD}&d_cid=777%01user-9", cookie=COOKIE)
    assert found == {"uuid": "", "stored": 0, "errors": [OUT]}
    assert opted_out.document(f"/sync?d_cid=777%01user-9&d_rtbd=json&d_uuid={OTHER_UUID}")["errors"] == [OUT]
    assert opted_out.document(f"/sync?d_cid=777%01a&d_cid=777%01b&d_rtbd=json&d_uuid={OTHER_UUID}")["errors"] == [OUT]
    assert opted_out.document(f"/sync?d_cid=777%01a&d_mid={UUID}&d_rtbd=json&d_uuid={OTHER_UUID}")["stored"] == 0
    assert opted_out.store.count(NOW) == {}


def test_bad_ids_beside_an_opted_out_one_are_told_too(opted_out: Site) -> None:
    _, headers, _ = opted_out.call(f"{GOOD}&d_cid=12345%01null")
    assert headers["X-Error"] == "171,300"


def test_id_tells_no_uuid_of_an_opted_out_device(opted_out: Site) -> None:
    for target, cookie in ((f"/id?d_uuid={OTHER_UUID}", ""), ("/id", f"__Host-idsync={OTHER_UUID}")):
        assert opted_out.document(target, cookie=cookie) == {"uuid": "", "stored": 0, "errors": [OUT]}
    assert opted_out.document(f"/id?d_uuid={UUID}")["uuid"] == UUID


def test_an_opt_out_outranks_consent(opted_out: Site) -> None:
    assert opted_out.document(f"{GOOD}&gdpr=0")["errors"] == [OUT]


def test_an_opt_in_reverses_it(opted_out: Site) -> None:
    opted_out.store.opt_in([(12345, "user-1")], [])
    assert opted_out.document(GOOD, cookie=COOKIE)["uuid"] == UUID


def test_audience_manager_is_not_told_of_who_opted_out(tmp_path: Path) -> None:
    with closing(Site(tmp_path, identity="audience-manager")) as site:
        site.store.opt_out(OptOut(((12345, "user-1"),), (), NOW, takes_devices=False))
        assert site.document(GOOD)["errors"] == [OUT]
        assert site.document(f"{GOOD}&d_cid=777%01user-9")["errors"] == [OUT]
        assert site.call("/ibs:dpid=12345&dpuuid=user-2")[0] == 302
        assert site.store.count(NOW) == {}


# --- consent denied --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("denial", [{"sec_gpc": "1"}, {}])
def test_who_denies_is_opted_out_by_setting(tmp_path: Path, denial: dict[str, str]) -> None:
    target = GOOD if denial else f"{GOOD}&gdpr=1"
    with closing(Site(tmp_path, extra="optout_on_denial = true")) as site:
        record(site, "user-1", OTHER_UUID)
        status, headers, _ = site.call(target, cookie=COOKIE, **denial)
        assert (status, headers["X-Error"]) == (200, "315")
        assert "Set-Cookie" not in headers
        assert site.is_out("user-1", uuids=(UUID, OTHER_UUID)) == [True, True, True]
        assert site.document(GOOD)["errors"] == [OUT]
    with closing(Site(tmp_path / "other")) as site:
        site.call(target, cookie=COOKIE, **denial)
        assert site.store.opt_outs() == {}


# --- the store away --------------------------------------------------------------------------------------------------


def test_an_opt_out_waits_in_the_spool_and_holds_at_once(site: Site) -> None:
    record(site, "user-1", UUID)
    site.store.away = True
    assert site.call("/demoptout?d_cid=12345%01user-1")[0] == 200
    assert site.document(GOOD)["errors"] == [OUT]
    assert site.document("/ibs:dpid=12345&dpuuid=user-2&d_rtbd=json")["stored"] == 1
    site.store.away = False
    wait_until(lambda: not site.spool.opt_outs_wait(), "the store to take the opt-out")
    assert site.is_out("user-1", uuids=(UUID,)) == [True, True]
    assert site.document(GOOD)["errors"] == [OUT]


def test_while_an_opt_out_waits_the_store_gets_no_call(site: Site) -> None:
    """As another worker of this machine may have taken it, this one looks whether any waits."""
    site.spool.opt_out(OptOut(((12345, "user-1"),), (), NOW, takes_devices=True))
    assert site.document(GOOD)["errors"] == [OUT]


def test_an_opt_out_that_nothing_keeps_is_not_promised(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> int:
        raise StoreUnavailable("the disk is full", mend="free some")

    site.store.away = True
    monkeypatch.setattr(site.spool, "opt_out", full)
    status, headers, body = site.call("/demoptout", cookie=COOKIE)
    assert (status, headers["Retry-After"]) == (503, "10")
    assert b"opted out" not in body
