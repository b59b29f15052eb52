"""A Redis Cluster with some million mappings, held against the reckoning of `tests.bench.sizing`.

    python -m tests.bench.cluster [--mappings 2000000] [--folder DIR]

Three primaries with a replica each, deploy/redis.conf, all on this machine; `store.replicas = 1`, IDs of 18 bytes, one
device a customer. Filled through `record` from one process, by 512 syncs a call (a batch at full load) and by 32.
Prints a Markdown table: memory and processor time of Redis for each mapping (rewrites of its log left out), and the
rate of a whole export; once with as many mappings a bucket as is ideal, once with as many as ten billion come to.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

from idsync.settings import Store
from idsync.store import open_store
from idsync.store.base import MappingStore, Sync
from tests.bench.sizing import MEASURED, redis_micros
from tests.bench.store import DPID, NOW, rate, syncs
from tests.servers import RedisServer, redis_cluster

PRIMARIES = 3
FULL, LIGHT = 512, 32
AT_ONCE = ("--repl-diskless-sync-delay", "0")


def memory(nodes: Sequence[RedisServer]) -> int:
    return sum(int(info(node, "memory")["used_memory"]) for node in nodes)


def processor_seconds(nodes: Sequence[RedisServer]) -> float:
    told = [info(node, "cpu") for node in nodes]
    return sum(float(each["used_cpu_sys"]) + float(each["used_cpu_user"]) for each in told)


def info(node: RedisServer, section: str) -> dict[str, str]:
    with node.client() as client:
        return {name: str(value) for name, value in client.info(section).items()}


def fill(store: MappingStore, made: Iterator[Sync], share: int) -> None:
    while batch := list(islice(made, share)):
        store.record(batch)


def measure(nodes: Sequence[RedisServer], mappings: int, a_bucket: int) -> None:
    for node in nodes:
        if node.replication()["role"] == "master":
            with node.client() as client:
                client.flushall()
    primaries = [node for node in nodes if node.replication()["role"] == "master"]
    replicas = [node for node in nodes if node not in primaries]
    settings = Store(url=f"redis+cluster://127.0.0.1:{nodes[0].port}", buckets=max(mappings // a_bucket, 1), replicas=1)
    with closing(open_store(settings)) as store:
        made, light = syncs(mappings), mappings // 10
        empty = memory(primaries)
        for share, count in ((FULL, mappings - light), (LIGHT, light)):
            before, start = [processor_seconds(group) for group in (primaries, replicas)], time.perf_counter()
            fill(store, islice(made, count), share)
            seconds = time.perf_counter() - start
            spent, followed = (
                1e6 * (processor_seconds(group) - was) / count
                for group, was in zip((primaries, replicas), before, strict=True)
            )
            reckoned = redis_micros(share / PRIMARIES, a_bucket)
            tell(a_bucket, f"record, {share} a call", f"{count / seconds:,.0f} a second", "")
            tell(a_bucket, f"record, {share} a call: processor", f"{spent:.1f} µs", f"{reckoned:.1f} µs")
            tell(a_bucket, f"record, {share} a call: of replicas", f"{followed:.1f} µs", "")
        held = (memory(primaries) - empty) / mappings
        tell(a_bucket, "memory of the primaries", f"{held:.1f} bytes", f"{MEASURED.bytes_a_mapping:.1f} bytes")
        exported = rate(lambda: store.export(DPID, NOW), mappings)
        tell(a_bucket, "whole export", f"{exported:,.0f} a second", f"{MEASURED.exported_a_second:,.0f} a second")


def tell(a_bucket: int, what: str, measured: str, reckoned: str) -> None:
    print(f"| {a_bucket} | {what} | {measured} | {reckoned} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mappings", type=int, default=2_000_000)
    parser.add_argument("--folder", type=Path, help="where the nodes' files go; default: a temporary folder")
    options = parser.parse_args()
    print(
        f"{options.mappings:,} mappings\n\n| a bucket | a mapping | measured | reckoned |\n|---|---|---|---|",
        flush=True,
    )
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as name,
        redis_cluster(Path(name), PRIMARIES, replicas=1, extra=AT_ONCE) as nodes,
    ):
        for a_bucket in (100, 600):
            measure(nodes, options.mappings, a_bucket)


if __name__ == "__main__":
    main()
