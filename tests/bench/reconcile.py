"""The reconciler against DuckDB's own COPY and against a plain Python program with MGET, in one session.

    python -m tests.bench.reconcile [--records 10000000] [--rounds 3] [--curve | --merge] [--folder DIR]
        [--without-mget]

Prints a Markdown table. Each contender is a process of its own, timed from start to end, memory as its peak resident
set. Needs about 8 GB of disk and, for the plain program, 3 GB of memory at ten million records.
"""

import argparse
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import duckdb

from idsync.settings import Store
from idsync.store import codec, open_store
from tests.bench import data
from tests.bench.process import Taken, timed
from tests.servers import RedisServer, redis_server

CONFIG = """
[store]
url = "{url}"
[privacy]
gdpr_default = "does-not-apply"
[[data_sources]]
name = "crm"
dpid = 12345
[[destinations]]
name = "out"
kind = "directory"
path = "out-{name}"
[[feeds]]
name = "bench"
data_source = "crm"
inputs = "{feed}"
id_column = "customer_id"
unmatched = "{unmatched}"
signals = ["gender", "tier", "city"]
trait_columns = ["traits"]
destination = "out"
[reconcile]
state_dir = "state-{name}"
"""

COPY = """
import sys, duckdb
feed, mappings, out = sys.argv[1:]
duckdb.execute(f'''COPY (
    SELECT uuid || chr(9) || concat_ws(',',
        CASE WHEN gender <> '' THEN '"gender"="' || gender || '"' END,
        CASE WHEN tier <> '' THEN '"tier"="' || tier || '"' END,
        CASE WHEN city <> '' THEN '"city"="' || city || '"' END,
        CASE WHEN traits <> '' THEN 'd_sid=' || traits END)
    FROM read_csv('{feed}', all_varchar = true, header = true) JOIN '{mappings}' USING (customer_id)
) TO '{out}' (FORMAT csv, HEADER false, QUOTE '', ESCAPE '', DELIMITER '\\x01', COMPRESSION gzip)''')
"""

MGET = """
import csv, gzip, itertools, sys, redis
feed, port, out, level = sys.argv[1:]
client = redis.Redis(port=int(port))
with open(feed, newline='') as file, gzip.open(out, 'wt', compresslevel=int(level)) as lines:
    reader = csv.DictReader(file)
    while rows := list(itertools.islice(reader, 1000)):
        for row, uuid in zip(rows, client.mget(['map:' + row['customer_id'] for row in rows])):
            if uuid is None:
                continue
            items = [f'"{key}"="{row[key]}"' for key in ('gender', 'tier', 'city') if row[key]]
            if row['traits']:
                items.append('d_sid=' + row['traits'])
            lines.write(uuid.decode() + '\\t' + ','.join(items) + '\\n')
"""


def fill_sqlite(store: Store, mappings: str, *, in_order: bool = False) -> None:
    """The rows of a query for customer ID and UUID, straight into the store's table.

    In the rows' own (random) order, as years of syncs would leave them; or in that of the table's key, which is what
    can be waited for where they are many. They are read in the key's order anyway.
    """
    opened = open_store(store)
    opened.check()
    opened.close()
    path = store.url.removeprefix("sqlite:///")
    with (
        duckdb.connect(config={"memory_limit": "4GB", "temp_directory": f"{path}.making"}) as con,
        sqlite3.connect(path, isolation_level=None) as db,
    ):
        cursor = con.execute(f"SELECT * FROM ({mappings})" + (" ORDER BY customer_id" if in_order else ""))
        db.execute("BEGIN")
        while rows := cursor.fetchmany(100_000):
            db.executemany(
                "INSERT INTO mappings VALUES (?, ?, ?, ?)", [(data.DPID, name, uuid, data.SEEN) for name, uuid in rows]
            )
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def redis_store(server: RedisServer) -> Store:
    return Store(url=server.url, persistence="unchecked")


def fill_redis(server: RedisServer, mappings: Path) -> None:
    """Packed fields straight into the buckets, in the mappings' own order."""
    store = redis_store(server)
    opened = open_store(store)
    opened.check()
    opened.close()
    cursor = duckdb.execute(f"SELECT customer_id, uuid FROM '{mappings}'")
    seen = codec.pack_time(data.SEEN)
    with server.client() as client:
        client.sadd("ids:dpids", data.DPID)
        while rows := cursor.fetchmany(20_000):
            with client.pipeline(transaction=False) as pipeline:
                for name, uuid in rows:
                    key = codec.bucket_key(data.DPID, codec.bucket_of(name.encode(), store.buckets))
                    pipeline.execute_command("HSET", key, name, seen + codec.pack_uuid(uuid))
                pipeline.execute()


def fill_strings(server: RedisServer, mappings: Path) -> None:
    cursor = duckdb.execute(f"SELECT customer_id, uuid FROM '{mappings}'")
    with server.client() as client:
        while rows := cursor.fetchmany(20_000):
            client.mset({f"map:{name}": uuid for name, uuid in rows})


def ours(name: str, url: str, feed: Path, folder: Path, unmatched: str = "drop", *, options: str = "") -> Taken:
    for left in (f"state-{name}", f"out-{name}"):
        shutil.rmtree(folder / left, ignore_errors=True)
    config = folder / f"{name}.toml"
    text = CONFIG.format(name=name, url=url, feed=feed, unmatched=unmatched)
    config.write_text(text.replace("[reconcile]", f"{options}\n[reconcile]"))
    taken = timed("-m", "reconcile", "run", "bench", "--config", str(config), folder=folder)
    summary = json.loads(taken.out)
    if summary["read"] != summary["matched"] + summary["unmatched"] or not summary["files"]:
        raise SystemExit(f"unexpected figures: {summary}")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, help="10 million; with --merge 2 million")
    parser.add_argument("--curve", action="store_true", help="ours on SQLite from 1 to 30 million records instead")
    parser.add_argument("--merge", action="store_true", help="one record of each user against five, instead")
    parser.add_argument("--rounds", type=int, default=3, help="of COPY and ours; default: 3")
    parser.add_argument("--folder", type=Path, help="keep the data there for the next time")
    parser.add_argument("--without-mget", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(exist_ok=True, parents=True)
        if options.curve:
            curve(folder)
        elif options.merge:
            merge(folder, options.records or 2_000_000)
        else:
            compare(folder, options.records or 10_000_000, rounds=options.rounds, mget=not options.without_mget)


def curve(folder: Path) -> None:
    print("| records (millions) | seconds | seconds a million | peak GB |\n|---|---|---|---|")
    for millions in (1, 3, 10, 30):
        feed, mappings = data.make(folder, millions * 1_000_000)
        store = Store(url=f"sqlite:///{folder}/curve-{millions}.db")
        fill_sqlite(store, f"FROM '{mappings}'")
        taken = ours(f"curve-{millions}", store.url, feed, folder)
        figures = f"{taken.seconds:.1f} | {taken.seconds / millions:.2f} | {taken.memory:.2f}"
        print(f"| {millions} | {figures} |", flush=True)


def merge(folder: Path, records: int, rounds: int = 5) -> None:
    """One record a user against five, taking turns; the best of each counts, as the machine is shared."""
    stores = {}
    for repeats in (1, 5):
        feed, mappings = data.make(folder, records, repeats=repeats)
        stores[repeats] = feed, Store(url=f"sqlite:///{folder}/merge-{records}-{repeats}.db")
        if not (folder / f"merge-{records}-{repeats}.db").exists():
            fill_sqlite(stores[repeats][1], f"FROM '{mappings}'")
    taken: dict[tuple[int, str], list[Taken]] = {(1, "all"): [], (5, "all"): [], (5, "last"): []}
    for _ in range(rounds):
        for (repeats, policy), found in taken.items():
            feed, store = stores[repeats]
            options = f'conflicts = "{policy}"\ndiagnose = false'
            found.append(ours(f"merge-{repeats}", store.url, feed, folder, options=options))
    print("| records a user | `conflicts` | seconds, best | median | times one a user | peak GB |\n" + "|---" * 6 + "|")
    once = min(taken[1, "all"]).seconds
    for (repeats, policy), found in taken.items():
        best, middle = min(found), sorted(found)[rounds // 2]
        figures = f"{best.seconds:.2f} | {middle.seconds:.2f} | {best.seconds / once:.2f} | {best.memory:.2f}"
        print(f"| {repeats} | `{policy}` | {figures} |")


def compare(folder: Path, records: int, *, rounds: int, mget: bool) -> None:
    """The first five take turns, and each run of ours is held against the `COPY` before it, as the machine is shared;
    the others run once, and are held against the median of `COPY`.
    """
    feed, mappings = data.make(folder, records)
    sqlite = Store(url=f"sqlite:///{folder}/bench-{records}.db")
    if not (folder / f"bench-{records}.db").exists():
        fill_sqlite(sqlite, f"FROM '{mappings}'")
    with filled(lambda server: fill_redis(server, mappings)) as server:
        redis = redis_store(server)
        delivered = "diagnose = false"  # as much is delivered; for what is left out COPY has nothing like it
        turns: dict[str, Callable[[], Taken]] = {
            "DuckDB `COPY … (compression gzip)`, mappings in Parquet": partial(
                timed, "-c", COPY, str(feed), str(mappings), str(folder / "copy.gz"), folder=folder
            ),
            "reconcile, SQLite": partial(ours, "sqlite", sqlite.url, feed, folder),
            f"reconcile, SQLite, `{delivered}`": partial(
                ours, "delivered", sqlite.url, feed, folder, options=delivered
            ),
            "reconcile, Redis": partial(ours, "redis", redis.url, feed, folder),
            f"reconcile, Redis, `{delivered}`": partial(ours, "redis", redis.url, feed, folder, options=delivered),
        }
        results: dict[str, list[Taken]] = {name: [] for name in turns}
        for path in (feed, mappings, folder / f"bench-{records}.db"):  # all find their files in the system's cache
            with path.open("rb") as file:
                while file.read(1 << 24):
                    pass
        for _ in range(rounds):
            for name, run in turns.items():
                results[name].append(run())
    copies = results[next(iter(turns))]
    results["reconcile, SQLite, unmatched held"] = [ours("held", sqlite.url, feed, folder, "hold")]
    if mget:
        with filled(lambda server: fill_strings(server, mappings)) as server:
            for level in (1, 9):
                arguments = (str(feed), str(server.port), str(folder / "mget.gz"), str(level))
                taken = timed("-c", MGET, *arguments, folder=folder)
                results[f"plain Python, `MGET` of 1,000, gzip level {level}"] = [taken]
    print("| what | seconds, median | times COPY, median | each round | peak GB |\n|---|---|---|---|---|")
    middle = median(copy.seconds for copy in copies)
    for name, found in results.items():
        against = [copy.seconds for copy in copies] if len(found) == rounds else [middle]
        ratios = [copy / one.seconds for copy, one in zip(against, found, strict=True)]
        each = ", ".join(f"{one.seconds:.1f} = {ratio:.2f}" for one, ratio in zip(found, ratios, strict=True))
        figures = f"{median(one.seconds for one in found):.1f} | {median(ratios):.2f} | {each}"
        print(f"| {name} | {figures} | {max(one.memory for one in found):.2f} |")


@contextmanager
def filled(fill: Callable[[RedisServer], None]) -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder), "--appendonly", "no") as server:
        fill(server)
        yield server


if __name__ == "__main__":
    main()
