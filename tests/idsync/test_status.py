"""The status page: its words from frozen facts, and its charts."""

import base64
import hashlib
import math
import re
from itertools import pairwise
from typing import Any

import pytest

from idsync import charts, status
from idsync.facts import QUARTERS, Counted
from idsync.feedruns import Told
from idsync.store.spool import Waiting
from tests.idsync.samples import NOW
from tests.idsync.status_samples import NASTY, Reader, facts, minutes, read, run, tally

QUIET = minutes(*(tally(),) * 16, other=tally(STORED=5))
FALLEN = Told((run(1, 400), *(run(20 * n, 800) for n in range(1, 9))))

# what is the case · words that the page has then · words that it has not
STATES: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "all well": ({}, ["Ready", "Warnings None.", "600", "empty", "Match rate 80.0%"], ["Not ready"]),
    "store away": ({"not_ready": "store redis: refused"}, ["Not ready: store redis: refused"], ["Warnings None."]),
    "spool for a short time": ({"spool": Waiting(7, 300.0, 0)}, ["Warnings None.", "7 mappings, oldest for"], []),
    "spool for long": (
        {"spool": Waiting(7, 301.0, 0)},
        ["The spool is not empty: 7 mappings wait for the store, the oldest for 5 minutes."],
        [],
    ),
    "one in the spool": ({"spool": Waiting(1, 400.0, 0)}, ["1 mapping waits for the store"], []),
    "opt-outs in the spool": ({"spool": Waiting(0, 0.0, 2)}, ["2 opt-outs wait in the spool"], []),
    "spool unreadable": ({"spool": "disk gone"}, ["The spool can't be read: disk gone", "unreadable"], []),
    "store failures": (
        {"minutes": minutes(tally(STORED=9), other=tally(STORED=9, store_failures=1))},
        ["The store did not take 59 batches in the last hour."],
        [],
    ),
    "one store failure": ({"minutes": minutes(tally(store_failures=1, STORED=1))}, ["did not take 1 batch in"], []),
    "some unreadable consent": (
        {"minutes": minutes(tally(STORED=95, CONSENT_DENIED=5, unreadable=5))},
        ["Warnings None."],
        [],
    ),
    "much unreadable consent": (
        {"minutes": minutes(tally(STORED=94, CONSENT_DENIED=6, unreadable=6))},
        ["6.0% of the calls of the last hour carry consent that can't be read."],
        [],
    ),
    "unreadable consent, hardly a call": (
        {"minutes": minutes(tally(STORED=9, CONSENT_DENIED=10, unreadable=10))},
        ["Warnings None."],
        [],
    ),
    "failed calls": ({"minutes": minutes(tally(STORED=97, FAILED=2))}, ["2.0% of the calls", "failed (5xx)."], []),
    "few failed calls": ({"minutes": minutes(tally(STORED=99, OVERLOADED=1))}, ["Warnings None.", "1.0%"], []),
    "refused calls": ({"minutes": minutes(tally(STORED=50, NO_CUSTOMER_ID=50))}, ["50.0%", "Warnings None."], []),
    "no call for long": ({"minutes": QUIET}, ["No call for 15 minutes or more."], []),
    "no call for 15 minutes but one": (
        {"minutes": (*QUIET[:-16], tally(STORED=1), *QUIET[-15:])},
        ["Warnings None."],
        [],
    ),
    "just started, no call": (
        {"minutes": minutes(*(tally(),) * 15), "quarters": (None,) * QUARTERS},
        ["Warnings None."],
        [],
    ),
    "no history": (
        {"minutes": minutes(), "quarters": (None,) * QUARTERS, "since": None, "history_problem": "told why"},
        ["Figures by time are missing: told why", "There is no history of calls"],
        ["Calls in the last hour", "No call for"],
    ),
    "slow": ({"minutes": minutes(tally(STORED=10, slow=10))}, ["over 5 s"], []),
    "delivered lately": ({"told": Told((run(35.9),))}, ["Warnings None.", "Latest delivery 35 hours ago"], []),
    "not delivered for long": (
        {"told": Told((run(1, state="refused"), run(37.1)))},
        ['Feed daily: no delivery for 37 hours; the latest run says "refused".', "python -m reconcile history"],
        [],
    ),
    "never delivered": ({"told": Told((run(40, state="failed"),))}, ["no delivery for 40 hours", "none known"], []),
    "new feed": ({"told": Told()}, ["Warnings None.", "daily", "none told yet"], []),
    "feed of the past": (
        {"feeds": (), "told": Told((run(1000),))},
        ["Warnings None.", "not in it", "the feed was removed or renamed"],
        [],
    ),
    "no feed": ({"feeds": (), "told": Told()}, ["No feed is configured."], []),
    "match rate fell": (
        {"told": FALLEN},
        ["Feed daily: the match rate fell from 80.0%, as usual, to 40.0%.", "-40.0 points"],
        [],
    ),
    "match rate fell by ten": ({"told": Told((run(1, 700), run(20, 800)))}, ["Warnings None.", "-10.0 points"], []),
    "match rate rose": ({"told": Told((run(1, 900), run(20, 100)))}, ["Warnings None.", "+80.0 points"], []),
    "runs that read nothing": (
        {"told": Told((run(1, 0, 0, "nothing-to-do"), run(20, 800), run(30, 790)))},
        ["Warnings None.", "Match rate 80.0%", "nothing-to-do"],
        [],
    ),
    "damaged file of the job": ({"told": Told(problem="status.json is damaged")}, ["status.json is damaged."], []),
    "counted": ({}, ["crm 12345 900 1,000 3", "30 minutes ago", "Opted-out devices: 2.", status.STATS], []),
    "not counted": ({"counted": None}, ["Not counted yet.", status.STATS], ["Opted-out"]),
    "too many to count": ({"counted": Counted(NOW, problem="Too many")}, ["Too many (tried at", status.STATS], []),
    "a DPID of the past": ({"counted": Counted(NOW, {9: (1, 2, 3)})}, ["not in the configuration 9 1 2 3"], []),
}


@pytest.mark.parametrize("state", STATES)
def test_states_and_their_words(state: str) -> None:
    changes, there, absent = STATES[state]
    text = read(facts(**changes)).text
    for words in there:
        assert words in text, (words, text)
    for words in absent:
        assert words not in text, (words, text)


def test_names_can_not_become_markup() -> None:
    told = Told((run(1, feed=NASTY, state=NASTY), run(30, feed=NASTY), run(50, 1, feed=NASTY)))
    given = facts(not_ready=NASTY, spool=NASTY, sources={1: NASTY}, feeds=(NASTY,), told=told, history_problem=NASTY)
    html = status.render(status.page(given))
    assert "<script" not in html
    reader = Reader(html)
    assert reader.text.count(NASTY) > 6
    assert {name for _, each in reader.elements for name in each}.isdisjoint({"onload", "style", "href", "src"})


def test_the_page_needs_nothing_but_itself() -> None:
    reader = read(facts(told=FALLEN))
    used = {tag for tag, _ in reader.elements}
    assert used.isdisjoint({"script", "link", "img", "iframe", "form", "a", "object"})
    assert ("meta", {"http-equiv": "refresh", "content": "60"}) in reader.elements
    html = status.render(status.page(facts()))
    assert "http:" not in html
    assert "https:" not in html
    assert "url(" not in html


def test_headers_of_the_page() -> None:
    headers = dict(status.answer(facts()).headers)
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    [style] = re.findall(r"<style>(.*?)</style>", status.answer(facts()).body.decode(), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = headers["Content-Security-Policy"].split("; ")
    assert policy[:2] == ["default-src 'none'", f"style-src 'sha256-{digest}'"]
    assert {"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"} == set(policy[2:])


def test_charts_and_tables_can_be_heard() -> None:
    reader = read(facts(told=FALLEN, minutes=minutes(tally(STORED=7, FAILED=1), tally(NO_CUSTOMER_ID=2))))
    drawn = [each for tag, each in reader.elements if tag == "svg"]
    assert len(drawn) == 5
    assert all(each["role"] == "img" and str(each["aria-label"]).startswith("Chart of") for each in drawn)
    assert str(drawn[0]["aria-label"]) == (
        "Chart of calls by minute from 02:38 to now: 10 in all, at most 8, from 03:36 on; "
        "7 stored or spooled, 0 answered, nothing to store, 2 refused (4xx), 1 failed (5xx). "
        "Not known: 58 of 60 intervals."
    )
    headings = [int(tag[1]) for tag, _ in reader.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))
    assert all(each["scope"] in {"col", "row"} for tag, each in reader.elements if tag == "th")
    tables = [tag for tag, _ in reader.elements if tag in {"table", "caption"}]
    assert tables == ["table", "caption"] * (len(tables) // 2)
    named = {each["aria-labelledby"] for _, each in reader.elements if "aria-labelledby" in each}
    assert named == {each["id"] for _, each in reader.elements if "id" in each}


def contrast(one: str, other: str) -> float:
    """WCAG 2: of two colours #rrggbb."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_colours_stand_out() -> None:
    """4.5 for text, 3 for what is drawn: WCAG 2, level AA."""
    light, dark = (
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", part)) for part in status._CSS.split("@media", 2)[:2]
    )
    assert light.keys() == dark.keys()
    for theme in (light, dark):
        for text, ground in [("text", "page"), ("text", "panel"), ("faint", "page"), ("faint", "panel")]:
            assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
        for text, ground in [("text", "bad-panel"), ("good", "page"), ("bad", "page")]:
            assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
        for drawn in ("kept", "answered", "refused", "failed", "focus"):
            assert contrast(theme[drawn], theme["page"]) >= 3, drawn


@pytest.mark.parametrize(
    ("share", "within", "expected"),
    [
        (0.5, (0, 10, 10), 1.5),
        (0.99, (100, 100, 100), 0.99),
        (0.5, (0, 0, 4), math.inf),
        (0.5, (2, 4, 4), 1.0),
        (0.75, (2, 4, 4), 1.5),
        (0.5, (0, 0, 0), None),
    ],
)
def test_quantiles(share: float, within: tuple[float, ...], expected: float | None) -> None:
    assert charts.quantile(share, within, (1, 2)) == (expected if expected is None else pytest.approx(expected))


def test_lines_break_where_nothing_is_known() -> None:
    assert charts.path([1, 2, None, 1, None], 2) == "M0.5 50L1.5 0M3 50H4"
    assert charts.path([None, None], 1) == ""
    assert charts.gaps([False, False, True, False]) == [charts.Gap(0, 2), charts.Gap(3, 1)]
    assert [charts.ceiling(value) for value in (0, 1, 1.1, 3, 7, 10, 0.03)] == [1, 1, 2, 5, 10, 10, pytest.approx(0.05)]


def test_bars_fill_their_box_and_no_more() -> None:
    [bar, other] = charts.bars(("a", "b"), [(1, 1), None, (0, 0), (0, 2)], ["one", "", "", "two"], 2)
    assert (bar.x, bar.title, bar.pieces) == (0, "one", (("a", 50, 50), ("b", 0, 50)))
    assert (other.x, other.pieces) == (3, (("b", 0, 100),))
