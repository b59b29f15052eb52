"""The two stores against plain ways to keep and read the same mappings, in one session.

    python -m tests.bench.store [--mappings 1000000] [--folder DIR]

Prints a Markdown table. IDs have 18 bytes, UUIDs 38 digits, one device a customer; all from one seed. Exports end in
Arrow batches, peers' too; the better of two runs counts. Redis runs with deploy/redis.conf on the same machine, so that
client and server share its cores. The fill goes through `record`, 10,000 syncs a call, from one process.
"""

import argparse
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import pyarrow as pa
import redis

from idsync.settings import Store
from idsync.store import codec, open_store
from idsync.store.base import EXPORT_SCHEMA, MappingStore, Sync
from tests.servers import RedisServer, redis_server

SEED = 7
DPID = 12345
NOW = 1_790_000_000_000
RECORD_SYNCS = 10_000
SUBSET = 10_000
BUCKETS: int = Store.model_fields["buckets"].default
PEER_ROWS = 65_536
PEER_COMMANDS = 1_000
TTL_SECONDS = 120 * 86_400


def syncs(mappings: int) -> Iterator[Sync]:
    chance = random.Random(SEED)
    for _ in range(mappings):
        customer = f"C{chance.randrange(10**17):017d}"
        yield Sync(DPID, customer, f"{chance.randrange(10**38):038d}", "", NOW - chance.randrange(10**9))


def fill(store: MappingStore, mappings: int) -> float:
    """Mappings a second."""
    made, spent = syncs(mappings), 0.0
    while share := list(islice(made, RECORD_SYNCS)):
        start = time.perf_counter()
        store.record(share)
        spent += time.perf_counter() - start
    return mappings / spent


def rate(read: Callable[[], Iterator[pa.RecordBatch]], expected: int) -> float:
    """Mappings a second, the better of two runs."""
    best = 0.0
    for _ in range(2):
        start = time.perf_counter()
        found = sum(len(batch) for batch in read())
        best = max(best, found / (time.perf_counter() - start))
        if found != expected:
            sys.exit(f"read {found} mappings, not {expected}")
    return best


def batch_of(rows: Sequence[tuple[str, str, int]]) -> pa.RecordBatch:
    columns = [
        pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), EXPORT_SCHEMA, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=EXPORT_SCHEMA)


def by_fetchmany(path: Path) -> Iterator[pa.RecordBatch]:
    with closing(sqlite3.connect(path)) as db:
        cursor = db.execute("SELECT customer_id, uuid, seen FROM mappings WHERE dpid = ? AND seen > 0", (DPID,))
        while rows := cursor.fetchmany(PEER_ROWS):
            yield batch_of(rows)


def by_hgetall(server: RedisServer) -> Iterator[pa.RecordBatch]:
    with server.client() as client:
        for start in range(0, BUCKETS, PEER_COMMANDS):
            pipeline = client.pipeline(transaction=False)
            for bucket in range(start, min(start + PEER_COMMANDS, BUCKETS)):
                pipeline.hgetall(codec.bucket_key(DPID, bucket))
            rows = [
                (name.decode(), device.uuid, device.last_seen)
                for found in pipeline.execute()
                for name, value in found.items()
                for device in codec.unpack_devices(value)
            ]
            if rows:
                yield batch_of(rows)


def key_a_mapping(client: "redis.Redis", mappings: int) -> None:
    made = syncs(mappings)
    while share := list(islice(made, RECORD_SYNCS)):
        pipeline = client.pipeline(transaction=False)
        for sync in share:
            pipeline.set(f"ids:{DPID}:{sync.customer_id}", str(sync.uuid), ex=TTL_SECONDS)
        pipeline.execute()


def used(client: "redis.Redis") -> int:
    return int(client.info("memory")["used_memory"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mappings", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the stores' files go; default: a temporary folder")
    arguments = parser.parse_args()
    count = arguments.mappings
    wanted = random.Random(SEED).sample([sync.customer_id for sync in syncs(count)], min(SUBSET, count))
    print(f"{count:,} mappings, seed {SEED}, {BUCKETS:,} buckets\n\n| what | figure |\n|---|---|", flush=True)

    def tell(what: str, figure: float, unit: str) -> None:
        print(f"| {what} | {figure:,.0f} {unit} |", flush=True)

    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        database = folder / "idsync.db"
        with closing(open_store(Store(url=f"sqlite:///{database}"))) as store:
            tell("SQLite: record", fill(store, count), "mappings/s")
            tell("SQLite: whole export", rate(lambda: store.export(DPID, NOW), count), "mappings/s")
            tell("SQLite: latest only", rate(lambda: store.export(DPID, NOW, latest_only=True), count), "mappings/s")
            subset = rate(lambda: store.export(DPID, NOW, customer_ids=wanted), len(wanted))
            tell(f"SQLite: export of {len(wanted):,}", subset, "mappings/s")
        tell("peer: sqlite3 fetchmany", rate(lambda: by_fetchmany(database), count), "mappings/s")
        tell("SQLite: file", database.stat().st_size / count, "bytes/mapping")
        with redis_server(folder / "redis") as server, server.client() as client:
            empty = used(client)
            with closing(open_store(Store(url=server.url, buckets=BUCKETS))) as store:
                tell("Redis: record", fill(store, count), "mappings/s")
                tell("Redis: memory", (used(client) - empty) / count, "bytes/mapping")
                tell("Redis: whole export", rate(lambda: store.export(DPID, NOW), count), "mappings/s")
                tell("Redis: latest only", rate(lambda: store.export(DPID, NOW, latest_only=True), count), "mappings/s")
                subset = rate(lambda: store.export(DPID, NOW, customer_ids=wanted), len(wanted))
                tell(f"Redis: export of {len(wanted):,}", subset, "mappings/s")
            tell("peer: redis-py pipelined HGETALL", rate(lambda: by_hgetall(server), count), "mappings/s")
            client.flushall()
            empty = used(client)
            key_a_mapping(client, count)
            tell("peer: a Redis key a mapping, with TTL", (used(client) - empty) / count, "bytes/mapping")


if __name__ == "__main__":
    main()
