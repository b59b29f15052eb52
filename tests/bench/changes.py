"""Feeds that send only changes, with 1 % changed, against the plain run of the same file; and a small feed.

    python -m tests.bench.changes [--records 10000000] [--rounds 3] [--folder DIR]

Mappings for seven tenths of the customers, in SQLite. The first run with `changes_only` sends all and remembers it.
Each round is a plain run and one with `changes_only`, of the same full export: one record in a hundred has another tier
and another trait than in that of the round before. The small feed has 10,000 records, and a store with as many mappings
as the large one has records: only those of its own customers, seven tenths, are read. Each run is a process of its own.
"""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

import duckdb

from idsync.settings import Store
from tests.bench import data
from tests.bench.process import timed
from tests.bench.reconcile import CONFIG, fill_sqlite

SMALL = 10_000


class Data(NamedTuple):
    """A feed, the same with one record in a hundred changed, once for each round, and a small one; a store for those,
    and one for this."""

    feed: Path
    changed: list[Path]
    small: Path
    store: Store
    of_small: Store


def make(folder: Path, records: int, rounds: int) -> Data:
    feed, mappings = data.make(folder, records)
    changed = [folder / f"changed-{records}-{number}.csv" for number in range(rounds)]
    for number, path in enumerate(changed):
        if not path.exists():
            new = "hash(customer_id, 11) % 100 = 0"
            other = (
                f"CASE WHEN {new} THEN 'platinum-{number}' ELSE tier END AS tier,"
                f" CASE WHEN {new} THEN '{number + 1}' ELSE traits END AS traits"
            )
            numbered = data.records(f"range({records})")
            duckdb.execute(f"COPY (SELECT * REPLACE ({other}) FROM ({numbered})) TO '{path}' (HEADER)")
    small = folder / f"small-{records}.csv"
    if not small.exists():
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


class Run(NamedTuple):
    seconds: float
    memory: float  # GB
    lines: int


def run(folder: Path, name: str, store: Store, feed: Path, *, changes_only: bool) -> Run:
    config = folder / f"{name}.toml"
    text = CONFIG.format(name=name, url=store.url, feed=feed, unmatched="drop")
    config.write_text(text.replace("unmatched =", f"changes_only = {json.dumps(changes_only)}\nunmatched ="))
    taken = timed("-m", "reconcile", "run", "bench", "--config", str(config), folder=folder)
    return Run(taken.seconds, taken.memory, json.loads(taken.out)["lines"])


def drop_from_cache(store: Store) -> None:
    with Path(store.url.removeprefix("sqlite:///")).open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def row(name: str, runs: list[Run], beside: list[Run]) -> str:
    """Of a table: medians, and each run against the plain one before it."""
    ratios = [one.seconds / plain.seconds for one, plain in zip(runs, beside, strict=True)]
    each = ", ".join(f"{one.seconds:.1f} = {ratio:.2f}" for one, ratio in zip(runs, ratios, strict=True))
    memory = max(one.memory for one in runs)
    seconds = median(one.seconds for one in runs)
    return f"| {name} | {runs[0].lines:,} | {seconds:.1f} | {median(ratios):.2f} | {each} | {memory:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep the data there for the next time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(exist_ok=True, parents=True)
        feed, changed, small, store, of_small = make(folder, options.records, options.rounds)
        for name in ("plain", "changes", "small"):
            for left in (f"state-{name}", f"out-{name}"):
                shutil.rmtree(folder / left, ignore_errors=True)
        first = run(folder, "changes", store, feed, changes_only=True)
        plain, changes = [], []
        for export in changed:
            plain.append(run(folder, "plain", store, export, changes_only=False))
            changes.append(run(folder, "changes", store, export, changes_only=True))
        of_few = []
        for cold in [False] * options.rounds + [True]:
            shutil.rmtree(folder / "state-small", ignore_errors=True)
            if cold:
                drop_from_cache(of_small)
            of_few.append(run(folder, "small", of_small, small, changes_only=False))
    print("| what | lines | seconds, median | times the plain run, median | each round | peak GB |")
    print("|---|---|---|---|---|---|")
    print(row("plain run", plain, plain))
    print(row("`changes_only`, 1 % changed", changes, plain))
    print(row("`changes_only`, the first run, which sends all", [first], plain[:1]))
    name = f"feed of {SMALL:,} records, {options.records:,} mappings"
    print(row(name, of_few[:-1], plain))
    print(row(f"{name}, nothing of the store in the system's cache", of_few[-1:], plain[:1]))


if __name__ == "__main__":
    main()
