"""A run that is far larger than its memory: 100 million records against 100 million mappings.

    python -m tests.bench.scale [--millions 100] [--memory-limit 2500MB] [--folder DIR]

Of the records 70 % have a mapping, 30 % are held; of the mappings 30 % belong to nobody in the feed. The store is
SQLite, filled in the order of its key (in random order that takes hours; it is read in that order anyway). Prints
seconds, seconds a million, peak resident memory of the job, and the most that its scratch folder held. At 100 million
records it needs about 40 GB of disk.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from idsync.settings import Store
from tests.bench import data
from tests.bench.process import timed
from tests.bench.reconcile import CONFIG, fill_sqlite

MILLION = 1_000_000


def make(folder: Path, records: int) -> tuple[Path, Store]:
    """The feed, and a store of as many mappings."""
    feed = folder / f"scale-{records}.csv"
    store = Store(url=f"sqlite:///{folder}/scale-{records}.db")
    first = records * 3 // 10
    with duckdb.connect(config={"memory_limit": "4GB", "temp_directory": str(folder / "making")}) as con:
        if not feed.exists():
            con.execute(f"COPY ({data.records('range(' + str(records) + ')')}) TO '{feed}' (HEADER)")
    if not Path(store.url.removeprefix("sqlite:///")).exists():
        fill_sqlite(store, data.mappings(f"range({first}, {first + records})"), in_order=True)
    return feed, store


@contextmanager
def largest(folder: Path) -> Iterator[list[int]]:
    """The most bytes that lay in scratch folders below `folder` at a time, looked at five times a second."""
    most, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(0.2):
            try:
                sizes = [path.stat().st_blocks * 512 for path in folder.glob("runs/*/scratch/**/*") if path.is_file()]
            except FileNotFoundError:
                continue
            most[0] = max(most[0], sum(sizes))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=int, nargs="+", default=[10, 30, 100])
    parser.add_argument("--memory-limit", default="2500MB")
    parser.add_argument("--folder", type=Path, help="keep the data there for the next time")
    options = parser.parse_args()
    print("| millions of records and of mappings | seconds | seconds a million | peak GB | scratch GB |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="scale-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(exist_ok=True, parents=True)
        for millions in options.millions:
            measure(folder, millions, options.memory_limit)


def measure(folder: Path, millions: int, memory_limit: str) -> None:
    feed, store = make(folder, millions * MILLION)
    name = f"scale-{millions}-{int(time.time())}"
    config = folder / f"{name}.toml"
    text = CONFIG.format(name=name, url=store.url, feed=feed, unmatched="hold")
    config.write_text(text + f'memory_limit = "{memory_limit}"\n')
    with largest(folder / f"state-{name}") as scratch:
        command = ("-m", "reconcile", "run", "bench", "--config", str(config))
        taken = timed(*command, folder=folder)
    summary = json.loads(taken.out)
    expected = {"read": millions * MILLION, "mappings": millions * MILLION, "held": millions * MILLION * 3 // 10}
    found = {key: summary[key] for key in expected}
    if found != expected or summary["matched"] + summary["unmatched"] != summary["read"]:
        raise SystemExit(f"unexpected figures: {summary}")
    figures = f"{taken.seconds:.0f} | {taken.seconds / millions:.2f} | {taken.memory:.2f} | {scratch[0] / 1e9:.1f}"
    print(f"| {millions} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
