"""Metrics across real processes: each is forked, counts, and ends as a worker of gunicorn would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from idsync import consent, ids, metrics
from idsync.errors import StoreUnavailable
from idsync.metrics import Metrics
from idsync.outcomes import Outcome
from idsync.store.spool import Waiting
from tests.idsync.samples import settings

# What happens in the master. A worker is forked, does `work` and then stays until it is told to end.
MASTER = """
import os, sys
from pathlib import Path
from idsync import consent, ids, metrics
from idsync.metrics import Metrics
from idsync.outcomes import Outcome
from tests.idsync.samples import settings

folder = Path(sys.argv[1])
metrics.prepare(folder)

def start(work):
    ready, told = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        os.close(told[1])
        work(Metrics(settings().data_sources))
        os.write(ready[1], b".")
        os.read(told[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    os.close(told[0])
    return pid, told[1]

def end(worker, forget=True):
    pid, told = worker
    os.write(told, b".")
    os.close(told)
    os.waitpid(pid, 0)
    if forget:
        metrics.forget_worker(pid)

def value(name):
    lines = metrics.expose(None)[0].decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " ")), None)

STORED = 'idsync_calls_total{data_source="crm",outcome="stored"}'

def work(made):
    made.called(Outcome.STORED, 12345, 0.003)
    made.called(Outcome.STORED, 12345, 0.2)
    made.committed(5, 0.001)
    made.queue(4)
"""


def in_master(folder: Path, script: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("PROMETHEUS_MULTIPROC_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", MASTER + script, str(folder)],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def series(spool: Waiting | None = None) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    body, _ = metrics.expose((lambda: spool) if spool else None)
    families = text_string_to_metric_families(body.decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def test_workers_add_up_and_what_they_counted_outlives_them(tmp_path: Path) -> None:
    in_master(
        tmp_path,
        """
a, b = start(work), start(work)
assert (value(STORED), value("idsync_queue_calls"), value("idsync_call_seconds_count")) == (4, 8, 4)
end(a)
assert (value(STORED), value("idsync_queue_calls")) == (4, 4)
assert value("idsync_call_seconds_count") == 4
assert value('idsync_call_seconds_bucket{le="0.005"}') == 2
assert abs(value("idsync_call_seconds_sum") - 0.406) < 1e-9
assert value('idsync_batch_calls_bucket{le="8.0"}') == 2
end(b)
assert (value(STORED), value("idsync_queue_calls")) == (4, None)
""",
    )


def test_files_do_not_pile_up(tmp_path: Path) -> None:
    in_master(
        tmp_path,
        """
for number in range(1, 21):
    end(start(work))
    assert value(STORED) == 2 * number
assert sorted(path.name for path in folder.iterdir()) == ["counter_ended.db", "histogram_ended.db", "lock"]
""",
    )


def test_no_scrape_sees_a_worker_twice_or_finds_its_file_gone(tmp_path: Path) -> None:
    in_master(
        tmp_path,
        """
def scrape():
    os.set_blocking(stop[0], False)
    last = 0
    while True:
        seen = value(STORED)
        if seen < last:
            os._exit(1)
        last = seen
        try:
            os.read(stop[0], 1)
            os._exit(0)
        except BlockingIOError:
            pass

stop = os.pipe()
workers = [start(work) for _ in range(40)]
scraper = os.fork()
if not scraper:
    try:
        scrape()
    finally:
        os._exit(2)
for worker in workers:
    end(worker)
os.write(stop[1], b".")
assert os.waitstatus_to_exitcode(os.waitpid(scraper, 0)[1]) == 0
assert value(STORED) == 80
""",
    )


def test_files_of_an_earlier_run_are_gone(tmp_path: Path) -> None:
    in_master(
        tmp_path,
        """
end(start(work), forget=False)
end(start(work))
(folder / "counter_ended.part").touch()
assert value(STORED) == 4
metrics.prepare(folder)
assert not [*folder.glob("*.db"), *folder.glob("*.part")]
end(start(work))
assert value(STORED) == 2
""",
    )


def test_a_worker_killed_before_its_first_value_does_no_harm(tmp_path: Path) -> None:
    in_master(
        tmp_path,
        """
end(start(work))
(folder / "counter_1.db").touch()
assert value(STORED) == 2
metrics.forget_worker(1)
assert value(STORED) == 2
assert not (folder / "counter_1.db").exists()
""",
    )


def test_the_merge_of_a_master_that_was_killed_breaks_nothing(tmp_path: Path) -> None:
    in_master(
        tmp_path,
        """
end(start(work))
(folder / "counter_ended.part").write_bytes(b"torn" * 100)
end(start(work))
assert value(STORED) == 4
""",
    )


def test_labels_are_of_closed_sets() -> None:
    made = Metrics(settings().data_sources)
    Metrics(settings().data_sources)  # a second one does not clash
    before = series()
    made.called(Outcome.DATA_SOURCE_UNKNOWN, 999, 0.001)
    made.called(Outcome.DATA_SOURCE_UNKNOWN, None, 0.001)
    made.called(Outcome.CONSENT_DENIED, 12345, 0.001, (), "tcf")
    after = series(Waiting(3, 2.5, 4))
    unknown = ("idsync_calls_total", frozenset({("outcome", "data-source-unknown"), ("data_source", "none")}))
    assert after[unknown] - before[unknown] == 2
    assert after["idsync_spool_mappings", frozenset()] == 3
    assert after["idsync_spool_age_seconds", frozenset()] == 2.5
    assert after["idsync_spool_opt_outs", frozenset()] == 4
    denied = ("idsync_denied_calls_total", frozenset({("signal", "tcf")}))
    assert after[denied] - before[denied] == 1
    labels = {label for _, found in after for label in found if label[0] != "le"}
    outcomes = {("outcome", outcome.label) for outcome in Outcome}
    # Other tests of this process have other data sources; of what a call names, nothing becomes a label.
    labels = {(name, value) for name, value in labels if name != "data_source" or value in {"999", "none"}}
    closed = {("reason", reason) for reason in ids.EXPLANATIONS} | {("signal", word) for word in consent.DENIALS}
    assert labels == outcomes | {("data_source", "none")} | closed


def test_each_figure_goes_to_its_metric() -> None:
    made = Metrics(settings().data_sources)
    before = series()
    made.committed(3, 0.5)
    made.store_failed()
    made.spooled(7)
    made.drained(5)
    made.queue(9)
    after = series()
    changed = {name: value - before[name, labels] for (name, labels), value in after.items() if not labels}
    assert changed["idsync_batch_calls_sum"] == 3
    assert changed["idsync_store_seconds_sum"] == pytest.approx(0.5)
    assert changed["idsync_store_failures_total"] == 1
    assert changed["idsync_spooled_calls_total"] == 7
    assert changed["idsync_drained_calls_total"] == 5
    assert after["idsync_queue_calls", frozenset()] == 9


def test_a_spool_that_can_not_be_read_leaves_the_rest() -> None:
    def away() -> Waiting:
        raise StoreUnavailable("the spool is out of reach")

    Metrics(settings().data_sources)
    body, content_type = metrics.expose(away)
    assert content_type.startswith("text/plain; version=0.0.4")
    assert b"idsync_calls_total" in body
    assert b"idsync_spool_mappings" not in body
