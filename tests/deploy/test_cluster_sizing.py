"""The table of deploy/cluster/README.md is the one reckoned, from figures that stand in the benchmarks' notes."""

import re
from pathlib import Path

from tests.bench import sizing
from tests.bench.sizing import MEASURED, MILLION, PLANNED, SITES, reckon
from tests.deploy.test_cluster import BYTES_A_MAPPING, README
from tests.deploy.test_sizes import RULES

BENCH = (Path(__file__).parents[2] / "tests" / "bench" / "README.md").read_text()


def test_the_table_is_the_one_reckoned() -> None:
    assert sizing.table() in README.read_text()


def test_the_text_tells_the_figures_it_is_reckoned_from() -> None:
    text = " ".join(README.read_text().split())
    for told in (
        f"{PLANNED.calls_a_second_a_million:g} calls a second a million mappings",
        f"{MEASURED.bytes_a_mapping:g} bytes each",
        f"of {PLANNED.store_gigabytes_a_primary:g} GB each",
        f"{PLANNED.share_of_a_core:.0%}".replace("%", " % of a core"),
        f"{MEASURED.micros_a_call:g} µs + {MEASURED.micros_a_batch:g} µs / (calls in a batch for one primary,"
        f" {PLANNED.calls_a_batch_and_primary:g})",
        f"{MEASURED.bytes_an_opt_out:g} bytes and {MEASURED.micros_of_opt_outs_a_call:g} µs a call",
        f"{PLANNED.worker_calls_a_second:,.0f} calls a second a worker, where one takes"
        f" {MEASURED.worker_calls_a_second:,.0f}",
        f"{MEASURED.spool_bytes_a_mapping:g} bytes a mapping",
        f"{MEASURED.exported_a_second / MILLION:g} million mappings a second, then"
        f" {MEASURED.seconds_a_million_records:g} seconds a million",
        f"{MEASURED.spark_start_seconds:g} seconds, and {MEASURED.spark_core_seconds_a_million:g} seconds of a core for"
        " each million records",
        f"{MEASURED.scratch_bytes_a_record:g} bytes a record, and {MEASURED.packed_bytes_a_line:g} for each line",
    ):
        assert told in text, told


def test_it_reckons_as_the_sizes_for_smaller_sites_do() -> None:
    need = reckon(100 * MILLION)
    assert need.buckets == RULES["buckets"]({"mappings_largest": 100 * MILLION})
    of = {"calls_a_second": need.calls_a_second, "hosts": need.hosts, "hours": PLANNED.hours_away}
    assert round(need.spool_gigabytes * 1000) == round(RULES["spool"](of))  # type: ignore[arg-type]
    store = {"store": need.store_gigabytes / need.primaries}
    store["maxmemory"] = RULES["maxmemory"](store)  # type: ignore[arg-type]
    assert round(need.machine_gigabytes, 6) == round(RULES["redis_memory"](store), 6)  # type: ignore[arg-type]
    assert MEASURED.bytes_a_mapping == BYTES_A_MAPPING


def test_a_worker_takes_what_the_benchmark_says() -> None:
    [told] = re.findall(r"^\| ours, Redis, against the plain app \| ([\d,]+) \|", BENCH, re.MULTILINE)
    assert round(int(told.replace(",", "")), -3) == MEASURED.worker_calls_a_second
    assert PLANNED.worker_calls_a_second < MEASURED.worker_calls_a_second / 4


def test_larger_runs_on_spark_took_no_longer_than_reckoned() -> None:
    told = re.findall(r"^\| (\d+) million \| (\d+) seconds \| ([\d.]+) seconds \|", README.read_text(), re.MULTILINE)
    assert [millions for millions, _, _ in told] == ["20", "50"]
    for millions, reckoned, measured in told:
        assert round(sizing.spark_seconds(int(millions) * MILLION, cores=2)) == int(reckoned)
        [found] = re.findall(rf"^\| {millions},000,000 \| [\d.]+ \| [\d.]+ \| ([\d.]+) \|", BENCH, re.MULTILINE)
        assert found == measured
        assert float(measured) <= int(reckoned) <= 1.2 * float(measured)


def test_what_is_reckoned_is_enough() -> None:
    for mappings in SITES:
        need = reckon(mappings)
        assert need.store_gigabytes / need.primaries <= PLANNED.store_gigabytes_a_primary
        assert need.mappings / need.buckets <= 2_000
        workers = (need.hosts - 1) * PLANNED.workers_a_host  # one of them may be gone
        assert workers * PLANNED.worker_calls_a_second >= need.calls_a_second
        cores = need.executors * PLANNED.cores_an_executor
        assert sizing.spark_seconds(mappings / PLANNED.devices_a_customer, cores) <= PLANNED.spark_hours * 3600
        assert need.opt_out_core < PLANNED.share_of_a_core
        assert need.files * PLANNED.file_bytes >= mappings / PLANNED.devices_a_customer * MEASURED.packed_bytes_a_line


def test_requests_are_those_of_the_delivery() -> None:
    part = PLANNED.part_bytes
    assert sizing.requests_a_file(part, part) == 1
    assert sizing.requests_a_file(250e6, part) == 8  # is it there, what was left, begin, four parts, put together
