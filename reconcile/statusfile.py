"""`<state_dir>/status.json`: the latest runs of all feeds, for the endpoint's status page.

`idsync.feedruns` reads it, and says what it holds.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from idsync.errors import IdsyncError
from reconcile import durable
from reconcile.ledger import Ledger
from reconcile.lock import exclusive
from reconcile.syncfile import dpids_of

FILE = "status.json"
RUNS = 500  # some 300 bytes each
_PATIENCE_SECONDS = 10
_FIGURES = ("planned_at", "finished_at", "read", "matched", "unmatched", "rejected", "held", "lines")


@contextmanager
def told(state_dir: Path) -> Iterator[None]:
    """Whatever became of the run within: afterwards the file says so.

    That it can't be written must neither hide why a run failed, nor fail one that was delivered: the next run writes
    it, and the ledger has it all.
    """
    try:
        yield
    finally:
        with suppress(IdsyncError, OSError):
            write(state_dir)


def write(state_dir: Path) -> None:
    """Make the file anew from the ledger. Raises StoreUnavailable and its kin, RunLocked, OSError."""
    # feeds run side by side: who writes last must have looked last. No feed's name begins with a dot.
    with exclusive(state_dir / "locks" / ".status.lock", FILE, patience_seconds=_PATIENCE_SECONDS):
        rows = Ledger(state_dir / "ledger.db").history(limit=RUNS)
        runs = [
            {"feed": row["feed"], "run": row["run"], "status": row["state"]}
            | {name: row.get(name) or (_planned(row["run"]) if name == "planned_at" else 0) for name in _FIGURES}
            for row in rows
            if not dpids_of(row["feed"])  # ID-sync files are no feed's
        ]
        durable.write(state_dir / FILE, json.dumps({"runs": runs}).encode())


def _planned(run: str) -> int:
    """Of a run that never got as far as figures: its name begins with the second."""
    return int(run.partition("-")[0]) * 1000
