"""The status page of a real endpoint with two workers, under real calls and without its store; and in a browser."""

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from idsync import status
from idsync.facts import Counted
from idsync.feedruns import Told
from idsync.store.spool import Waiting
from tests.browser import Site, Web, browsing, standing_in
from tests.endpoint import Endpoint, run_idsync, serving
from tests.idsync.samples import NOW
from tests.idsync.status_samples import NASTY, TOKEN, Reader, basic, facts, run, tally
from tests.servers import RedisServer, redis_server, wait_until

CONFIGURATION = """
[store]
url = "{store}"

[endpoint]
{status}

[privacy]
gdpr_default = "does-not-apply"

[[data_sources]]
name = "crm"
dpid = 12345

[[feeds]]
name = "daily"
data_source = "crm"
inputs = "inbox/*.csv"
id_column = "id"
signals = ["tier"]
destination = "local"

[[destinations]]
name = "local"
kind = "directory"
path = "delivered"
"""
BY_TOKEN = 'status = "token"\nstatus_token_file = "token"'
ASKED = f"Authorization: Bearer {TOKEN}"
# No page has these: who called, for whom, from where.
MARKS = ("customer-4711", "203.0.113.77", "Firefox", "dpuuid")
WIDTHS, SCHEMES = (390, 1280), ("light", "dark")


def configured(folder: Path, options: str, store: str = "sqlite:///idsync.db") -> Path:
    path = folder / "idsync.toml"
    path.write_text(CONFIGURATION.format(store=store, status=options))
    (folder / "token").write_text(TOKEN)
    (folder / "token").chmod(0o600)
    return path


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path / "redis") as server:
        yield server


def page(endpoint: Endpoint) -> str:
    answer = endpoint.get("/status", ASKED)
    assert answer.status == 200, answer
    assert not [mark for mark in MARKS if mark.encode() in answer.body]
    return Reader(answer.body.decode()).text


def call(endpoint: Endpoint, query: str) -> int:
    seen = "X-Forwarded-For: 203.0.113.77", "User-Agent: Mozilla/5.0 (X11) Firefox/128.0"
    return endpoint.get(f"/ibs:dpid=12345{query}", *seen).status


def figure(endpoint: Endpoint, name: str) -> int:
    found = re.search(rf"{re.escape(name)} ([\d,]+)", page(endpoint))
    assert found
    return int(found[1].replace(",", ""))


def test_two_workers_show_the_same_with_and_without_their_store(tmp_path: Path, redis: RedisServer) -> None:
    path = configured(tmp_path, BY_TOKEN, redis.url)
    state = tmp_path / "var" / "reconcile"
    state.mkdir(parents=True)
    (state / "status.json").write_text(json.dumps({"runs": [run(9)._asdict()]}))
    with serving(path, "--workers", "2") as endpoint:
        for number in range(40):
            assert call(endpoint, f"&dpuuid=customer-4711-{number}") == 200
        for query, code in (("", 400), ("&dpuuid=a:b", 400), ("&dpuuid=customer-4711&gdpr=1&gdpr_consent=CA", 200)):
            assert call(endpoint, query) == code
        # Each is a connection of its own, which either worker may take.
        assert {figure(endpoint, "Calls in the last hour") for _ in range(12)} == {43}
        text = page(endpoint)
        for words in (
            "Ready Warnings",
            "stored 200 40 40",
            "customer-id-invalid 400 2 2",
            "unreadable 1 1",
            "delivered",
        ):
            assert words in text, words
        assert "Not ready" not in text
        assert "The spool" not in text
        wait_until(lambda: "Mappings in the store" in page(endpoint), "the count")
        assert "Opted-out devices: 0." in page(endpoint)

        redis.stop()
        for number in range(10):
            assert call(endpoint, f"&dpuuid=customer-4711-away-{number}") == 200
        text = page(endpoint)
        for words in ("Not ready: store", "did not take", "spooled 200 10 10", "Spool 10 mappings"):
            assert words in text, words

        redis.start()
        wait_until(lambda: "empty" in page(endpoint), "the end of the spool")
        text = page(endpoint)
        assert "Not ready" not in text
        assert "did not take" in text
        code, output = endpoint.stop()
    assert code == 0
    assert "ERROR" not in re.sub(r".*The store is away.*", "", output)
    assert not [mark for mark in MARKS if mark in output]


def workers(endpoint: Endpoint) -> list[int]:
    children = Path(f"/proc/{endpoint.process.pid}/task/{endpoint.process.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def kill_one(endpoint: Endpoint) -> set[int]:
    """Which."""
    first = workers(endpoint)[0]
    os.kill(first, signal.SIGKILL)
    return {first}


def replace_all(endpoint: Endpoint) -> set[int]:
    """The old ones."""
    old = set(workers(endpoint))
    endpoint.process.send_signal(signal.SIGHUP)
    return old


def replaced(endpoint: Endpoint, gone: set[int]) -> bool:
    now = set(workers(endpoint))
    return len(now) == 2 and not now & gone


def test_what_was_counted_outlives_workers_that_are_killed_or_replaced(tmp_path: Path) -> None:
    with serving(configured(tmp_path, BY_TOKEN), "--workers", "2") as endpoint:
        for number in range(20):
            call(endpoint, f"&dpuuid=customer-4711-{number}")
        assert figure(endpoint, "Calls in the last hour") == 20
        for how in (kill_one, replace_all):
            gone = how(endpoint)
            wait_until(partial(replaced, endpoint, gone), "new workers")
            assert figure(endpoint, "Calls in the last hour") == 20
        folders = list((tmp_path / "var").glob("metrics-*"))
        assert endpoint.stop()[0] == 0
    assert len(folders) == 1
    assert not folders[0].exists()


@pytest.mark.parametrize(
    ("options", "headers", "code"),
    [
        ("", [ASKED], 404),
        ('status = "loopback"', [], 403),  # under the site's name
        (BY_TOKEN, [ASKED], 200),
        (BY_TOKEN, [f"Authorization: {basic('ops', TOKEN)}"], 200),
        (BY_TOKEN, [f"Authorization: {basic('ops', 'x' * 64)}"], 401),
        (BY_TOKEN, [], 401),
    ],
)
def test_who_is_let_in(tmp_path: Path, options: str, headers: list[str], code: int) -> None:
    with serving(configured(tmp_path, options), "--workers", "1") as endpoint:
        answer = endpoint.get("/status", *headers)
        assert answer.status == code
        if code == 404:
            unknown = endpoint.get("/nothing", *headers)
            assert (answer.headers, answer.body) == (unknown.headers, unknown.body)


def test_on_this_machine_under_its_own_name(tmp_path: Path) -> None:
    with serving(configured(tmp_path, 'status = "loopback"'), "--workers", "1") as endpoint:
        for extra, code in (("", 200), ("X-Forwarded-For: 127.0.0.1\r\n", 403), ("Via: 1.1 proxy\r\n", 403)):
            with endpoint.connect() as connection:
                connection.send(f"GET /status HTTP/1.1\r\nHost: localhost:{endpoint.port}\r\n{extra}\r\n".encode())
                assert connection.receive().status == code


def test_a_token_file_that_others_read_stops_the_start(tmp_path: Path) -> None:
    path = configured(tmp_path, BY_TOKEN)
    (tmp_path / "token").chmod(0o644)
    done = run_idsync("serve", "--config", path, "--bind", "127.0.0.1:0")
    assert done.returncode == 2
    assert "open to others (mode 0644)" in done.stderr
    assert TOKEN not in done.stderr


# --- browser ---------------------------------------------------------------------------------------------------------


def busy_hour() -> Any:
    """A page with everything on it, and the longest names there can be."""
    name = "a-data-source-" + "with-a-long-name-" * 3
    shape = [tally(STORED=30 + at * 7 % 23, BOT=at % 5, NO_CUSTOMER_ID=at % 4) for at in range(60)]
    shape[20:24] = [tally(SPOOLED=25, STORE_UNAVAILABLE=9, store_failures=2, slow=3)] * 4
    latest = [None] * 3 + shape[3:-1] + [tally(STORED=12, CONSENT_DENIED=4, unreadable=4)]
    day = [None] * 30 + [tally(STORED=300 + at * 37 % 211, OPTED_OUT=at, FAILED=at % 9 == 0) for at in range(66)]
    runs = [run(40 + 24 * at, 780 - at * 3, feed="daily") for at in range(12)]
    runs += [run(41, 100, state="refused", feed=name), run(50, 900, feed=name), run(20, 350, feed=NASTY)]
    return facts(
        not_ready="store redis redis.internal.example:6379: connection refused",
        spool=Waiting(12_345, 1_234.0, 3),
        queue=17,
        minutes=tuple(latest),
        quarters=tuple(day),
        sources={12345: "crm", 1234567890: name, 7: NASTY},
        feeds=("daily", name, "new"),
        counted=Counted(NOW - 2_000_000, {12345: (1_234_567, 2_345_678, 123), 99: (1, 1, 0)}, 45),
        told=Told((run(39, 300), *runs)),
    )


@contextmanager
def opened(browser: Browser, url: str, width: int, scheme: Any, faults: list[str]) -> Iterator[Any]:
    credentials: Any = {"username": "ops", "password": TOKEN}
    with browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, http_credentials=credentials
    ) as context:
        tab = context.new_page()
        tab.on("console", lambda message: faults.append(message.text))
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("requestfailed", lambda request: faults.append(request.url))
        tab.goto(url, wait_until="load")
        yield tab


def test_in_a_browser_it_fits_and_nothing_is_refused(tmp_path: Path) -> None:
    """Screenshots lie in `screens` of the test's folder."""
    site, screens = Site(), tmp_path / "screens"
    whole = status.answer(busy_hour())
    site.put("/busy", whole.body.decode(), dict(whole.headers))
    calm = status.answer(facts())
    site.put("/calm", calm.body.decode(), dict(calm.headers))
    with ExitStack() as stack:
        endpoint = stack.enter_context(serving(configured(tmp_path, BY_TOKEN), "--workers", "2"))
        call(endpoint, "&dpuuid=customer-4711")
        servers = {"sync.example.com": endpoint.port, "ops.example.com": stack.enter_context(standing_in(site))}
        web = stack.enter_context(Web(tmp_path, servers))
        browser = stack.enter_context(browsing(web)).browser
        pages = {
            "real": "https://sync.example.com/status",
            "busy": "https://ops.example.com/busy",
            "calm": "https://ops.example.com/calm",
        }
        grounds = set()
        for width in WIDTHS:
            for scheme in SCHEMES:
                for name, url in pages.items():
                    faults: list[str] = []
                    with opened(browser, url, width, scheme, faults) as tab:
                        tab.screenshot(path=screens / f"{name}-{width}-{scheme}.png", full_page=True)
                        wide = tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
                        assert wide[0] <= wide[1] == width, name
                        ground = tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")
                        grounds.add((scheme, ground))
                        assert tab.locator("h1").inner_text() == "idsync status"
                        bar = tab.locator("svg rect.kept").first
                        assert bar.evaluate("e => getComputedStyle(e).fill") != "rgb(0, 0, 0)"  # the style sheet holds
                        assert tab.locator("svg[role=img]").count() >= 4
                        tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
                        wide = tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
                        assert wide[0] <= wide[1], f"{name}, with its tables open"
                    # A browser that was asked for the token says so on its console; that is no fault.
                    assert not [fault for fault in faults if "401" not in fault], (name, width, scheme)
        assert len(grounds) == 2
        assert {asked.target for asked in web.asked("ops.example.com")} == {"/busy", "/calm"}
        with opened(browser, pages["busy"], 1280, "dark", []) as tab:
            paper = tab.pdf(path=screens / "busy.pdf")
            assert paper.startswith(b"%PDF")
            tab.emulate_media(media="print", color_scheme="dark")
            assert tab.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
