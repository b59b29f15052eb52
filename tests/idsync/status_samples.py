"""Facts of an endpoint, the page that is made of them as somebody reads it, and who may ask for it."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from idsync import config, consent, status
from idsync.facts import HOUR, QUARTERS, Counted, Facts
from idsync.feedruns import Run, Told
from idsync.metrics import BOUNDS_SECONDS, Tally
from idsync.outcomes import Outcome
from idsync.settings import Settings
from idsync.store.spool import Waiting
from tests.idsync.samples import NOW, configuration

MINUTE, HOUR_MS = 60_000, 3_600_000
TOKEN = "f" * 64
ROW = len(Outcome) + len(consent.DENIALS) + len(BOUNDS_SECONDS) + 3
NASTY = "<script>alert(1)</script>&\"'"


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


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def endpoint_settings(base: Path, lines: str = "") -> Settings:
    """`lines`: of the table [endpoint]."""
    return config.parse(configuration().replace("[endpoint]", f"[endpoint]\n{lines}"), environ={}, base=base)


def with_token(base: Path, content: str = f"{TOKEN}\n", mode: int = 0o600) -> Settings:
    (base / "token").write_text(content)
    (base / "token").chmod(mode)
    return endpoint_settings(base, 'status = "token"\nstatus_token_file = "token"')
