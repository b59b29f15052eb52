"""Reading a receipt: the file, the ledger, and what is kept."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from idsync.errors import UsageError
from idsync.settings import Settings
from reconcile.errors import InputRefused
from reconcile.ledger import Ledger
from reconcile.receipt import account, message, terms
from reconcile.receipt.account import Account
from reconcile.report import prediction

MAX_BYTES = 4_000_000
_MEND = "save Audience Manager's message as it is (.eml), or its text, and name that file"


def read(settings: Settings, path: Path, now: int) -> Account:
    """The receipt in a file, `-` for standard input, beside the ledger, which remembers it; `now` in milliseconds.

    Raises UsageError for a file that can't be read, and InputRefused for one that holds no receipt.
    """
    try:
        receipt = terms.parse(message.readings(_content(path)))
    except ValueError as error:
        raise InputRefused(f"{path}: no receipt: {error}", mend=_MEND) from None
    ledger = Ledger(settings.reconcile.state_dir / "ledger.db")
    runs = ledger.runs_at(account.timestamps(receipt))
    predicted = {run["run"]: _predicted(run) for run in runs if "matched" in run}  # ID-sync files match nothing
    found = account.compare(receipt, account.sent_files(runs), ledger.receipts(), predicted)
    if found.runs:
        ledger.keep_receipt(account.digest(receipt), now, account.kept(receipt, found))
    return found


def _predicted(run: Mapping[str, Any]) -> dict[str, int]:
    """What the report of a run says of its lines, as far as it can tell, by term."""
    return {row.term: int(row.reported) for row in prediction.expected(run) if row.reported is not None}


def _content(path: Path) -> bytes:
    try:
        if str(path) == "-":
            content = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", mend="name a file that this user may read") from None
    if len(content) > MAX_BYTES:
        raise InputRefused(f"{path}: no receipt: it is larger than {MAX_BYTES:,} bytes", mend=_MEND)
    return content
