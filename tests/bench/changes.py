"""Feeds that send only changes, with 1 % changed, against the plain run of the same file; and a small feed.

    python -m tests.bench.changes [--records 10000000] [--folder DIR]

Mappings for seven tenths of the customers, in SQLite. The first run with `changes_only` sends all and remembers it; the
second reads a full export in which one record in a hundred has another tier and another trait. The small feed has
10,000 records, and a store with as many mappings as the large one has records: only those of its own customers, seven
tenths, are read. Each row of the table is a process of its own.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import duckdb

from idsync.settings import Store
from tests.bench import data
from tests.bench.process import timed
from tests.bench.reconcile import CONFIG, fill_sqlite

SMALL = 10_000


class Data(NamedTuple):
    """A feed, the same with one record in a hundred changed, a small one; a store for those two, and one for this."""

    feed: Path
    changed: Path
    small: Path
    store: Store
    of_small: Store


def make(folder: Path, records: int) -> Data:
    feed, mappings = data.make(folder, records)
    changed, small = folder / f"changed-{records}.csv", folder / f"small-{records}.csv"
    numbered = data.records(f"range({records})")
    if not changed.exists():
        new = "hash(customer_id, 11) % 100 = 0"
        other = (
            f"CASE WHEN {new} THEN 'platinum' ELSE tier END AS tier, CASE WHEN {new} THEN '7' ELSE traits END AS traits"
        )
        duckdb.execute(f"COPY (SELECT * REPLACE ({other}) FROM ({numbered})) TO '{changed}' (HEADER)")
        every = max(records // SMALL, 1)
        duckdb.execute(f"COPY ({data.records(f'range(0, {records}, {every})')}) TO '{small}' (HEADER)")
    first = records * 3 // 10
    store = _store(folder / f"changes-{records}.db", f"FROM '{mappings}'")
    of_small = _store(folder / f"small-{records}.db", data.mappings(f"range({first}, {first + records})"))
    return Data(feed, changed, small, store, of_small)


def _store(path: Path, mappings: str) -> Store:
    store = Store(url=f"sqlite:///{path}")
    if not path.exists():
        fill_sqlite(store, mappings)
    return store


def run(folder: Path, name: str, store: Store, feed: Path, *, changes_only: bool) -> tuple[float, float, int]:
    """Seconds, peak GB, lines."""
    config = folder / f"{name}.toml"
    text = CONFIG.format(name=name, url=store.url, feed=feed, unmatched="drop")
    config.write_text(text.replace("unmatched =", f"changes_only = {json.dumps(changes_only)}\nunmatched ="))
    taken = timed("-m", "reconcile", "run", "bench", "--config", str(config), folder=folder)
    return taken.seconds, taken.memory, json.loads(taken.out)["lines"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="keep the data there for the next time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(exist_ok=True, parents=True)
        feed, changed, small, store, of_small = make(folder, options.records)
        for name in ("plain", "changes", "small"):
            for left in (f"state-{name}", f"out-{name}"):
                shutil.rmtree(folder / left, ignore_errors=True)
        rows = {
            "plain run": run(folder, "plain", store, changed, changes_only=False),
            "`changes_only`, first run": run(folder, "changes", store, feed, changes_only=True),
            "`changes_only`, 1 % changed": run(folder, "changes", store, changed, changes_only=True),
            "plain run once more": run(folder, "plain", store, feed, changes_only=False),
            f"feed of {SMALL:,} records, {options.records:,} mappings": run(
                folder, "small", of_small, small, changes_only=False
            ),
        }
    plain = rows["plain run"][0]
    print("| what | lines | seconds | times the plain run | peak GB |\n|---|---|---|---|---|")
    for name, (seconds, memory, lines) in rows.items():
        print(f"| {name} | {lines:,} | {seconds:.1f} | {seconds / plain:.2f} | {memory:.2f} |")


if __name__ == "__main__":
    main()
