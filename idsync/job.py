"""The reconciler as a neighbour: what it keeps of a person is its own affair, so it is asked as a program."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from idsync.errors import StoreUnavailable, UsageError
from idsync.settings import Settings

_TRY_LATER = 75


class Told(NamedTuple):
    """`answer` is None where the job never ran here. `problem`: why part of it must be asked again later, or ""."""

    answer: Mapping[str, Any] | None
    problem: str = ""

    def settle(self) -> None:
        """Raise what is left to do. To be called when the answer was shown."""
        if self.problem:
            raise StoreUnavailable(self.problem, mend="the rest is done; run it again later")


def ask(
    settings: Settings, config_path: Path | None, *command: str, lines: Sequence[Mapping[str, object]] = ()
) -> Told:
    """Run a command of the reconciler, `lines` as JSON on its standard input: no ID may stand in a list of processes.

    Raises UsageError where it fails for good.
    """
    if not settings.reconcile.state_dir.exists():
        return Told(None)
    option = ["--config", str(config_path)] if config_path else []
    done = subprocess.run(
        [sys.executable, "-m", "reconcile", *command, *option],
        input="".join(json.dumps(line) + "\n" for line in lines),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in {0, _TRY_LATER}:
        raise UsageError(f"python -m reconcile {command[0]} failed: {done.stderr.strip()}", mend="see its own message")
    answer = json.loads(done.stdout) if done.stdout else None
    return Told(answer, done.stderr.strip() if done.returncode else "")
