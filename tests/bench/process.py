"""A process of its own for each contender, and what it took."""

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

_ROOT = Path(__file__).parent.parent.parent
# The peak that the system tells of a process counts what it was before it became this program: a copy of who started
# it. A benchmark that has just made its data is large, so it does not start a contender by itself.
_BETWEEN = """
import json, os, sys, time
told, *command = sys.argv[1:]
start = time.perf_counter()
_, status, usage = os.wait4(os.posix_spawn(command[0], command, os.environ), 0)
seconds = time.perf_counter() - start
with open(told, "w") as file:
    json.dump([os.waitstatus_to_exitcode(status), seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss], file)
"""


class Taken(NamedTuple):
    seconds: float
    busy: float  # seconds of processor time
    memory: float  # peak resident set, GB
    out: str  # standard output


def timed(*command: str, folder: Path, one_core: bool = False) -> Taken:
    """Python with these arguments, run in `folder` from start to end; raises if it ends with anything but 0.

    `one_core` pins it to one core where the system can, and its libraries to one thread.
    """
    environ = _environment()
    if one_core:
        environ = {**environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as telling:
        told = Path(telling) / "told"
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _BETWEEN, str(told), sys.executable, *command],
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=environ,
            check=True,
            preexec_fn=_pin if one_core else None,
        )
        code, seconds, busy, peak = json.loads(told.read_text())
    if code:
        raise SystemExit(f"{command[:3]} ended with {code}")
    return Taken(seconds, busy, peak * 1024 / 1e9, done.stdout)  # Linux tells KiB


@cache
def _environment() -> dict[str, str]:
    """Of contenders. Their modules are compiled, as they are wherever a program runs a second time."""
    environ = {**os.environ, "PYTHONPATH": str(_ROOT), "IDSYNC_CONFIG": ""}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    modules = "duckdb, reconcile.commands.runs, reconcile.commands.looks"
    subprocess.run([sys.executable, "-c", f"import {modules}"], env=environ, check=True)
    return environ


def _pin() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
