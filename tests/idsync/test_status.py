"""The status page: its words from frozen facts, who may see it, its history, and both fronts."""

import base64
import hashlib
import json
import math
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest

from idsync import access, charts, config, consent, feedruns, metrics, status
from idsync.access import Access, Asker
from idsync.app import create_app
from idsync.asgi import Application
from idsync.clients import TrustedProxies
from idsync.errors import ConfigError, StoreUnavailable
from idsync.facts import HOUR, QUARTERS, Counted, Facts
from idsync.feedruns import Run, Told
from idsync.history import DAY_MINUTES, History, Sample, increases
from idsync.metrics import BOUNDS_SECONDS, Tally
from idsync.outcomes import Outcome
from idsync.service import Service, open_spool
from idsync.settings import Settings
from idsync.store import open_store
from idsync.store.base import Sync
from idsync.store.optouts import OptOut
from idsync.store.spool import Waiting
from tests.idsync.samples import NOW, OTHER_UUID, UUID, configuration
from tests.idsync.test_app import ask
from tests.idsync.test_fronts import Call, through_asgi
from tests.servers import wait_until

MINUTE, HOUR_MS = 60_000, 3_600_000
TOKEN = "f" * 64
ROW = len(Outcome) + len(consent.DENIALS) + len(BOUNDS_SECONDS) + 3
NASTY = "<script>alert(1)</script>&\"'"


# --- facts -----------------------------------------------------------------------------------------------------------


def tally(unreadable: int = 0, store_failures: int = 0, slow: int = 0, **calls: int) -> Tally:
    """Calls by the name of their outcome; `slow` of them took longer than any bucket, the others a millisecond."""
    total = sum(calls.values())
    within = (0, *[total - slow] * (len(BOUNDS_SECONDS) - 1), total)
    denied = tuple(unreadable if word == "unreadable" else 0 for word in consent.DENIALS)
    return Tally(tuple(calls.get(each.name, 0) for each in Outcome), denied, within, store_failures, 0)


def run(age_hours: float, matched: int = 800, read: int = 1000, state: str = "delivered", feed: str = "daily") -> Run:
    at = NOW - int(age_hours * HOUR_MS)
    return Run(feed, f"{at // 1000}-{feed}", state, at, at + MINUTE, read, matched, read - matched, 0, 0, matched)


def facts(**changes: Any) -> Facts:
    """An endpoint at work, all well, but for `changes`."""
    calm = Facts(
        now=NOW,
        not_ready="",
        spool=Waiting(0, 0.0, 0),
        queue=0,
        since=NOW - 2 * 24 * HOUR_MS,
        minutes=(tally(STORED=10),) * HOUR,
        quarters=(tally(STORED=150),) * QUARTERS,
        sources={12345: "crm"},
        feeds=("daily",),
        counted=Counted(NOW - HOUR_MS // 2, {12345: (900, 1_000, 3)}, 2),
        told=Told((run(10), run(34))),
    )
    return replace(calm, **changes)


def minutes(*latest: Tally | None, other: Tally | None = None) -> tuple[Tally | None, ...]:
    """The last of an hour, and of each minute before."""
    return ((other,) * (HOUR - len(latest))) + latest


class Reader(HTMLParser):
    """What a person reads on a page, and its elements with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag != "meta":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.append(data)


def read(given: Facts) -> Reader:
    return Reader(status.render(status.page(given)))


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


# --- history ---------------------------------------------------------------------------------------------------------


def test_one_worker_a_minute_writes(tmp_path: Path) -> None:
    one, other = History(tmp_path, 2), History(tmp_path, 2)
    assert one.note(100, lambda: (5.0, 1.0))
    assert not other.note(100, lambda: pytest.fail("was summed up"))
    assert other.note(101, lambda: (7.0, 1.0))
    assert one.read() == other.read() == [Sample(99, (0, 0)), Sample(100, (5, 1)), Sample(101, (7, 1))]


def test_sums_never_go_down(tmp_path: Path) -> None:
    history = History(tmp_path, 2)
    for minute, row in ((11, (5.0, 1.0)), (12, (3.0, 4.0)), (13, (6.0, 4.0))):
        history.note(minute, partial(tuple[float, ...], row))
    assert [sample.sums for sample in history.read()] == [(0, 0), (5, 1), (5, 4), (6, 4)]


def test_the_file_keeps_a_day_and_never_grows(tmp_path: Path) -> None:
    history = History(tmp_path, 1)
    sizes = set()
    for minute in range(1_000, 1_000 + 2 * DAY_MINUTES, 7):
        history.note(minute, partial(tuple[float, ...], [float(minute)]))
        sizes.add((tmp_path / "status.ring").stat().st_size)
    held = history.read()
    assert held[-1].minute - held[0].minute >= DAY_MINUTES
    assert len(held) < DAY_MINUTES // 7 + 10
    assert max(sizes) <= (DAY_MINUTES + 16) * 16
    assert [sample.sums[0] for sample in held] == [sample.minute for sample in held]


def test_a_torn_end_and_a_clock_set_back(tmp_path: Path) -> None:
    history = History(tmp_path, 2)
    history.note(100, lambda: (1.0, 1.0))
    with (tmp_path / "status.ring").open("ab") as ring:
        ring.write(b"\x01" * 13)
    assert [sample.minute for sample in history.read()] == [99, 100]
    history.note(50, lambda: (2.0, 1.0))
    assert history.read() == [Sample(49, (1, 1)), Sample(50, (2, 1))]


def test_no_history_of_an_earlier_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    History(tmp_path, 2).note(100, lambda: (1.0, 1.0))
    (tmp_path / "status-count.json").touch()
    metrics.prepare(tmp_path)
    assert not [*tmp_path.iterdir()]


def test_increases_by_interval() -> None:
    samples = [Sample(9, (0,)), Sample(10, (2,)), Sample(11, (5,)), Sample(14, (9,)), Sample(15, (9,))]
    assert increases(samples, 8, 1, 8) == [None, (2,), (3,), None, None, (4,), (0,), None]
    assert increases(samples, 0, 5, 4) == [None, (2,), (7,), None]
    assert increases([], 0, 5, 2) == [None, None]


def test_the_sums_are_those_of_the_metrics() -> None:
    made = metrics.Metrics([])
    before = metrics.sums().counted
    made.called(Outcome.CONSENT_DENIED, None, 0.003, (), "tcf")
    made.called(Outcome.STORED, None, 100)
    made.store_failed()
    made.spooled(4)
    made.queue(9)
    after = metrics.sums()
    grown = [
        [now - then for now, then in zip(*pair, strict=True)]
        for pair in zip(after.counted[:3], before[:3], strict=True)
    ]
    assert grown[0] == [float(each in {Outcome.CONSENT_DENIED, Outcome.STORED}) for each in Outcome]
    assert grown[1] == [float(word == "tcf") for word in consent.DENIALS]
    assert grown[2] == [*(float(bound >= 0.005) for bound in BOUNDS_SECONDS), 2]
    assert after.counted.store_failures - before.store_failures == 1
    assert after.counted.spooled - before.spooled == 4
    assert after.queue == 9


# --- the reconciler's file -------------------------------------------------------------------------------------------


def entry(**changes: Any) -> dict[str, Any]:
    return {**run(3)._asdict(), **changes}


BROKEN = [3, entry(feed=7), entry(read="x"), entry(read=-1), entry(matched=True)]
OUTSIZE = [entry(planned_at=1e300), entry(planned_at=10**30), entry(feed="x" * 200)]


@pytest.mark.parametrize(
    ("content", "runs", "problem"),
    [
        (json.dumps({"runs": [entry()], "later": 1}), 1, ""),
        (json.dumps({"runs": []}), 0, ""),
        (json.dumps({"runs": [entry(finished_at=None)]}), 1, ""),
        ("", 0, "damaged"),
        ("{", 0, "damaged"),
        ("[1]", 0, "damaged"),
        ("null", 0, "damaged"),
        ('{"runs": 3}', 0, "damaged"),
        ("\xff", 0, "damaged"),
        ("[" * 100_000, 0, "damaged"),
        (json.dumps({"runs": [entry(), *BROKEN]}), 1, "5 of the 6"),
        (json.dumps({"runs": OUTSIZE}), 0, "3 of the 3"),
        (json.dumps({"runs": [entry(planned_at=2**52)]}), 1, ""),
        ('{"runs": [{}], "x": "' + "x" * 5_000_000 + '"}', 0, "larger than"),
    ],
)  # fmt: skip
def test_the_file_of_the_job(tmp_path: Path, content: str, runs: int, problem: str) -> None:
    (tmp_path / feedruns.FILE).write_bytes(content.encode("latin-1"))
    told = feedruns.read(tmp_path)
    assert len(told.runs) == runs
    assert problem in told.problem
    assert bool(told.problem) == bool(problem)
    read(facts(told=told))


def test_without_a_file_nothing_is_wrong(tmp_path: Path) -> None:
    assert feedruns.read(tmp_path) == feedruns.read(tmp_path / "nowhere") == Told()
    (tmp_path / feedruns.FILE).mkdir()
    assert "can't be read" in feedruns.read(tmp_path).problem


# --- who may see it --------------------------------------------------------------------------------------------------

# trusted_proxies · peer · X-Forwarded-For · Host · other header of a proxy · granted
PLACES: list[tuple[tuple[str, ...], str, str, str, bool, bool]] = [
    ((), "127.0.0.1", "", "127.0.0.1:8000", False, True),
    ((), "127.0.0.1", "", "localhost", False, True),
    ((), "127.9.9.9", "", "LOCALHOST:8000", False, True),
    ((), "::1", "", "[::1]:8000", False, True),
    ((), "::ffff:127.0.0.1", "", "localhost", False, True),
    ((), "192.0.2.1", "", "localhost", False, False),
    ((), "::ffff:192.0.2.1", "", "localhost", False, False),
    ((), "", "", "localhost", False, False),
    ((), "x", "", "localhost", False, False),
    # a proxy that nobody declared: told by a header, or by the name that it passes on
    ((), "127.0.0.1", "127.0.0.1", "localhost", False, False),
    ((), "127.0.0.1", "203.0.113.7", "localhost", False, False),
    ((), "127.0.0.1", " ", "localhost", False, False),
    ((), "127.0.0.1", "", "localhost", True, False),
    ((), "127.0.0.1", "", "sync.example.com", False, False),
    ((), "127.0.0.1", "", "localhost.evil.example", False, False),
    ((), "127.0.0.1", "", "", False, False),
    (("10.0.0.1",), "127.0.0.1", "127.0.0.1", "localhost", False, False),
    # a declared one: it tells who asks
    (("127.0.0.1",), "127.0.0.1", "127.0.0.1", "sync.example.com", True, True),
    (("127.0.0.1",), "127.0.0.1", "::1, 127.0.0.1", "sync.example.com", True, True),
    (("127.0.0.1",), "127.0.0.1", "203.0.113.7", "sync.example.com", True, False),
    (("127.0.0.1",), "127.0.0.1", "127.0.0.1, 203.0.113.7", "localhost", True, False),
    (("127.0.0.1",), "127.0.0.1", "203.0.113.7, 127.0.0.1", "localhost", True, False),
    (("127.0.0.1",), "127.0.0.1", "127.0.0.1, x", "localhost", True, False),
    (("127.0.0.1",), "127.0.0.1", ",", "localhost", True, False),
    (("127.0.0.1",), "127.0.0.1", "", "localhost", False, True),
    (("127.0.0.1",), "127.0.0.1", "", "localhost", True, False),
    (("127.0.0.1",), "127.0.0.1", "", "sync.example.com", False, False),
    # on another machine, "127.0.0.1" is that machine
    (("10.0.0.1",), "10.0.0.1", "127.0.0.1", "localhost", True, False),
    (("unix",), "", "127.0.0.1", "sync.example.com", True, True),
    (("unix",), "", "203.0.113.7", "sync.example.com", True, False),
    (("unix",), "", "", "localhost", False, False),
    (("127.0.0.1",), "", "127.0.0.1", "localhost", True, False),
]  # fmt: skip


@pytest.mark.parametrize(("proxies", "peer", "forwarded_for", "host", "signed", "granted"), PLACES)
def test_who_is_on_this_machine(
    proxies: tuple[str, ...], peer: str, forwarded_for: str, host: str, signed: bool, granted: bool
) -> None:
    found = access.by_place(Asker(peer, forwarded_for, host, signed=signed), TrustedProxies(proxies))
    assert found is (Access.GRANTED if granted else Access.NOT_HERE)


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("authorization", "granted"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer  {TOKEN}", True),
        (basic("", TOKEN), True),
        (basic("ops", TOKEN), True),
        (basic("ops", f"x:{TOKEN}"), False),
        (basic(TOKEN, ""), False),
        ("", False),
        ("Bearer", False),
        ("Bearer ", False),
        (f"Bearer {TOKEN[:-1]}", False),
        (f"Bearer {TOKEN}x", False),
        (f"Bearer {TOKEN.upper()}", False),
        (f"Token {TOKEN}", False),
        (TOKEN, False),
        ("Basic !", False),
        ("Basic \xff", False),
        ("Bearer \u0141", False),
        (f"Basic {TOKEN}", False),
    ],
)
def test_who_knows_the_token(authorization: str, granted: bool) -> None:
    found = access.by_token(Asker("203.0.113.7", authorization=authorization), TOKEN.encode())
    assert found is (Access.GRANTED if granted else Access.NO_TOKEN)


def endpoint_settings(base: Path, lines: str = "") -> Settings:
    """`lines`: of the table [endpoint]."""
    return config.parse(configuration().replace("[endpoint]", f"[endpoint]\n{lines}"), environ={}, base=base)


def with_token(base: Path, content: str = f"{TOKEN}\n", mode: int = 0o600) -> Settings:
    (base / "token").write_text(content)
    (base / "token").chmod(mode)
    return endpoint_settings(base, 'status = "token"\nstatus_token_file = "token"')


def test_the_token_is_read_from_its_file(tmp_path: Path) -> None:
    assert access.read_token(with_token(tmp_path).endpoint) == TOKEN.encode()
    assert access.read_token(endpoint_settings(tmp_path, 'status = "loopback"').endpoint) == b""


@pytest.mark.parametrize(
    ("content", "mode", "told"),
    [
        (TOKEN, 0o644, "open to others (mode 0644)"),
        ("", 0o600, "32 to 256 characters"),
        ("f" * 31, 0o600, "32 to 256 characters"),
        (f"{TOKEN}\n{TOKEN}", 0o600, "one token"),
        ("f" * 257, 0o600, "32 to 256 characters"),
        ("é" * 40, 0o600, "32 to 256 characters"),
    ],
)
def test_a_wrong_token_file_is_told_without_its_content(tmp_path: Path, content: str, mode: int, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        access.read_token(with_token(tmp_path, content, mode).endpoint)
    assert told in str(caught.value)
    assert str(tmp_path / "token") in str(caught.value)
    assert "f" * 31 not in str(caught.value)


def test_a_missing_token_file_is_told(tmp_path: Path) -> None:
    settings = with_token(tmp_path)
    (tmp_path / "token").unlink()
    with pytest.raises(ConfigError, match="status_token_file can't be read: No such file"):
        access.read_token(settings.endpoint)


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'endpoint.status = "token": needs status_token_file'):
        endpoint_settings(tmp_path, 'status = "token"')
    with pytest.raises(ConfigError, match=r"endpoint.status = .everybody."):
        endpoint_settings(tmp_path, 'status = "everybody"')
    assert endpoint_settings(tmp_path).endpoint.status == "off"


# --- fronts ----------------------------------------------------------------------------------------------------------

Serve = Callable[[Settings], Service]


@pytest.fixture
def serve() -> Iterator[Serve]:
    made: list[Service] = []

    def start(settings: Settings) -> Service:
        made.append(Service(settings, open_store(settings.store), open_spool(settings), clock=lambda: NOW))
        return made[-1]

    yield start
    for service in made:
        service.close()


def test_off_it_is_a_route_like_any_unknown(tmp_path: Path, serve: Serve) -> None:
    app = create_app(serve(endpoint_settings(tmp_path)))
    for method in ("GET", "HEAD", "POST", "OPTIONS", "DELETE"):
        for headers in ({}, {"authorization": f"Bearer {TOKEN}"}):
            unknown = ask(app, "/nothing", method=method, host="localhost", **headers)
            asked = ask(app, "/status", method=method, host="localhost", **headers)
            assert asked[0] == 404
            assert (asked[0], list(asked[1]), asked[2]) == (unknown[0], list(unknown[1]), unknown[2])


def test_to_others_nothing_is_shown(tmp_path: Path, serve: Serve) -> None:
    app = create_app(serve(endpoint_settings(tmp_path, 'status = "loopback"')))
    assert ask(app, "/status", host="localhost")[0] == 200
    for headers in (
        {"x_forwarded_for": "127.0.0.1"},
        {"via": "1.1 x"},
        {"x_real_ip": "127.0.0.1"},
        {"forwarded": "for=x"},
    ):
        code, _, body = ask(app, "/status", host="localhost", **headers)
        assert code == 403
        assert b"this machine only" in body
        assert b"<" not in body


def test_a_browser_asks_for_the_token(tmp_path: Path, serve: Serve) -> None:
    app = create_app(serve(with_token(tmp_path)))
    code, headers, body = ask(app, "/status")
    assert (code, headers["WWW-Authenticate"]) == (401, 'Basic realm="idsync status", charset="UTF-8"')
    assert TOKEN.encode() not in body
    assert ask(app, "/status", authorization=basic("ops", "wrong"))[0] == 401
    assert ask(app, "/status", authorization=basic("ops", TOKEN), x_forwarded_for="203.0.113.7")[0] == 200
    assert ask(app, "/status", authorization=f"Bearer {TOKEN}")[0] == 200


def test_other_methods(tmp_path: Path, serve: Serve) -> None:
    app = create_app(serve(endpoint_settings(tmp_path, 'status = "loopback"')))
    code, headers, body = ask(app, "/status", method="HEAD", host="localhost")
    assert (code, body, headers["Content-Type"]) == (200, b"", "text/html; charset=utf-8")
    assert ask(app, "/status", method="POST", host="localhost")[0] == 405


def test_both_fronts_show_the_same(tmp_path: Path, serve: Serve) -> None:
    service = serve(endpoint_settings(tmp_path, 'status = "loopback"'))
    app = create_app(service)
    targets = ["/status", "/status?dpid=1", "/status/", "/Status"]
    hosts = [
        [("host", "localhost")],
        [("host", "sync.example.com")],
        [("host", "localhost"), ("x-forwarded-for", "::1")],
    ]
    calls = [(method, target, headers) for method in ("GET", "HEAD", "POST") for target in targets for headers in hosts]
    seen = through_asgi(Application(service), calls)
    for (method, target, headers), (code, answered, body) in zip(calls, seen, strict=True):
        given = {name.replace("-", "_"): value for name, value in headers}
        expected = ask(app, target, method=method, **given)
        assert (code, body) == (expected[0], expected[2]), (method, target, headers)
        assert answered == [(name.lower(), value) for name, value in expected[1]]
    assert {code for code, *_ in seen} == {200, 403, 404, 405}


def test_what_no_folder_is_shared_for(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under another server each process counts for itself, so there is no history, and nobody counts the store."""
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    service = serve(endpoint_settings(tmp_path, 'status = "loopback"'))
    page = Reader(ask(create_app(service), "/status", host="localhost")[2].decode()).text
    assert "only `python -m idsync serve` sums its processes up" in page
    assert "Not counted yet" in page
    assert service.status_page is not None
    assert not service.status_page._thread.is_alive()


def test_no_sync_call_comes_near_it(tmp_path: Path, serve: Serve) -> None:
    class Untouchable:
        def __getattribute__(self, name: str) -> Any:
            pytest.fail(f"a call asked for {name}")

    service = serve(endpoint_settings(tmp_path, 'status = "loopback"'))
    app, application, page = create_app(service), Application(service), service.status_page
    service.status_page = cast("Any", Untouchable())
    calls: list[Call] = [("GET", target, []) for target in ("/ibs:dpid=12345&dpuuid=a", "/ibs:", "/id", "/demoptout")]
    assert [ask(app, target)[0] for _, target, _ in calls] == [200, 400, 200, 200]
    assert [code for code, *_ in through_asgi(application, calls)] == [200, 400, 200, 200]
    service.status_page = page


def test_no_thread_and_no_file_while_it_is_off(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    assert serve(endpoint_settings(tmp_path)).status_page is None
    assert not [*tmp_path.glob("status*")]


def test_a_broken_spool_is_told(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: Any) -> Waiting:
        raise StoreUnavailable("the spool redis://x:hush@y is out of reach")

    monkeypatch.setattr("idsync.service.Service.spooled", away)
    body = ask(create_app(serve(endpoint_settings(tmp_path, 'status = "loopback"'))), "/status", host="localhost")[2]
    assert b"The spool can&#39;t be read: the spool redis://x:***@y is out of reach" in body


# --- the thread ------------------------------------------------------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that workers share."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    return folder


def program(folder: Path, script: str) -> str:
    """Stands in for Python where the store is counted."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return str(path)


def shown(service: Service) -> str:
    assert service.status_page is not None
    return read(service.status_page.facts()).text


def test_the_store_is_counted_beside_the_endpoint(tmp_path: Path, serve: Serve, shared: Path) -> None:
    settings = endpoint_settings(tmp_path, 'status = "loopback"')
    with closing(open_store(settings.store)) as store:
        store.record([Sync(12345, name, UUID, "", NOW) for name in "abc"])
        store.record([Sync(9, "a", UUID, "", NOW), Sync(0, "mid", UUID, "", NOW)])
        store.opt_out(OptOut(((777, "d"),), (), NOW, takes_devices=False))
        store.opt_out(OptOut((), (OTHER_UUID,), NOW, takes_devices=False))
    service = serve(settings)
    wait_until((shared / "status-count.json").exists, "the count")
    page = shown(service)
    assert "crm 12345 3 3 0" in page
    assert "shop 777 0 0 1" in page
    assert "not in the configuration 9 1 1 0" in page
    assert "all 4 4 1" in page
    assert "Opted-out devices: 1." in page


@pytest.mark.parametrize(
    ("script", "told"), [("kill -ALRM $$", "Too many to count for this page"), ("exit 75", "could not be counted")]
)
def test_what_can_not_be_counted_is_told(
    tmp_path: Path, serve: Serve, shared: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: str
) -> None:
    monkeypatch.setattr(sys, "executable", program(tmp_path, script))
    service = serve(endpoint_settings(tmp_path, 'status = "loopback"'))
    wait_until((shared / "status-count.json").exists, "the count")
    assert told in shown(service)
    assert status.STATS in shown(service)


def test_a_count_under_way_keeps_nobody_from_leaving(
    tmp_path: Path, serve: Serve, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", program(tmp_path, f"echo $$ > {tmp_path}/pid\nexec sleep 600"))
    service = serve(endpoint_settings(tmp_path, 'status = "loopback"'))
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "", "the count's start")
    service.close()
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
    assert not (shared / "status-count.json").exists()


def test_it_is_counted_once_an_hour(
    tmp_path: Path, serve: Serve, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many workers there are, and however often one starts."""
    script = f"""echo >> {tmp_path}/counts; echo '{{"data_sources": {{}}, "devices": 0}}'"""
    monkeypatch.setattr(sys, "executable", program(tmp_path, script))
    settings = endpoint_settings(tmp_path, 'status = "loopback"')
    first = serve(settings)
    wait_until((shared / "status-count.json").exists, "the count")
    assert first.status_page is not None
    clock = iter([NOW, NOW + HOUR_MS - 1, NOW + HOUR_MS, NOW + HOUR_MS + 1, NOW + HOUR_MS + 1])
    first.status_page._clock = lambda: next(clock)
    counts = []
    for _ in range(4):
        first.status_page._count()
        counts.append((tmp_path / "counts").read_text().count("\n"))
    assert counts == [1, 1, 2, 2]


def test_a_count_that_takes_too_long_ends_itself() -> None:
    """Here it waits for its question."""
    script = "from idsync import counting; counting.COUNT_SECONDS = 0.05; counting.main()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as child:
        assert child.wait(60) == -signal.SIGALRM


def test_a_minute_is_written_by_the_first_who_comes(tmp_path: Path, serve: Serve, shared: Path) -> None:
    settings = endpoint_settings(tmp_path, 'status = "loopback"')
    one, other = serve(settings), serve(settings)
    wait_until((shared / "status.ring").exists, "the first record")
    wait_until(lambda: "Counted since 2026-11-24 03:36" in shown(one), "its end")
    for service in (one, other):
        for target in ("/ibs:dpid=12345&dpuuid=a", "/ibs:"):
            ask(create_app(service), target)
    words = [re.sub(r"Counted at .*? UTC", "", shown(service)) for service in (one, other)]
    assert words[0] == words[1]
    assert [sample.minute for sample in History(shared, ROW).read()] == [NOW // MINUTE - 1, NOW // MINUTE]


def test_a_history_that_can_not_be_written_is_logged_once(
    tmp_path: Path, serve: Serve, shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (shared / "status.ring").mkdir()
    service = serve(endpoint_settings(tmp_path, 'status = "loopback"'))
    wait_until(lambda: "can't be written" in caplog.text, "the log")
    assert "the file of the history can't be read" in shown(service)
