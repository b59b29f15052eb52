"""deploy/cron, deploy/logrotate and the container's scheduler: what they start exists, and starts when it is due."""

import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.deploy import commands
from tests.endpoint import PATIENCE_SECONDS
from tests.servers import wait_until

ROOT = Path(__file__).parents[2]
SCHEDULER = ROOT / "deploy" / "container" / "scheduler.py"
CRONTAB = ROOT / "deploy" / "container" / "crontab"
SCRIPT = runpy.run_path(str(SCHEDULER))
parse, Scheduler = SCRIPT["parse"], SCRIPT["Scheduler"]
CRON_D = ROOT / "deploy" / "cron" / "idsync"


def cron_lines() -> list[tuple[str, str, str]]:
    """Fields, user and command of each line of /etc/cron.d."""
    found = re.findall(r"^((?:\S+ ){5})(\S+) (.*)$", CRON_D.read_text(), re.MULTILINE)
    return [line for line in found if not line[0].startswith("#")]


def times(fields: str, year: int = 2026) -> list[datetime]:
    """When a line is due in the last week of a November."""
    [job] = parse(f"{fields} command")
    start = datetime(year, 11, 23, tzinfo=UTC)
    return [at for minute in range(7 * 24 * 60) if job.is_due(at := start + timedelta(minutes=minute))]


# --- what they start -------------------------------------------------------------------------------------------------


def test_cron_starts_what_exists() -> None:
    started = [command for line in cron_lines() for command in commands.named_in(line[2])]
    for program, arguments in started:
        commands.check(program, arguments)
    assert {(program, arguments[0]) for program, arguments in started} == {
        ("reconcile", "run"),
        ("reconcile", "sweep"),
        ("reconcile", "health"),
        ("idsync", "sweep"),
    }


def test_cron_can_read_each_line() -> None:
    text = CRON_D.read_text()
    for fields, user, command in cron_lines():
        assert times(fields)
        assert user == "idsync"
        assert "%" not in command  # a line break to cron
    known = re.compile(r"#.*|[A-Z_]+=.*|")
    assert [line for line in text.splitlines() if not known.fullmatch(line)] == [
        f"{fields}{user} {command}" for fields, user, command in cron_lines()
    ]
    for path in re.findall(r"deploy/[\w/.-]+", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("status", [0, 1, 75])
def test_cron_mails_when_a_command_fails_and_only_then(status: int, tmp_path: Path) -> None:
    """Each command of the file, with a project whose programs all end with this status."""
    project = tmp_path / "project"
    shutil.copytree(ROOT / "deploy" / "backup", project / "deploy" / "backup")
    python = project / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\necho printed; echo told >&2; exit {status}\n")
    python.chmod(0o755)
    for _, _, command in cron_lines():
        here = command.replace("/opt/idsync", str(project)).replace("/var/log/idsync", str(tmp_path))
        if "sh deploy" in here:
            continue  # of a store that is not there
        ended = subprocess.run(["/bin/sh", "-c", here], capture_output=True, text=True, timeout=60, check=False)
        told = bool(status) and not ("reconcile health" in here and status == 1)  # it tells of ill feeds itself
        assert bool(ended.stdout + ended.stderr) == told, here
        assert f"ended with {status}" in ended.stdout or not told
    assert "printed\ntold\n" in (tmp_path / "reconcile.log").read_text()


def test_logs_of_the_jobs_are_rotated(tmp_path: Path) -> None:
    """logrotate's own reading, and one rotation of files of this test."""
    text = (ROOT / "deploy" / "logrotate" / "idsync").read_text()
    logged = set(re.findall(r">>(\S+)", CRON_D.read_text()))
    assert logged
    assert all(re.fullmatch(r"/var/log/idsync/[^/]+\.log", path) for path in logged)
    folder = tmp_path / "log"
    folder.mkdir(mode=0o750)
    (folder / "reconcile.log").write_text("a line\n")
    here = text.replace("/var/log/idsync", str(folder)).replace("su idsync idsync", "")
    here = re.sub(r"create 0640 idsync idsync", "create 0640", here)
    configuration = tmp_path / "idsync"
    configuration.write_text(here)
    configuration.chmod(0o644)
    command = ["logrotate", "--force", "--state", str(tmp_path / "state"), str(configuration)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (told.returncode, told.stderr) == (0, "")
    assert (folder / "reconcile.log.1").read_text() == "a line\n"
    assert (folder / "reconcile.log").read_text() == ""


def test_the_container_starts_what_exists() -> None:
    started = [job.command for job in parse(CRONTAB.read_text())]
    assert started
    for python, option, program, *arguments in started:
        assert (python, option) == ("python", "-m")
        commands.check(program, arguments)


# --- when ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "count", "first"),
    [
        ("15 3 * * *", 7, "2026-11-23T03:15"),
        ("15 3-6 * * *", 28, "2026-11-23T03:15"),
        ("*/20 1,3 * * *", 42, "2026-11-23T01:00"),
        ("5/30 0 * * *", 14, "2026-11-23T00:05"),
        ("0 0-10/5 * * *", 21, "2026-11-23T00:00"),
        ("0 12 * * 0", 1, "2026-11-29T12:00"),
        ("0 12 * * 7", 1, "2026-11-29T12:00"),
        ("0 12 * * 1-5", 5, "2026-11-23T12:00"),
        ("0 12 24 * *", 1, "2026-11-24T12:00"),
        ("0 12 24 * 5", 2, "2026-11-24T12:00"),  # the 24th, and Fridays
        ("0 12 */2 * 5", 1, "2026-11-27T12:00"),  # Fridays of odd days
        ("0 12 * 11 *", 7, "2026-11-23T12:00"),
    ],
)
def test_a_line_is_due_when_cron_says_so(fields: str, count: int, first: str) -> None:
    found = times(fields)
    assert (len(found), f"{found[0]:%Y-%m-%dT%H:%M}") == (count, first)


def test_a_month_that_is_not_now_is_not_due() -> None:
    assert times("0 12 * 12 *") == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("# a comment\n15 3 * * python", "line 2: not five fields and a command"),
        ("60 3 * * * python", 'line 1: "60" is not within 0 to 59'),
        ("1 3 0 * * python", 'line 1: "0" is not within 1 to 31'),
        ("5-1 3 * * * python", 'line 1: "5-1" is not within 0 to 59'),
        ("*/0 3 * * * python", 'line 1: "*/0" is not within 0 to 59'),
        ("@daily 3 * * * python", 'line 1: "@daily" is not a number, range, list or step'),
        ("1 3 * * * python 'x", "line 1: No closing quotation"),
        ("python", "line 1: not five fields and a command"),
    ],
)
def test_a_line_that_cant_be_read_stops_the_scheduler(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "crontab").write_text(text)
    ended = scheduled(tmp_path / "crontab", "--at", "2026-11-24T03:15")
    assert (ended.returncode, ended.stderr.strip().endswith(told)) == (2, True), ended.stderr


# --- that ------------------------------------------------------------------------------------------------------------


def scheduled(crontab: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, SCHEDULER, crontab, *options], capture_output=True, text=True, timeout=60, check=False
    )


def test_what_is_due_is_started_and_its_status_told(tmp_path: Path) -> None:
    crontab = tmp_path / "crontab"
    crontab.write_text("15 3 * * * sh -c 'echo done; exit 75'\n16 3 * * * echo never\n* * * * * no-such-program\n")
    ended = scheduled(crontab, "--at", "2026-11-24T03:15")
    assert (ended.returncode, ended.stdout) == (127, "done\n")
    assert "ended with 75: sh -c 'echo done; exit 75'" in ended.stderr
    assert "ended with 127 (No such file or directory): no-such-program" in ended.stderr


def test_a_command_at_work_is_not_started_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scheduler = Scheduler(parse("* * * * * cat\n"))
    pipe = os.pipe()
    inherited = os.dup(0)
    os.dup2(pipe[0], 0)  # `cat` waits for what never comes
    try:
        scheduler.start_due(datetime(2026, 11, 24, 3, 15, tzinfo=UTC))
        scheduler.start_due(datetime(2026, 11, 24, 3, 16, tzinfo=UTC))
    finally:
        os.dup2(inherited, 0)
        for descriptor in (*pipe, inherited):
            os.close(descriptor)
    scheduler.wait()
    told = capfd.readouterr().err
    assert told.count("still at work, not started again: cat") == 1
    assert told.count("ended with 0: cat") == 1


def test_sigterm_ends_the_scheduler_and_what_is_at_work(tmp_path: Path) -> None:
    """Nobody waits for the change of the minute: the clock is set to just before one."""
    crontab = tmp_path / "crontab"
    trap = f"trap 'touch {tmp_path}/ended; exit 0' TERM; touch {tmp_path}/started"
    trap += "; for i in $(seq 1200); do sleep 0.05; done"
    crontab.write_text(f'* * * * * sh -c "{trap}"\n')
    clock = tmp_path / "clock.py"
    clock.write_text(SET_CLOCK.format(scheduler=str(SCHEDULER)))
    process = subprocess.Popen([sys.executable, clock, crontab], stderr=subprocess.PIPE, text=True)
    try:
        wait_until((tmp_path / "started").exists, "the command's start")
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0
    assert (tmp_path / "ended").exists()
    assert "ended with 0" in told


SET_CLOCK = """
import datetime, runpy, time
ahead = 59.9 - time.time() % 60
class Set(datetime.datetime):
    @classmethod
    def now(cls, zone=None):
        return cls.fromtimestamp(time.time() + ahead, zone)
datetime.datetime = Set
runpy.run_path({scheduler!r}, run_name="__main__")
"""
