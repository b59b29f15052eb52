"""The status page at work: a thread that keeps the history while the process serves, and the facts for a reply.

Nothing here is part of a sync call. Each worker has such a thread; once a minute the first of them that gets the lock
writes the sums down, and once an hour one of them has the store counted, by a process of its own.
"""

import fcntl
import itertools
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from idsync import access, config, consent, feedruns, metrics, reply, status
from idsync.access import Access, Asker
from idsync.clients import TrustedProxies
from idsync.counting import COUNT_SECONDS
from idsync.defects import log_defect
from idsync.errors import IdsyncError
from idsync.facts import HOUR, QUARTER_MINUTES, QUARTERS, Counted, Facts
from idsync.history import History, Row, Sample, increases, never_down
from idsync.metrics import Tally
from idsync.outcomes import Outcome
from idsync.reply import Reply
from idsync.settings import Settings
from idsync.store.spool import Waiting

_MINUTE = 60_000  # milliseconds
_COUNT_EVERY = 60 * _MINUTE
_COUNT_AGAIN_IF_SLOW = 24 * _COUNT_EVERY
_LOOK_SECONDS = 0.2
_STALE_MINUTES = 5
_TOO_SLOW = f"Too many to count for this page in {COUNT_SECONDS} seconds"
_AWAY = "The store could not be counted"

_SIZES = (len(Outcome), len(consent.DENIALS), len(metrics.BOUNDS_SECONDS) + 1)

log = logging.getLogger(__name__)


class Watch:
    """Made after the fork; starts a thread where workers share a folder (see `metrics.prepare`). `clock` gives
    milliseconds, `not_ready` why the store takes no write now, or "". Raises ConfigError for a wrong token file.
    """

    def __init__(
        self,
        settings: Settings,
        proxies: TrustedProxies,
        clock: Callable[[], int],
        not_ready: Callable[[], str],
        spooled: Callable[[], Waiting],
    ) -> None:
        self._settings, self._proxies, self._clock = settings, proxies, clock
        self._not_ready, self._spooled = not_ready, spooled
        self._token = access.read_token(settings.endpoint)
        self._closing = threading.Event()
        self._folder = metrics.shared_folder()
        self._history = History(self._folder, sum(_SIZES) + 2) if self._folder else None
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)
        if self._history:
            self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._history:
            self._thread.join()

    def answer(self, asker: Asker) -> Reply:
        """The page, or why not."""
        if self._settings.endpoint.status == "token":
            if access.by_token(asker, self._token) is not Access.GRANTED:
                challenge = ("WWW-Authenticate", 'Basic realm="idsync status", charset="UTF-8"')
                return reply.text(401, "give the token of the status page as password, with any name\n", [challenge])
        elif access.by_place(asker, self._proxies) is not Access.GRANTED:
            mend = 'ask from there under its address, declare the proxy, or set endpoint.status = "token"'
            return reply.text(403, f"the status page is shown to this machine only; {mend}\n")
        return status.answer(self.facts())

    def facts(self) -> Facts:
        """Everything that the page shows, as it is now."""
        now = self._clock()
        sums = metrics.sums()
        samples, problem = self._samples(now, _row(sums.counted))
        minute = now // _MINUTE
        quarter = minute // QUARTER_MINUTES * QUARTER_MINUTES
        try:
            spool: Waiting | str = self._spooled()
        except IdsyncError as error:
            spool = config.mask(error.problem)
        settings = self._settings
        return Facts(
            now=now,
            not_ready=self._not_ready(),
            spool=spool,
            queue=int(sums.queue),
            since=samples[0].minute * _MINUTE if samples else None,
            minutes=_tallies(increases(samples, minute - HOUR + 1, 1, HOUR)),
            quarters=_tallies(
                increases(samples, quarter - (QUARTERS - 1) * QUARTER_MINUTES, QUARTER_MINUTES, QUARTERS)
            ),
            sources={source.dpid: source.name for source in settings.data_sources},
            feeds=tuple(feed.name for feed in settings.feeds),
            counted=_read_counted(self._folder),
            told=feedruns.read(settings.reconcile.state_dir),
            history_problem=problem,
        )

    def _samples(self, now: int, present: Row) -> tuple[list[Sample], str]:
        """What is written down, and after it the present; and what is wrong with it, or ""."""
        if self._history is None:
            return [], "only `python -m idsync serve` sums its processes up"
        try:
            held = self._history.read()
        except OSError as error:
            return [], f"the file of the history can't be read: {error.strerror}"
        minute = now // _MINUTE
        held = [sample for sample in held if sample.minute <= minute]
        stale = held and minute - held[-1].minute > _STALE_MINUTES
        problem = "none were written down for some minutes; see the endpoint's log" if stale else ""
        return ([*held, Sample(minute + 1, never_down(held, present))] if held else []), problem

    # --- thread ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        stuck = False
        while not self._closing.is_set():
            try:
                self._note()
                self._count()
                stuck = False
            except OSError as error:
                if not stuck:
                    log.error("The history of the status page can't be written: %s", error)  # noqa: TRY400
                stuck = True
            except Exception as error:  # noqa: BLE001  the thread must live to try again
                log_defect(error)
            self._closing.wait((_MINUTE - self._clock() % _MINUTE) / 1000)

    def _note(self) -> None:
        if self._history:
            self._history.note(self._clock() // _MINUTE, lambda: _row(metrics.sums().counted))

    def _count(self) -> None:
        """Have the store counted, if that is due and no other worker is at it."""
        if self._folder is None:
            return
        with (self._folder / "status-count.lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            held, now = _read_counted(self._folder), self._clock()
            pause = _COUNT_AGAIN_IF_SLOW if held and held.problem == _TOO_SLOW else _COUNT_EVERY
            if held and 0 <= now - held.at < pause:
                return
            counted = self._ask(now)
            if counted is not None:
                part = self._folder / "status-count.part"
                part.write_text(json.dumps(counted._asdict()))
                part.rename(_counted_file(self._folder))

    def _ask(self, now: int) -> Counted | None:
        """None where the process stops before there is an answer."""
        question: str | None = json.dumps({"now": now, "store": self._settings.store.model_dump(mode="json")})
        with subprocess.Popen(
            [sys.executable, "-m", "idsync.counting"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as child:
            while True:
                try:
                    told, _ = child.communicate(question, timeout=_LOOK_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    question = None  # it has that
                    if self._closing.is_set():
                        child.kill()
        if self._closing.is_set():
            return None
        if child.returncode:
            return Counted(now, problem=_TOO_SLOW if child.returncode < 0 else _AWAY)
        found = json.loads(told)
        return Counted(now, found["data_sources"], found["devices"])


def _counted_file(folder: Path) -> Path:
    return folder / "status-count.json"


def _read_counted(folder: Path | None) -> Counted | None:
    if folder is None:
        return None
    try:
        told = json.loads(_counted_file(folder).read_bytes())
    except FileNotFoundError:
        return None
    return Counted(
        told["at"], {int(dpid): tuple(row) for dpid, row in told["rows"].items()}, told["devices"], told["problem"]
    )


def _row(tally: Tally) -> Row:
    """One number after the other, as the history keeps them."""
    return (*tally.calls, *tally.denied, *tally.within, tally.store_failures, tally.spooled)


def _tallies(rows: Sequence[Row | None]) -> tuple[Tally | None, ...]:
    return tuple(None if row is None else _tally(row) for row in rows)


def _tally(row: Row) -> Tally:
    left = iter(row)
    calls, denied, within = (tuple(itertools.islice(left, size)) for size in _SIZES)
    return Tally(calls, denied, within, next(left), next(left))
