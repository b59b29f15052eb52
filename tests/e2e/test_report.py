"""The report of a run in a browser, and the runs on the endpoint's status page."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser import CHROMIUM
from tests.e2e.test_status import BY_TOKEN, configured, page
from tests.endpoint import serving
from tests.reconcile.samples import NOW, SIGNALS, World, uuid

DAY = 86_400_000
HOSTILE = "<script>document.title='taken'</script>"
LONG = "a-name-without-any-place-to-break-it-" * 5


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With everything on it, hostile and long names in every place that has one."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "known.txt").write_text("24\n")
    feed = SIGNALS.replace('"gender"', f'"gender", "{HOSTILE}"')
    world = World(folder, f'{feed}max_rejected = 1\nunsendable = "item"\nknown_traits_file = "known.txt"\n')
    world.sync(*((f"user-{number}", uuid(number)) for number in range(90)), (HOSTILE.lower(), uuid(99)))
    header = ("id", "gender", "tier", "traits", HOSTILE)
    for day in range(3):
        world.now = NOW + day * DAY
        rows: list[tuple[str, ...]] = [(f"user-{number}", "f", str(day), "", "") for number in range(60 + day)]
        rows += [(f"USER-{number}", "", "", "", "") for number in range(60, 90)] + [(HOSTILE, "f", "", "", '"')]
        rows += [("bad:" + "x" * 300, "", "", "", "")] * 12 + [("me@mail.example", "", "", "", ""), ("short",)]
        rows += [("user-80", "", "", "9" * 18, ""), (f"{LONG}:", "", "", "", "")]
        world.put(f"{LONG[:180]}<img src=x onerror=alert(1)>-{day}.csv", rows, header)
        world.run()
    return Path(world.last.report)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, path: Path, width: int, scheme: Any) -> Iterator[Any]:
    """No console message, no error, no request but for the file itself."""
    faults: list[str] = []
    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme) as context:
        tab = context.new_page()
        tab.on("console", lambda message: faults.append(message.text))
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("dialog", lambda dialog: faults.append(dialog.message))
        tab.on("request", lambda request: faults.append(request.url) if request.url != path.as_uri() else None)
        tab.goto(path.as_uri(), wait_until="load")
        yield tab
    assert not faults


def fits(tab: Any) -> bool:
    wide, window = tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    return bool(wide <= window)


def test_it_fits_every_screen_and_fetches_nothing(browser: Browser, report: Path, tmp_path: Path) -> None:
    """Screenshots lie in the test's folder."""
    grounds = set()
    for width in (390, 1280):
        for scheme in ("light", "dark"):
            with opened(browser, report, width, scheme) as tab:
                assert fits(tab)
                tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
                tab.screenshot(path=tmp_path / f"{width}-{scheme}.png", full_page=True)
                assert fits(tab)
                grounds.add(tab.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
                bar = tab.locator("svg rect.matched").first
                assert bar.evaluate("e => getComputedStyle(e).fill") != "rgb(0, 0, 0)"  # the style sheet holds
                assert tab.locator("script, img, [onerror], [style], link").count() == 0
                assert "taken" not in tab.title()
                assert tab.locator("svg[role=img] g").count() == 3
    assert len(grounds) == 2


def test_on_a_phone_files_are_read_without_scrolling(browser: Browser, report: Path) -> None:
    for width, is_wide in ((390, False), (1280, True)):
        with opened(browser, report, width, "light") as tab:
            region = tab.get_by_role("region", name="Files for local")
            assert region.evaluate("e => e.scrollWidth <= e.clientWidth")
            assert region.locator("thead").is_visible() is is_wide
            name = "e => getComputedStyle(e, '::before').content"
            told = region.locator("td", has_text="bytes lie there").evaluate(name)
            assert ("proof" in told) is not is_wide


def test_on_paper_it_is_white_whole_and_not_cut_off(browser: Browser, report: Path, tmp_path: Path) -> None:
    with opened(browser, report, 760, "dark") as tab:
        tab.emulate_media(media="print", color_scheme="dark")
        assert tab.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
        assert tab.locator("details").first.evaluate("e => e.offsetHeight > 60")  # opened, though nobody clicked
        assert fits(tab)
        assert tab.pdf(path=tmp_path / "report.pdf").startswith(b"%PDF")


def test_hostile_names_are_read_as_they_are(browser: Browser, report: Path) -> None:
    with opened(browser, report, 1280, "light") as tab:
        text = tab.locator("body").inner_text()
        assert f"1 item of {HOSTILE} left out" in text
        assert "<img src=x onerror=alert(1)>-2.csv" in text


def test_the_status_page_shows_a_real_run(tmp_path: Path) -> None:
    path = configured(tmp_path, BY_TOKEN)
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    with serving(path, "--workers", "1") as endpoint:
        assert endpoint.get("/ibs:dpid=12345&dpuuid=customer-1").status == 200
        (inbox / "a.csv").write_text("id,tier\ncustomer-1,gold\nlate-1,gold\nlate-2,gold\n")
        line = [sys.executable, "-m", "reconcile", "run", "daily", "--config", str(path)]
        done = run(line, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        text = page(endpoint)
        assert "daily Latest run delivered" in text
        assert "Match rate 33.3%" in text
        assert "Held 2 records that wait for their sync" in text
        assert endpoint.stop()[0] == 0
