"""The website tag in a real browser, against the real endpoint: pages of a site, its consent tool, its policy."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page

from idsync import config, tag
from idsync.service import milliseconds_now
from idsync.settings import Settings
from idsync.store import open_store
from tests.browser import Asked, AudienceManager, Chromium, Site, Web, browsing, standing_in
from tests.endpoint import run_idsync, serving
from tests.idsync.samples import OTHER_UUID
from tests.servers import wait_until

SITE, SYNC, ASKING, AUDIENCE_MANAGER = "www.shop.example", "sync.example.com", "asking.example.com", "dpm.demdex.net"
CRM, GTM, ANALYTICS, SHOP, MEMBER = 12345, 777, 778, 888, 999
CONFIGURATION = """
[store]
url = "sqlite:///idsync.db"

[endpoint]
public_url = "https://{host}"
identity = "{identity}"

[privacy]
gdpr_default = "does-not-apply"

[[data_sources]]
name = "crm"
dpid = 12345
placement = {{ kind = "cookie", name = "crm_id" }}

[[data_sources]]
name = "gtm"
dpid = 777
placement = {{ kind = "js", name = "dataLayer.user.id" }}

[[data_sources]]
name = "analytics"
dpid = 778
placement = {{ kind = "js", name = "s.eVar5" }}

[[data_sources]]
name = "shop"
dpid = 888
placement = {{ kind = "meta", name = "shop.customer-id" }}

[[data_sources]]
name = "member"
dpid = 999
placement = {{ kind = "attribute", name = "data-customer-id" }}
"""
LONG_MINUTES = 5


@dataclass(frozen=True)
class World:
    web: Web
    site: Site
    chromium: Chromium
    paths: Mapping[str, Path]

    def settings(self, host: str = SYNC) -> Settings:
        return config.load(self.paths[host])

    def devices(self, dpid: int, customer_id: str, host: str = SYNC) -> list[str]:
        """The UUIDs that a customer is stored under."""
        with closing(open_store(self.settings(host).store)) as store:
            return [device.uuid for device in store.devices(dpid, customer_id, milliseconds_now())]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    site, paths, servers = Site(), {}, {}
    with ExitStack() as stack:
        for host, identity in ((SYNC, "mint"), (ASKING, "audience-manager")):
            paths[host] = tmp_path_factory.mktemp(identity) / "idsync.toml"
            paths[host].write_text(CONFIGURATION.format(host=host, identity=identity))
            servers[host] = stack.enter_context(serving(paths[host], "--workers", "1")).port
        servers[SITE] = stack.enter_context(standing_in(site))
        servers[AUDIENCE_MANAGER] = stack.enter_context(standing_in(AudienceManager(OTHER_UUID)))
        web = stack.enter_context(Web(tmp_path_factory.mktemp("web"), servers))
        yield World(web, site, stack.enter_context(browsing(web)), paths)


class Visitor:
    """Somebody with a browser of their own. No page may ever see an error."""

    def __init__(self, world: World, context: BrowserContext) -> None:
        self.world, self.context = world, context
        self.calls: list[str] = []
        self.errors: list[str] = []
        self.context.on("request", lambda request: self.calls.append(request.url) if "/ibs:" in request.url else None)
        self.context.on("weberror", lambda fault: self.errors.append(str(fault.error)))
        self.context.add_init_script("""
            window.refused = [];
            addEventListener("securitypolicyviolation", event => refused.push(event.effectiveDirective));
            addEventListener("unhandledrejection", event => reportError(event.reason));
        """)

    def open(
        self, head: str = "", body: str = "", *, tags: str = "crm", headers: Mapping[str, str] | None = None
    ) -> Page:
        """A page with the tags of these data sources at its top."""
        settings = self.world.settings()
        sources = [settings.data_source(name) for name in tags.split()]
        scripts = "".join(tag.snippet(settings.endpoint, source) for source in sources if source)
        return self.show(f"<head>{scripts}{head}</head><body>{body}", headers)

    def show(self, content: str, headers: Mapping[str, str] | None = None) -> Page:
        self.world.site.put("/", f"<!doctype html><html>{content}", headers)
        page = self.context.new_page()
        page.clock.install()
        page.goto(f"https://{SITE}/", wait_until="load")
        return page

    def sent(self, dpid: int, customer_id: str, rest: str = "") -> Asked:
        """The one call of a customer, as the endpoint has got it."""
        target = f"/ibs:dpid={dpid}&dpuuid={customer_id}{rest}"
        wait_until(lambda: bool(self._asked(target)), f"the call {target}")
        [asked] = self._asked(target)
        return asked

    def _asked(self, target: str) -> list[Asked]:
        return [asked for asked in self.world.web.asked(SYNC, target) if asked.target == target]


@pytest.fixture
def visitor(world: World) -> Iterator[Visitor]:
    """In a private window, where browsers block third-party cookies."""
    with world.chromium.browser.new_context() as context:
        visitor = Visitor(world, context)
        yield visitor
        assert visitor.errors == []


@pytest.fixture
def known_visitor(world: World, tmp_path: Path) -> Iterator[Visitor]:
    """With third-party cookies."""
    with world.chromium.profile(tmp_path / "profile") as context:
        visitor = Visitor(world, context)
        yield visitor
        assert visitor.errors == []


def pass_time(page: Page, minutes: int = LONG_MINUTES) -> None:
    """The page's own clock runs ahead, its timers with it; then all that the page has asked for has been noted.

    Requests are told in their order, so that of the endpoint's health comes after those of the tag.
    """
    page.clock.run_for(minutes * 60_000)
    page.evaluate(f"() => fetch('https://{SYNC}/healthz', {{mode: 'no-cors'}}).then(() => 0)")


# --- where the ID stands ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dpid", "customer_id", "head", "body"),
    [
        (
            "crm",
            CRM,
            "cookie-1",
            "<script>document.cookie = 'a_crm_id=x'; document.cookie = 'crm_id=cookie-1'</script>",
            "",
        ),
        ("crm", CRM, "cookie+2%", "<script>document.cookie = 'crm_id=cookie+2%'</script>", ""),
        (
            "crm",
            CRM,
            "cookie 3/é",
            "<script>document.cookie = 'crm_id=' + encodeURIComponent('cookie 3/é')</script>",
            "",
        ),
        ("gtm", GTM, "object-1", "<script>dataLayer = {user: {id: 'object-1'}}</script>", ""),
        (
            *("gtm", GTM, "layer-2"),
            "<script>dataLayer = [{user: {id: 'layer-1'}}, {user: {id: 'layer-2'}}, null, {user: {a: 1}}, 7]</script>",
            "",
        ),
        (
            *("gtm", GTM, "arguments-1"),
            "<script>dataLayer = []; function gtag() { dataLayer.push(arguments) }"
            "gtag('set', {user: {id: 'arguments-1'}}); gtag('js', 1)</script>",
            "",
        ),
        ("analytics", ANALYTICS, "4711", "<script>s = {eVar5: 4711}</script>", ""),
        ("shop", SHOP, "meta&1=a#b", "<meta name='shop.customer-id' content='meta&amp;1=a#b'>", ""),
        ("member", MEMBER, "attribute-1", "", "<p data-customer-id=attribute-1><p data-customer-id=attribute-2>"),
    ],
)
def test_each_placement(visitor: Visitor, name: str, dpid: int, customer_id: str, head: str, body: str) -> None:
    visitor.open(head, body, tags=name)
    wait_until(lambda: len(visitor.world.devices(dpid, customer_id)) == 1, "the mapping")
    assert len(visitor.calls) == 1


def test_all_data_sources_in_one_script(visitor: Visitor) -> None:
    visitor.show(
        f"<script async src=https://{SYNC}/idsync.js></script><meta name=shop.customer-id content=all-1>"
        "<body data-customer-id=all-2><script>dataLayer = [{user: {id: 'all-3'}}]</script>"
    )
    for dpid, customer_id in ((SHOP, "all-1"), (MEMBER, "all-2"), (GTM, "all-3")):
        wait_until(lambda d=dpid, c=customer_id: len(visitor.world.devices(d, c)) == 1, customer_id)  # type: ignore[misc]
    assert len(visitor.calls) == 3


@pytest.mark.parametrize(
    "expression",
    [
        *("''", "' '", "'undefined'", "'null'", "null", "undefined", "NaN", "true", "{}", "['never']", "() => 'never'"),
        *("'jane@never.example'", "'jane%40never.example'", "2 ** 53", "'x'.repeat(513)", "'never-\\ud800'"),
    ],
)
def test_what_is_no_id_is_not_sent(visitor: Visitor, expression: str) -> None:
    page = visitor.open(f"<script>s = {{eVar5: {expression}}}</script>", tags="analytics")
    pass_time(page)
    assert visitor.calls == []


def test_a_log_out_ends_the_search(visitor: Visitor) -> None:
    page = visitor.open("<script>dataLayer = [{user: {id: 'never-out'}}, {user: null}]</script>", tags="gtm")
    pass_time(page)
    assert visitor.calls == []


# --- when it is sent -------------------------------------------------------------------------------------------------


def test_a_late_id(visitor: Visitor) -> None:
    page = visitor.open("<script>setTimeout(() => dataLayer = [{user: {id: 'late-1'}}], 30_000)</script>", tags="gtm")
    page.clock.run_for(29_000)
    assert visitor.calls == []
    page.clock.run_for(8_000)
    visitor.sent(GTM, "late-1")
    wait_until(lambda: len(visitor.world.devices(GTM, "late-1")) == 1, "the mapping")


def test_a_late_id_by_the_clock_on_the_wall(visitor: Visitor) -> None:
    visitor.world.site.put("/", "<!doctype html><script async src='https://sync.example.com/idsync.js'></script>")
    page = visitor.context.new_page()
    page.goto(f"https://{SITE}/")
    page.evaluate("() => { setTimeout(() => { document.body.dataset.customerId = 'wall-1' }, 700) }")
    visitor.sent(MEMBER, "wall-1")


def test_once_for_a_page_and_an_id(visitor: Visitor) -> None:
    """Twice the tag of one data source, and the tag of all."""
    everything = f"<script async src=https://{SYNC}/idsync.js></script>"
    page = visitor.open(f"{everything}<meta name=shop.customer-id content=once-1>", tags="shop shop")
    visitor.sent(SHOP, "once-1")
    pass_time(page)
    assert len(visitor.calls) == 1
    page.reload()
    wait_until(lambda: len(visitor.world.web.asked(SYNC, "dpuuid=once-1")) == 2, "the call of the next page")


def test_another_id_on_the_same_page(visitor: Visitor) -> None:
    page = visitor.open("<meta name=shop.customer-id content=change-1>", tags="shop")
    visitor.sent(SHOP, "change-1")
    for customer_id in ("change-2", "change-1"):
        page.evaluate("id => document.querySelector('meta').content = id", customer_id)
        page.clock.run_for(6_000)
    visitor.sent(SHOP, "change-2")
    pass_time(page)
    assert len(visitor.calls) == 2


def test_an_id_that_never_stays_the_same_has_an_end(visitor: Visitor) -> None:
    page = visitor.open("<script>s = {get eVar5() { return 'restless-' + Math.random() }}</script>", tags="analytics")
    pass_time(page, 60)
    assert len(visitor.calls) == 20


def test_an_id_that_is_unsent_when_the_page_goes(visitor: Visitor) -> None:
    page = visitor.open(tags="crm")
    visitor.world.site.put("/next", "<p>next")
    page.clock.pause_at(milliseconds_now() / 1000 + 3600)
    page.evaluate("() => { document.cookie = 'crm_id=gone-1'; location.href = '/next' }")
    page.wait_for_url("**/next")
    assert visitor.sent(CRM, "gone-1").headers["sec-fetch-dest"] == "empty"
    wait_until(lambda: len(visitor.world.devices(CRM, "gone-1")) == 1, "the mapping")


@pytest.mark.parametrize("event", ["visibilitychange", "pagehide"])
def test_an_id_that_is_unsent_when_the_page_is_hidden(visitor: Visitor, event: str) -> None:
    """Chromium tells a page of both when it goes; not all browsers do."""
    page = visitor.open(tags="crm")
    hide(page, f"crm_id=hidden-{event}", event)
    assert visitor.sent(CRM, f"hidden-{event}").headers["sec-fetch-dest"] == "empty"


def test_copies_of_the_tag_are_quiet_when_the_page_is_hidden(visitor: Visitor) -> None:
    """Of equal images on a page browsers load one, which would speak for the tag; equal fetches are all sent."""
    page = visitor.open(f"<script async src=https://{SYNC}/idsync.js></script>", tags="crm crm")
    hide(page, "crm_id=copies-1")
    visitor.sent(CRM, "copies-1")
    pass_time(page)
    assert len(visitor.calls) == 1


def test_what_was_sent_is_not_sent_again_when_the_page_is_hidden(visitor: Visitor) -> None:
    page = visitor.open("<script>document.cookie = 'crm_id=again-1'</script>", tags="crm")
    visitor.sent(CRM, "again-1")
    hide(page, "crm_id=again-1")
    pass_time(page)
    assert len(visitor.calls) == 1


def hide(page: Page, cookie: str, event: str = "visibilitychange") -> None:
    """Right after the cookie was set, with no time for a timer in between."""
    page.clock.pause_at(milliseconds_now() / 1000 + 3600)
    page.evaluate(
        """([cookie, event]) => {
            document.cookie = cookie;
            Object.defineProperty(document, 'hidden', {value: event === 'visibilitychange'});
            (event === 'pagehide' ? window : document).dispatchEvent(new Event(event));
        }""",
        [cookie, event],
    )


# --- consent ---------------------------------------------------------------------------------------------------------

TCF_STUB = "window.__tcfapi = (command, version, callback) => { if (command === 'addEventListener') tcf = callback }"
GPP_STUB = "window.__gpp = (command, callback) => { if (command === 'addEventListener') gpp = callback }"


def with_id(customer_id: str, script: str) -> str:
    return f"<meta name=shop.customer-id content={customer_id}><script>{script}</script>"


def tcf(page: Page, status: str, **data: object) -> None:
    page.evaluate("data => tcf(data, true)", {"eventStatus": status, **data})


def gpp(page: Page, **ping: object) -> None:
    page.evaluate("ping => gpp({eventName: 'x', listenerId: 1, data: 1, pingData: ping}, true)", ping)


def test_consent_granted_later(visitor: Visitor) -> None:
    page = visitor.open(with_id("tcf-1", TCF_STUB), tags="shop")
    tcf(page, "cmpuishown", gdprApplies=True, tcString="C.early")
    pass_time(page)
    assert visitor.calls == []
    tcf(page, "useractioncomplete", gdprApplies=True, tcString="C.a+b/=c")
    visitor.sent(SHOP, "tcf-1", "&gdpr=1&gdpr_consent=C.a%2Bb%2F%3Dc")
    pass_time(page)
    assert len(visitor.calls) == 1


def test_consent_told_at_once(visitor: Visitor) -> None:
    """Within the call that asks for it, as a tool does that is loaded already."""
    visitor.open(
        with_id(
            "tcf-2",
            "window.__tcfapi = (command, version, callback) =>"
            " callback({eventStatus: 'tcloaded', gdprApplies: false, tcString: ''}, true)",
        ),
        tags="shop",
    )
    visitor.sent(SHOP, "tcf-2", "&gdpr=0")
    wait_until(lambda: len(visitor.world.devices(SHOP, "tcf-2")) == 1, "the mapping")


def test_another_choice_is_another_call(visitor: Visitor) -> None:
    page = visitor.open(with_id("tcf-3", TCF_STUB), tags="shop")
    for text in ("C.first", "C.first", "C.second"):
        tcf(page, "cmpuishown", gdprApplies=True, tcString="C.before")
        pass_time(page)
        tcf(page, "useractioncomplete", gdprApplies=True, tcString=text)
    pass_time(page)
    assert [call.partition("gdpr_consent=")[2] for call in visitor.calls] == ["C.first", "C.second"]


@pytest.mark.parametrize(
    ("stub", "answer"),
    [
        (TCF_STUB, ""),
        (TCF_STUB, "tcf(null, false)"),
        (TCF_STUB, "tcf({eventStatus: 'tcloaded', gdprApplies: false}, false)"),
        (TCF_STUB, "tcf({eventStatus: 'tcloaded', gdprApplies: undefined, tcString: 'C'}, true)"),
        (TCF_STUB, "tcf({eventStatus: 'tcloaded', gdprApplies: true, tcString: ''}, true)"),
        (f"{TCF_STUB}; {GPP_STUB}", "tcf({eventStatus: 'tcloaded', gdprApplies: false}, true)"),
        (
            GPP_STUB,
            "gpp({eventName: 'listenerRegistered', pingData: {signalStatus: 'not ready', gppString: 'D'}}, true)",
        ),
        (GPP_STUB, "gpp({eventName: 'error', pingData: null}, true)"),
        ("window.__tcfapi = () => { throw new Error('broken') }", ""),
        ("window.__gpp = () => { throw new Error('broken') }", ""),
        ("Object.defineProperty(window, '__tcfapi', {get() { throw new Error('broken') }})", ""),
    ],
)
def test_without_a_clear_answer_nothing_is_sent(visitor: Visitor, stub: str, answer: str) -> None:
    page = visitor.open(with_id("never-told", stub), tags="shop")
    page.evaluate(f"() => {{ {answer} }}")
    pass_time(page)
    assert visitor.calls == []


def test_gpp(visitor: Visitor) -> None:
    page = visitor.open(with_id("gpp-1", f"{TCF_STUB}; {GPP_STUB}"), tags="shop")
    gpp(page, signalStatus="not ready", gppString="DBAA", applicableSections=[-1])
    gpp(page, signalStatus="ready", gppString="DBABLA~BVQqAAAAAgA.QA", applicableSections=[7, 8])
    tcf(page, "tcloaded", gdprApplies=False)
    visitor.sent(SHOP, "gpp-1", "&gdpr=0&gpp=DBABLA~BVQqAAAAAgA.QA&gpp_sid=7%2C8")


def test_a_consent_tool_that_comes_before_the_id(visitor: Visitor) -> None:
    page = visitor.open(tags="shop")
    page.clock.run_for(10_000)
    page.evaluate(f"() => {{ {TCF_STUB} }}")
    page.evaluate("() => { document.head.innerHTML += '<meta name=shop.customer-id content=tool-1>' }")
    pass_time(page)
    assert visitor.calls == []
    tcf(page, "tcloaded", gdprApplies=False)
    visitor.sent(SHOP, "tool-1", "&gdpr=0")


def test_a_consent_tool_at_the_end_of_the_page(visitor: Visitor) -> None:
    """Tag and ID are there, and the tag could send, before the page has come that far."""
    head = f"<meta name=shop.customer-id content=never-at-the-end><script src=https://{SYNC}/idsync.js></script>"
    page = visitor.show(f"{head}<body><p>A shop.<script>{TCF_STUB}</script>")
    pass_time(page)
    assert visitor.calls == []


def test_global_privacy_control(visitor: Visitor) -> None:
    visitor.context.add_init_script("Object.defineProperty(navigator, 'globalPrivacyControl', {value: true})")
    page = visitor.open("<meta name=shop.customer-id content=never-gpc>", tags="shop")
    pass_time(page)
    assert visitor.calls == []


# --- what the site notices -------------------------------------------------------------------------------------------


def under_policy(allowed: str) -> dict[str, str]:
    return {
        "Content-Security-Policy": f"default-src 'none'; {allowed}; require-trusted-types-for 'script'; report-uri /csp"
    }


def test_a_strict_policy(visitor: Visitor) -> None:
    headers = under_policy(tag.policy(visitor.world.settings().endpoint))
    page = visitor.open("<meta name=shop.customer-id content=policy-1>", tags="shop crm", headers=headers)
    visitor.sent(SHOP, "policy-1")
    visitor.world.site.put("/next", "<p>next")
    page.context.add_cookies([{"name": "crm_id", "value": "policy-2", "url": f"https://{SITE}"}])
    assert page.evaluate("refused") == []
    page.goto(f"https://{SITE}/next")
    visitor.sent(CRM, "policy-2")
    assert visitor.world.site.reports == []


def test_a_policy_without_the_image_is_told_of(visitor: Visitor) -> None:
    """What the test before this one relies on: a violation would be seen."""
    headers = under_policy(f"script-src https://{SYNC}; connect-src https://{SYNC}")
    page = visitor.open("<meta name=shop.customer-id content=policy-3>", tags="shop", headers=headers)
    page.wait_for_function("refused.length")
    assert page.evaluate("refused") == ["img-src"]
    wait_until(lambda: "img-src" in "".join(visitor.world.site.reports), "the report")
    visitor.world.site.reports.clear()


def test_a_policy_of_images_alone_suffices_when_the_page_stays(visitor: Visitor) -> None:
    headers = under_policy(f"script-src https://{SYNC}; img-src https://{SYNC}")
    page = visitor.open(tags="crm", headers=headers)
    hide(page, "crm_id=policy-4")
    assert visitor.sent(CRM, "policy-4").headers["sec-fetch-dest"] == "image"
    wait_until(lambda: bool(visitor.world.site.reports), "the report")
    visitor.world.site.reports.clear()


def test_getters_that_throw(visitor: Visitor) -> None:
    """They cost their own data source its call, and no other."""
    broken = "{get user() { throw new Error('mine') }}"
    page = visitor.open(
        f"<script>dataLayer = [{broken}]; s = {broken}</script><meta name=shop.customer-id content=throws-1>",
        tags="gtm analytics shop",
    )
    visitor.sent(SHOP, "throws-1")
    page.evaluate("() => { dataLayer.push({user: {id: 'throws-2'}}) }")
    page.clock.run_for(6_000)
    visitor.sent(GTM, "throws-2")


def test_nothing_is_left_in_the_page(visitor: Visitor) -> None:
    content = "<meta name=shop.customer-id content=trace-1><body><p>A shop."
    looks, globals_, bodies = [], [], []
    for script in ("", f"<script async src=https://{SYNC}/idsync.js?data_source=shop></script>"):
        page = visitor.show(f"{script}{content}")
        if script:
            visitor.sent(SHOP, "trace-1")
            pass_time(page)
        looks.append(page.screenshot())
        globals_.append(set(page.evaluate("() => Object.getOwnPropertyNames(window)")))
        bodies.append(page.inner_html("body"))
        assert page.evaluate("() => [document.cookie, localStorage.length, sessionStorage.length]") == ["", 0, 0]
    assert looks[0] == looks[1]
    assert bodies[0] == bodies[1]
    assert globals_[1] - globals_[0] == {"__idsync"}


# --- whose UUID ------------------------------------------------------------------------------------------------------


def sync_two_customers(visitor: Visitor, *customer_ids: str) -> list[Asked]:
    calls = []
    for customer_id in customer_ids:
        page = visitor.open(f"<meta name=shop.customer-id content={customer_id}>", tags="shop")
        calls.append(visitor.sent(SHOP, customer_id))
        wait_until(lambda c=customer_id: len(visitor.world.devices(SHOP, c)) == 1, "the mapping")  # type: ignore[misc]
        pass_time(page)
    return calls


def test_the_cookie_ties_two_pages(known_visitor: Visitor) -> None:
    first, second = sync_two_customers(known_visitor, "tied-1", "tied-2")
    [uuid] = known_visitor.world.devices(SHOP, "tied-1")
    assert "cookie" not in first.headers
    assert second.headers["cookie"].endswith(f"idsync={uuid}")
    assert known_visitor.world.devices(SHOP, "tied-2") == [uuid]


def test_without_third_party_cookies(visitor: Visitor) -> None:
    """Nothing ties two customers to one device then, but each is stored."""
    calls = sync_two_customers(visitor, "strict-1", "strict-2")
    assert not any("cookie" in call.headers for call in calls)
    assert visitor.world.devices(SHOP, "strict-1") != visitor.world.devices(SHOP, "strict-2")


def test_the_round_trip_through_audience_manager(visitor: Visitor) -> None:
    """Also under the policy for it: browsers hold each hop against it."""
    endpoint = visitor.world.settings(ASKING).endpoint
    page = visitor.show(
        f"<script async src=https://{ASKING}/idsync.js></script><meta name=shop.customer-id content='trip&amp;1'>",
        under_policy(tag.policy(endpoint)),
    )
    wait_until(lambda: visitor.world.devices(SHOP, "trip&1", ASKING) == [OTHER_UUID], "the mapping")
    assert len(visitor.world.web.asked(AUDIENCE_MANAGER)) == 1
    assert page.evaluate("refused") == []
    assert visitor.world.site.reports == []


# --- the HTML that the command writes --------------------------------------------------------------------------------


def told(world: World, *arguments: str) -> tuple[str, str]:
    done = run_idsync("tag", "--config", world.paths[SYNC], *arguments)
    assert done.returncode == 0
    return done.stdout, done.stderr


def test_the_snippet(visitor: Visitor) -> None:
    snippet, note = told(visitor.world, "crm")
    assert snippet == f'<script async src="https://{SYNC}/idsync.js?data_source=crm"></script>\n'
    assert tag.policy(visitor.world.settings().endpoint) in note
    visitor.show(f"{snippet}<script>document.cookie = 'crm_id=snippet-1'</script>")
    visitor.sent(CRM, "snippet-1")
    found: Any = json.loads(run_idsync("lookup", "--config", visitor.world.paths[SYNC], "crm", "snippet-1").stdout)
    assert len(found["devices"]) == 1


def test_the_image_for_a_mail(visitor: Visitor) -> None:
    [image] = re.findall("<img .*>", told(visitor.world, "crm", "--email")[0])
    assert image.count(tag.MAIL_PLACEHOLDER) == 1
    page = visitor.show(f"<body>{image.replace(tag.MAIL_PLACEHOLDER, 'mail%261')}")
    assert page.evaluate("document.images[0].naturalWidth") == 1
    assert len(visitor.world.devices(CRM, "mail&1")) == 1


def test_an_image_that_was_left_unfilled_is_refused(visitor: Visitor) -> None:
    [image] = re.findall("<img .*>", told(visitor.world, "crm", "--email")[0])
    page = visitor.show(f"<body>{image}")
    assert page.evaluate("document.images[0].naturalWidth") == 0
    assert visitor.world.devices(CRM, tag.MAIL_PLACEHOLDER) == []
