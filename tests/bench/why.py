"""What it costs to ask why records did not match.

    python -m tests.bench.why [--records 10000000] [--memory 300MB] [--folder DIR]

The seeded records of `tests.bench.data` with their IDs in lower case, so that none matches: seven tenths are explained
by case, the rest by nothing, which takes every step there is. Prints a Markdown table; the peak is that of the process,
the store's own reading included.
"""

import argparse
import resource
import tempfile
import time
from contextlib import closing
from pathlib import Path

import duckdb

from idsync import config
from idsync.settings import Store
from idsync.store import open_store
from reconcile.why import SAMPLE_IDS, diagnose
from tests.bench import data
from tests.bench.reconcile import CONFIG, fill_sqlite


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--memory", default="300MB")
    parser.add_argument("--folder", type=Path, help="keep the data there for the next time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(exist_ok=True, parents=True)
        feed, mappings = data.make(folder, options.records)
        store = Store(url=f"sqlite:///{folder}/why-{options.records}.db")
        if not Path(store.url.removeprefix("sqlite:///")).exists():
            fill_sqlite(store, f"FROM '{mappings}'")
        print("| unmatched | sample of IDs | customers | seconds | peak GB |\n|---|---|---|---|---|")
        measure(feed, store, options.records, folder, options.memory)


def measure(feed: Path, store: Store, records: int, folder: Path, memory: str) -> None:
    text = CONFIG.format(name="why", url=store.url, feed=feed, unmatched="drop")
    settings = config.parse(text, environ={}, base=folder)
    with (
        tempfile.TemporaryDirectory(dir=folder) as scratch,
        closing(open_store(store)) as opened,
        duckdb.connect(config={"memory_limit": "300MB"}) as con,
    ):
        query = f"SELECT lower(customer_id) FROM read_csv('{feed}', all_varchar = true, header = true)"
        unmatched = con.sql(query).to_arrow_reader(100_000)
        start = time.perf_counter()
        found = diagnose(
            unmatched,
            opened,
            settings,
            settings.data_sources[0],
            data.SEEN,
            thorough=True,
            scratch=Path(scratch),
            memory_limit=memory,
        )
        seconds = time.perf_counter() - start
    share = {finding.rule: finding.records / records for finding in found.findings}
    if found.unmatched != records or not 0.69 < share["case"] < 0.71:
        raise SystemExit(f"unexpected figures: {found.as_dict()}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"| {records:,} | {SAMPLE_IDS:,} | {found.compared:,} | {seconds:.1f} | {peak:.2f} |")


if __name__ == "__main__":
    main()
