"""Prometheus metrics of the endpoint, summed over its worker processes.

    folder/counter_<pid>.db, histogram_<pid>.db, gauge_livesum_<pid>.db     one of each a worker, mapped into its memory
           counter_ended.db, histogram_ended.db                             the sums of the workers that have ended

prometheus_client decides at its import, by $PROMETHEUS_MULTIPROC_DIR, whether values live in such files or in this
process alone. That is why it is imported inside the functions only: `prepare` must come first. Without `prepare`, under
another WSGI server, each process counts for itself.
"""
# ruff: noqa: PLC0415

import fcntl
import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from idsync import consent, ids
from idsync.errors import IdsyncError
from idsync.outcomes import Outcome
from idsync.settings import DataSource
from idsync.store.spool import Waiting

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric

NO_DATA_SOURCE = "none"
_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_LOCK = "lock"  # no scrape sees a worker both by itself and among those that ended, or finds its file gone
_LOCK_SECONDS = 1.0
BOUNDS_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

log = logging.getLogger(__name__)


class Tally(NamedTuple):
    """Counts since some moment: `calls` by outcome, in the order of Outcome; `denied` by signal, in that of
    consent.DENIALS; `within`: of all calls, how many were answered within each of BOUNDS_SECONDS seconds, and at all.
    """

    calls: tuple[float, ...]
    denied: tuple[float, ...]
    within: tuple[float, ...]
    store_failures: float
    spooled: float


class Sums(NamedTuple):
    """`counted` since the service began; `queue`: calls that wait for their write now, on all workers."""

    counted: Tally
    queue: float


class Metrics:
    """What one process counts. All series are there from the start, at zero: a rate needs a first value."""

    def __init__(self, data_sources: Sequence[DataSource]) -> None:
        families = _families()
        self._families = families
        names = {None: NO_DATA_SOURCE} | {source.dpid: source.name for source in data_sources}
        # Looking a child up by its labels costs several times what counting does.
        self._calls = {
            (outcome, dpid): families.calls.labels(outcome.label, name)
            for outcome in Outcome
            for dpid, name in names.items()
        }
        self._refused_ids = {reason: families.refused_ids.labels(reason) for reason in ids.EXPLANATIONS}
        self._denied_calls: dict[str, Counter] = {word: families.denied_calls.labels(word) for word in consent.DENIALS}

    def called(
        self, outcome: Outcome, dpid: int | None, seconds: float, reasons: Sequence[str] = (), denial: str = ""
    ) -> None:
        """A sync call was answered, `seconds` after it was read; `reasons`: the rules that IDs on it break; `denial`:
        the word of a verdict that denies consent.
        """
        (self._calls.get((outcome, dpid)) or self._calls[outcome, None]).inc()
        self._families.call_seconds.observe(seconds)
        for reason in reasons:
            self._refused_ids[reason].inc()
        if denial:
            self._denied_calls[denial].inc()

    def committed(self, calls: int, seconds: float) -> None:
        """The store took a batch."""
        self._families.batch_calls.observe(calls)
        self._families.store_seconds.observe(seconds)

    def store_failed(self) -> None:
        """The store did not take a batch."""
        self._families.store_failures.inc()

    def spooled(self, calls: int) -> None:
        self._families.spooled_calls.inc(calls)

    def drained(self, calls: int) -> None:
        """Calls went from the spool into the store."""
        self._families.drained_calls.inc(calls)

    def queue(self, depth: int) -> None:
        """So many calls of this process wait for their write now."""
        self._families.queue_calls.set(depth)


def expose(spool: Callable[[], Waiting] | None) -> tuple[bytes, str]:
    """Body and Content-Type of /metrics. `spool` tells what waits there."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

    registry = CollectorRegistry()
    registry.register(_Collected(_collected()))
    registry.register(_Collected(_of_the_spool(spool)))
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


def sums() -> Sums:
    """What all workers of the service counted, also those that have ended; without `prepare`, this process."""
    values: defaultdict[tuple[str, str], float] = defaultdict(float)
    for metric in _collected():
        for sample in metric.samples:
            labels = sample.labels
            label = labels.get("outcome") or labels.get("signal") or labels.get("le") or ""
            values[sample.name, label] += sample.value
    return Sums(
        Tally(
            tuple(values["idsync_calls_total", outcome.label] for outcome in Outcome),
            tuple(values["idsync_denied_calls_total", word] for word in consent.DENIALS),
            tuple(values["idsync_call_seconds_bucket", _le(bound)] for bound in (*BOUNDS_SECONDS, math.inf)),
            values["idsync_store_failures_total", ""],
            values["idsync_spooled_calls_total", ""],
        ),
        values["idsync_queue_calls", ""],
    )


def prepare(folder: Path) -> None:
    """In gunicorn's master, before the first worker: an empty folder, so that no earlier run counts again."""
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in ("*.db", "*.part", "status*"):
        for stale in folder.glob(pattern):
            stale.unlink()
    os.environ[_VARIABLE] = str(folder.absolute())


def forget_worker(pid: int) -> None:
    """In gunicorn's master, when a worker has ended and before another may get its pid.

    Its gauges go. What it counted is added to the file of those that ended: a sum that went down would look like a
    restart to Prometheus, and one file a worker that ever was would fill the folder.
    """
    folder = shared_folder()
    if folder is None:
        return
    try:
        with locked(folder / _LOCK, fcntl.LOCK_EX):
            for gauge in folder.glob(f"gauge_live*_{pid}.db"):
                gauge.unlink()
            for kind in ("counter", "histogram"):
                _merge(folder / f"{kind}_{pid}.db", folder / f"{kind}_ended.db")
    except OSError as error:
        # The master must live. Files that stay are still counted, so only the folder is a little fuller.
        log.warning("The metrics of worker %d stay in their own files: %s", pid, error)


# --- the metrics -----------------------------------------------------------------------------------------------------


class _Families(NamedTuple):
    registry: "CollectorRegistry"
    calls: "Counter"
    refused_ids: "Counter"
    denied_calls: "Counter"
    call_seconds: "Histogram"
    batch_calls: "Histogram"
    store_seconds: "Histogram"
    store_failures: "Counter"
    spooled_calls: "Counter"
    drained_calls: "Counter"
    queue_calls: "Gauge"


@cache
def _families() -> _Families:
    """Once a process: two objects of one name would write to one place in the file, over each other."""
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, values

    if values.ValueClass._multiprocess:
        pid = os.getpid()  # else asked for with every count: a system call, a tenth of the time of a sync call
        values.ValueClass = values.MultiProcessValue(lambda: pid)  # type: ignore[no-untyped-call]
    disable_created_metrics()  # type: ignore[no-untyped-call]  # they don't exist across processes
    own = CollectorRegistry()
    return _Families(
        own,
        Counter("idsync_calls", "Answered sync calls.", ("outcome", "data_source"), registry=own),
        Counter("idsync_refused_ids", "Customer IDs on calls, by the rule that they break.", ("reason",), registry=own),
        Counter("idsync_denied_calls", "Calls without consent, by the signal that says so.", ("signal",), registry=own),
        Histogram(
            "idsync_call_seconds", "From a sync call's arrival to its answer.", buckets=BOUNDS_SECONDS, registry=own
        ),
        Histogram("idsync_batch_calls", "Calls that one write to the store held.", buckets=_BATCHES, registry=own),
        Histogram("idsync_store_seconds", "How long the store took for a batch.", buckets=BOUNDS_SECONDS, registry=own),
        Counter("idsync_store_failures", "Batches that the store did not take.", registry=own),
        Counter("idsync_spooled_calls", "Calls written to the spool.", registry=own),
        Counter("idsync_drained_calls", "Calls taken from the spool into the store.", registry=own),
        Gauge("idsync_queue_calls", "Calls that wait for their write.", registry=own, multiprocess_mode="livesum"),
    )


def _of_the_spool(spool: Callable[[], Waiting] | None) -> Iterator["Metric"]:
    """Asked at the scrape, as the spool is shared by all processes. One that can't be read is left out."""
    from prometheus_client.core import GaugeMetricFamily

    if spool is None:
        return
    try:
        waiting = spool()
    except IdsyncError:
        return
    yield GaugeMetricFamily("idsync_spool_mappings", "Mappings in the spool.", waiting.mappings)
    yield GaugeMetricFamily("idsync_spool_age_seconds", "How long the oldest of them has waited.", waiting.age_seconds)
    yield GaugeMetricFamily("idsync_spool_opt_outs", "Opt-outs in the spool.", waiting.opt_outs)


def _collected() -> Iterable["Metric"]:
    from prometheus_client import values

    return _of_all_processes() if values.ValueClass._multiprocess else _families().registry.collect()


def _le(bound: float) -> str:
    """The label of a bucket."""
    from prometheus_client.utils import floatToGoString

    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]


class _Collected:
    """A registry asks objects, and asks them once."""

    def __init__(self, metrics: Iterable["Metric"]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable["Metric"]:
        return self._metrics


# --- files -----------------------------------------------------------------------------------------------------------


def shared_folder() -> Path | None:
    """Where the workers of one service keep what they share for as long as it runs; None without `prepare`."""
    return Path(folder) if (folder := os.environ.get(_VARIABLE)) else None


def _of_all_processes() -> Iterable["Metric"]:
    from prometheus_client.multiprocess import MultiProcessCollector

    folder = shared_folder()
    if folder is None:
        return []
    with locked(folder / _LOCK, fcntl.LOCK_SH):
        # A file without a byte is of a worker that starts just now.
        files = [str(path) for path in sorted(folder.glob("*.db")) if path.stat().st_size]
        return list(MultiProcessCollector.merge(files))  # type: ignore[no-untyped-call]


def _merge(source: Path, target: Path) -> None:
    """Add the values of `source` to those of `target`. Killed in between, values count twice, but no file is broken."""
    from prometheus_client.mmap_dict import MmapedDict

    if not source.exists():
        return
    files = [path for path in (target, source) if path.exists() and path.stat().st_size]
    sums: defaultdict[str, float] = defaultdict(float)
    for path in files:
        for key, value, *_ in MmapedDict.read_all_values_from_file(path):  # type: ignore[no-untyped-call]
            sums[key] += value
    if sums:
        part = target.with_suffix(".part")
        part.unlink(missing_ok=True)
        with part.open("wb") as file:
            # Mapped memory that finds the disk full kills the process; this raises.
            os.posix_fallocate(file.fileno(), 0, sum(path.stat().st_size for path in files))
        ended = MmapedDict(str(part))  # type: ignore[no-untyped-call]
        for key, value in sums.items():
            ended.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
        ended.close()  # type: ignore[no-untyped-call]
        part.rename(target)
    source.unlink()


@contextmanager
def locked(path: Path, how: int) -> Iterator[None]:
    """Hold a lock between processes, LOCK_EX or LOCK_SH.

    A process that hangs in the middle must not hang the others, too: after a second it goes on without.
    """
    with path.open("ab") as lock:
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, how | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    break
                time.sleep(0.005)
        yield
