"""Cron for a container: runs as any user, on a read-only root, and says on stderr what each command ended with.

    python deploy/container/scheduler.py CRONTAB                            until SIGTERM
    python deploy/container/scheduler.py CRONTAB --at 2026-11-24T03:15      what is due then, now, once

A crontab has lines of five fields (minute, hour, day of the month, month, day of the week, 0 or 7 being Sunday; each
`*`, numbers, ranges, lists, steps; UTC) and a command, which runs without a shell. A command that is still at work is
not started again. On SIGTERM those at work get SIGTERM, too, and are waited for.
"""

import argparse
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_DAY, _WEEKDAY = 2, 4


class Job(NamedTuple):
    """`fields` are the values on which it is due, `any_day` and `any_weekday` whether these two say `*`."""

    fields: tuple[frozenset[int], ...]
    any_day: bool
    any_weekday: bool
    command: tuple[str, ...]

    def is_due(self, at: datetime) -> bool:
        """As cron has it: where both kinds of day are given, either will do."""
        minutes, hours, days, months, weekdays = self.fields
        day, weekday = at.day in days, at.isoweekday() % 7 in weekdays
        fits = day and weekday if self.any_day or self.any_weekday else day or weekday
        return at.minute in minutes and at.hour in hours and at.month in months and fits


def parse(text: str) -> list[Job]:
    """Raises ValueError, which names the line."""
    jobs = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                jobs.append(_job(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
    return jobs


def _job(line: str) -> Job:
    *fields, command = line.split(None, len(_RANGES))
    if len(fields) < len(_RANGES):
        raise ValueError("not five fields and a command")
    values = tuple(_values(field, *span) for field, span in zip(fields, _RANGES, strict=True))
    weekdays = frozenset(day % 7 for day in values[_WEEKDAY])
    any_day, any_weekday = (fields[place].startswith("*") for place in (_DAY, _WEEKDAY))
    return Job((*values[:_WEEKDAY], weekdays), any_day, any_weekday, tuple(shlex.split(command)))


def _values(field: str, first: int, last: int) -> frozenset[int]:
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        low, _, high = (f"{first}-{last}" if span == "*" else span).partition("-")
        try:
            start, stride = int(low), int(step or 1)
            end = int(high) if high else last if step else start
        except ValueError:
            raise ValueError(f'"{field}" is not a number, range, list or step') from None
        if not (first <= start <= end <= last and stride > 0):
            raise ValueError(f'"{field}" is not within {first} to {last}')
        found |= set(range(start, end + 1, stride))
    return frozenset(found)


class Scheduler:
    """Commands are told apart by what they are: two lines with the same one never run it side by side."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self._running: dict[tuple[str, ...], subprocess.Popen[bytes]] = {}
        self._stop = threading.Event()
        self.worst = 0

    def stop(self, *_: object) -> None:
        self._stop.set()

    def start_due(self, at: datetime) -> None:
        self._settle()
        for job in self._jobs:
            if not job.is_due(at):
                continue
            if job.command in self._running:
                _tell(f"still at work, not started again: {shlex.join(job.command)}")
                continue
            try:
                # a group of its own: a Ctrl-C on the terminal is handed on once, by us
                self._running[job.command] = subprocess.Popen(job.command, process_group=0)
            except OSError as error:
                self._ended(job.command, 127, f" ({error.strerror})")

    def run(self) -> None:
        """Until `stop`. A minute that was slept through, as by a host that was suspended, is not made up for."""
        due = _minute(datetime.now(UTC)) + timedelta(minutes=1)
        while not self._stop.wait(max((due - datetime.now(UTC)).total_seconds(), 0)):
            self.start_due(due)
            due = max(due, _minute(datetime.now(UTC))) + timedelta(minutes=1)
        for process in self._running.values():
            process.terminate()
        self.wait()

    def wait(self) -> None:
        for process in self._running.values():
            process.wait()
        self._settle()

    def _settle(self) -> None:
        for command, process in list(self._running.items()):
            if (status := process.poll()) is not None:
                del self._running[command]
                self._ended(command, status)

    def _ended(self, command: Sequence[str], status: int, why: str = "") -> None:
        self.worst = max(self.worst, abs(status))
        _tell(f"ended with {status}{why}: {shlex.join(command)}")


def _minute(at: datetime) -> datetime:
    return at.replace(second=0, microsecond=0)


def _tell(message: str) -> None:
    sys.stderr.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} scheduler: {message}\n")
    sys.stderr.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs the commands of a crontab.")
    parser.add_argument("crontab", type=Path)
    parser.add_argument("--at", type=datetime.fromisoformat, metavar="TIME", help="run what is due then, and end")
    options = parser.parse_args()
    try:
        scheduler = Scheduler(parse(options.crontab.read_text()))
    except (OSError, ValueError) as error:
        _tell(f"{options.crontab}: {error}")
        return 2
    if options.at:
        scheduler.start_due(options.at)
        scheduler.wait()
        return scheduler.worst
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, scheduler.stop)
    scheduler.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
