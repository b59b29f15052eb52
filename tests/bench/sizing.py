"""What a site needs, reckoned from what was measured: Redis, endpoint hosts, hours of the job, executors, calls of S3.
Pure.

    python -m tests.bench.sizing          # the table of deploy/cluster/README.md

`tests.bench.cluster` holds the reckoning for Redis against a real cluster. All figures are of the machine of
tests/bench/README.md; a site puts its own into `Measured`.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

MILLION = 1_000_000


@dataclass(frozen=True)
class Measured:
    """Rates of one core or one machine, as measured (tests/bench/README.md, `tests.bench.cluster`)."""

    bytes_a_mapping: float = 55  # a hundred mappings a bucket; 18-byte IDs; without a TTL, a copy or a rewrite
    bytes_an_opt_out: float = 170
    # Processor time of a primary: for a call, and for a batch, in which commands of many calls share their way there.
    micros_a_call: float = 6.7
    micros_a_batch: float = 68.5
    crowding: float = 0.4  # so much more of both where there are 600 mappings a bucket, not 100
    micros_of_opt_outs_a_call: float = 0.48  # of the one primary that holds them all
    worker_calls_a_second: float = 17_000
    exported_a_second: float = 1_400_000
    # At 100 million records and mappings, 30 % held, with 2,500 MB.
    seconds_a_million_records: float = 3.2
    scratch_bytes_a_record: float = 240  # likewise
    packed_bytes_a_line: float = 30
    # From 1 to 5 million records on two executors of one core: what more of them take, times two; and what is left.
    spark_core_seconds_a_million: float = 9.1
    spark_start_seconds: float = 33
    spool_bytes_a_mapping: float = 168


@dataclass(frozen=True)
class Planned:
    """What is left free, and how large one machine is."""

    store_gigabytes_a_primary: float = 12  # 18 of maxmemory, 24 of the machine; copied to a replica within minutes
    share_of_a_core: float = 0.4  # Redis works on one; the rest is for peaks, rewrites and failovers
    calls_a_batch_and_primary: float = 8
    worker_calls_a_second: float = 2_000  # leaves room for TLS, peaks, a host that is gone, slower cores
    workers_a_host: int = 8
    devices_a_customer: float = 2
    calls_a_second_a_million: float = 50  # mappings, at the peak
    opted_out: float = 0.01  # of all mappings
    hours_away: float = 2
    file_bytes: float = 250e6  # at which the job splits
    part_bytes: float = 64 * (1 << 20)
    spark_hours: float = 0.5  # a run on Spark is to take no longer
    cores_an_executor: int = 4


class Need(NamedTuple):
    """Memory in GB (10⁹ bytes); `replicas` are as many as primaries, and as large."""

    mappings: int
    calls_a_second: float
    buckets: int
    store_gigabytes: float
    primaries: int
    machine_gigabytes: float
    largest_gigabytes: float
    opt_out_core: float
    hosts: int
    spool_gigabytes: float
    run_hours: float
    executors: int
    spark_hours: float
    scratch_gigabytes: float
    files: int
    requests: int


MEASURED, PLANNED = Measured(), Planned()
SITES = (100 * MILLION, 1_000 * MILLION, 10_000 * MILLION)
MOST_BUCKETS = 16_777_216


def reckon(mappings: int, measured: Measured = MEASURED, planned: Planned = PLANNED) -> Need:
    """One data source. The job joins a full feed: a record for each customer, all of them known."""
    calls = mappings / MILLION * planned.calls_a_second_a_million
    store = measured.bytes_a_mapping * mappings
    buckets = min(1 << math.ceil(math.log2(mappings / 100)), MOST_BUCKETS)
    micros = redis_micros(planned.calls_a_batch_and_primary, mappings / buckets, measured)
    by_memory = store / (planned.store_gigabytes_a_primary * 1e9)
    by_processor = calls * micros / MILLION / planned.share_of_a_core
    primaries = max(3, math.ceil(by_memory), math.ceil(by_processor))
    opt_outs = mappings * planned.opted_out * measured.bytes_an_opt_out
    hosts = max(3, 1 + math.ceil(calls / planned.worker_calls_a_second / planned.workers_a_host))
    records = mappings / planned.devices_a_customer
    run = mappings / measured.exported_a_second + records / MILLION * measured.seconds_a_million_records
    executors = math.ceil(_spark_cores(records, planned.spark_hours * 3600, measured) / planned.cores_an_executor)
    packed = records * measured.packed_bytes_a_line
    files = math.ceil(packed / planned.file_bytes)
    return Need(
        mappings=mappings,
        calls_a_second=calls,
        buckets=buckets,
        store_gigabytes=store / 1e9,
        primaries=primaries,
        machine_gigabytes=_machine(store / primaries) / 1e9,
        largest_gigabytes=_machine(store / primaries + opt_outs) / 1e9,
        opt_out_core=calls * measured.micros_of_opt_outs_a_call / MILLION,
        hosts=hosts,
        spool_gigabytes=measured.spool_bytes_a_mapping * calls / hosts * 3600 * planned.hours_away / 1e9,
        run_hours=run / 3600,
        executors=executors,
        spark_hours=spark_seconds(records, executors * planned.cores_an_executor, measured) / 3600,
        scratch_gigabytes=records * (measured.scratch_bytes_a_record + measured.packed_bytes_a_line) / 1e9,
        files=files,
        requests=1 + files * requests_a_file(packed / files, planned.part_bytes),
    )


def redis_micros(share: float, a_bucket: float, measured: Measured = MEASURED) -> float:
    """Processor time of a primary for a call, of which `share` reach it in a batch, at so many mappings a bucket."""
    crowded = 1 + measured.crowding * max(a_bucket - 100, 0) / 500
    return (measured.micros_a_call + measured.micros_a_batch / share) * crowded


def spark_seconds(records: float, cores: float, measured: Measured = MEASURED) -> float:
    """A run on so many cores of executors, from start to end."""
    return measured.spark_start_seconds + records / MILLION * measured.spark_core_seconds_a_million / cores


def _spark_cores(records: float, seconds: float, measured: Measured) -> float:
    return records / MILLION * measured.spark_core_seconds_a_million / (seconds - measured.spark_start_seconds)


def _machine(held: float) -> float:
    """maxmemory is half as much again as what is held; the machine needs a third more (deploy/sizes)."""
    return held * 1.5 * 4 / 3


def requests_a_file(size: float, part_bytes: float) -> int:
    """One PUT; or the looks for the key and for what an earlier try has left, the begin, the parts and the end."""
    return 1 if size <= part_bytes else 4 + math.ceil(size / part_bytes)


def table(sites: tuple[int, ...] = SITES) -> str:
    """In Markdown."""
    needs = [reckon(mappings) for mappings in sites]
    rows = {
        "calls a second, at the peak": [f"{need.calls_a_second:,.0f}" for need in needs],
        "`store.buckets`; mappings in each": [
            f"{need.buckets:,}; {need.mappings / need.buckets:,.0f}" for need in needs
        ],
        "mappings in Redis": [f"{need.store_gigabytes:,.1f} GB" for need in needs],
        "primaries, and as many replicas": [f"{need.primaries:,}" for need in needs],
        "memory of each one's machine": [f"{need.machine_gigabytes:,.1f} GB" for need in needs],
        "likewise, of the one with the opt-outs": [f"{need.largest_gigabytes:,.1f} GB" for need in needs],
        "its core, for opt-outs alone": [f"{need.opt_out_core:.0%}" for need in needs],
        f"endpoint hosts of {PLANNED.workers_a_host} workers": [f"{need.hosts:,}" for need in needs],
        f"spool of each, for {PLANNED.hours_away:g} hours": [f"{need.spool_gigabytes:,.1f} GB" for need in needs],
        "a full run, on one machine": [_hours(need.run_hours) for need in needs],
        f"executors of {PLANNED.cores_an_executor} cores, for {PLANNED.spark_hours * 60:g} minutes on Spark": [
            f"{need.executors:,}" for need in needs
        ],
        "a full run on them": [_hours(need.spark_hours) for need in needs],
        "disk for it: what the join spills, and the files": [f"{need.scratch_gigabytes:,.0f} GB" for need in needs],
        "files of a full run": [f"{need.files:,}" for need in needs],
        "requests to S3 for them": [f"{need.requests:,}" for need in needs],
    }
    head = ["mappings", *(f"{mappings // MILLION:,} million" for mappings in sites)]
    lines = [head, ["---"] * len(head), *([name, *cells] for name, cells in rows.items())]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines).replace(
        "| --- | --- | --- | --- |", "|---|---|---|---|"
    )


def _hours(hours: float) -> str:
    return f"{hours * 60:.0f} minutes" if hours < 1.5 else f"{hours:.1f} hours"


if __name__ == "__main__":
    print(table())
