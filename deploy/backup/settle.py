"""After a restore: removes what the store holds again of customers who opted out since the copy was made.

    PYTHONPATH=. .venv/bin/python deploy/backup/settle.py /etc/idsync/idsync.toml

A customer's opt-out removes the mappings at once, and nothing later looks for them. Devices need no such care, the next
`python -m idsync sweep` finds theirs. Can be repeated.
"""

import sys
import time
from contextlib import closing
from pathlib import Path

from idsync import config
from idsync.errors import IdsyncError
from idsync.store import open_store
from idsync.store.base import MappingStore
from idsync.store.optouts import OptOut, customer_token


def main(path: str) -> int:
    try:
        settings = config.load(Path(path))
        with closing(open_store(settings.store)) as store:
            removed = settle(store, time.time_ns() // 1_000_000)
        sys.stdout.write(f"settle: {removed} mappings of opted-out customers removed\n")
    except IdsyncError as error:
        sys.stderr.write(f"settle: {error}\n")
        return error.exit_status
    return 0


def settle(store: MappingStore, now: int) -> int:
    """How many mappings went. `now` in milliseconds."""
    tokens = store.opt_outs()
    removed = 0
    for dpid in store.count(now):
        if not any(token.startswith(f"{dpid}:") for token in tokens):
            continue
        held = {customer for batch in store.export(dpid, now) for customer in batch.column(0).to_pylist()}
        out = tuple((dpid, customer) for customer in held if customer_token(dpid, customer).name in tokens)
        removed += store.opt_out(OptOut(out, (), now, takes_devices=False)) if out else 0
    return removed


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004
        sys.exit("usage: PYTHONPATH=. .venv/bin/python deploy/backup/settle.py CONFIG")
    sys.exit(main(sys.argv[1]))
