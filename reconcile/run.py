"""A run, from top to bottom: settle what an earlier run left, plan, freeze, deliver, record.

State is a folder a run, and listing it tells how far the run came:

    <state_dir>/runs/<run>/plan.json         planned: inputs, name, time
                          /files/            frozen files, under their final names
                          /rejects.csv.gz    records left out
                          /held.parquet      what waits from now on
                          /manifest.json     frozen: from here on the files are only ever delivered, never made again
                          /DELIVERED         delivered and recorded; or REFUSED

A run that ends before its manifest is complete has offered nothing to anybody: the next run starts from the inputs
again, under a new name. One that ends later is delivered by the next run: same names, same bytes.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from idsync.errors import IdsyncError, UsageError
from idsync.settings import DataSource, DirectoryDestination, Feed, S3Destination, Settings
from idsync.store import open_store
from reconcile import durable, inputs, rejects
from reconcile.delivery import open_delivery
from reconcile.engine.duckdb import DuckEngine, Outcome, Reject, Sink
from reconcile.errors import RunRefused
from reconcile.feed import Plan, inbound_name, plan
from reconcile.files import FileWriter, FrozenFile
from reconcile.held import Held
from reconcile.inputs import Input
from reconcile.ledger import Ledger
from reconcile.lock import exclusive
from reconcile.progress import Meter, Step
from reconcile.records import Records
from reconcile.summary import Summary

# Up to so many customers the store is asked for them alone; beyond, reading all of it is quicker.
SUBSET_CUSTOMERS = 100_000
# Inputs of this size surely hold more: then the store is read while the inputs are.
LARGE_INPUT_BYTES = 32_000_000
_DAY_SECONDS = 86_400

Clock = Callable[[], int]


def clock() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def run(settings: Settings, feed_name: str, *, dry_run: bool, meter: Meter, now: Clock = clock) -> Summary:
    """Reconcile the new inputs of a feed and deliver the result. Raises IdsyncError; its exit status tells the kind."""
    job = Job(settings, feed_name, meter, now)
    if dry_run:
        return job.rehearse()
    with exclusive(job.state / "locks" / f"{feed_name}.lock", feed_name):
        settled = job.settle()
        summary = job.run()
        summary.settled = settled
        job.purge()
        return summary


class Job:
    """A feed with everything that it refers to."""

    def __init__(self, settings: Settings, feed_name: str, meter: Meter, now: Clock) -> None:
        self._settings, self._meter, self._now = settings, meter, now
        self._feed, self._source, self._destination = resolve(settings, feed_name)
        self._plan: Plan = plan(self._feed, self._source)
        self.state = settings.reconcile.state_dir
        self._ledger = Ledger(self.state / "ledger.db")

    # --- the flow --------------------------------------------------------------------------------------------------

    def run(self) -> Summary:
        sources, known = self._new_inputs()
        if not sources and not self._held_path.exists():
            return self._summary(status="nothing-to-do", known_inputs=known)
        run, timestamp = self._ledger.reserve(self._feed.name, self._now() // 1000)
        folder = self.state / "runs" / run
        summary = self._summary(run=run, planned_at=self._now(), known_inputs=known)
        summary.inputs = [{"path": str(source.path), "sha256": source.sha256} for source in sources]
        (folder / "files").mkdir(parents=True)
        durable.write(folder / "plan.json", _json(summary))
        try:
            self._freeze(folder, timestamp, sources, summary)
        except RunRefused as error:
            summary.status, summary.problem = "refused", error.problem
            self._end(folder, summary, "REFUSED")
            raise
        except IdsyncError as error:
            summary.status, summary.problem = "failed", error.problem
            shutil.rmtree(folder)
            self._ledger.close(run, "failed", summary.as_dict())
            raise
        if not sources and not summary.matched and not summary.rejected:
            shutil.rmtree(folder)
            self._ledger.forget(run)
            return self._summary(status="nothing-to-do", known_inputs=known, held=summary.held)
        return self._deliver(folder, summary)

    def settle(self) -> list[str]:
        """Finish what interrupted runs left: clear away what was never frozen, deliver what was; the runs delivered."""
        delivered = []
        for folder in self._folders():
            if (folder / "DELIVERED").exists() or (folder / "REFUSED").exists():
                continue
            if (folder / "manifest.json").exists():
                self._deliver(folder, Summary(**json.loads((folder / "manifest.json").read_text())))
                delivered.append(folder.name)
            else:
                shutil.rmtree(folder)
        self._ledger.abandon(self._feed.name, "interrupted before its files were frozen; its inputs stay new")
        return delivered

    def rehearse(self) -> Summary:
        """All of a run but its traces: the same figures, nothing written but scratch files that go at the end."""
        sources, known = self._new_inputs()
        summary = self._summary(status="dry-run", planned_at=self._now(), known_inputs=known)
        summary.inputs = [{"path": str(source.path), "sha256": source.sha256} for source in sources]
        with TemporaryDirectory(prefix="reconcile-") as scratch, self._engine(Path(scratch)) as engine:
            self._reconcile(engine, sources, summary, _Nowhere())
        summary.finished_at = self._now()
        return summary

    def purge(self) -> None:
        """Remove ended runs past keep_runs_days. The ledger keeps what they did."""
        oldest = self._now() // 1000 - self._settings.reconcile.keep_runs_days * _DAY_SECONDS
        for folder in self._folders():
            ended = (folder / "DELIVERED").exists() or (folder / "REFUSED").exists()
            if ended and int(folder.name.partition("-")[0]) < oldest:
                shutil.rmtree(folder)

    # --- its steps -------------------------------------------------------------------------------------------------

    def _new_inputs(self) -> tuple[list[Input], int]:
        """Files with content that no run of this feed has delivered; and how many known ones and copies there are."""
        paths = inputs.discover(self._feed.inputs)
        step = self._meter.step("looking at inputs", len(paths))
        found: dict[str, Input] = {}
        for path in paths:
            source = inputs.fingerprint(path)
            found.setdefault(source.sha256, source)
            step.advance(1)
        known = self._ledger.known(self._feed.name, found) if found else {}
        fresh = [source for source in found.values() if source.sha256 not in known]
        return fresh, len(paths) - len(fresh)

    def _freeze(self, folder: Path, timestamp: int, sources: list[Input], summary: Summary) -> None:
        scratch = folder / "scratch"
        scratch.mkdir()
        writer = FileWriter(folder / "files", inbound_name(self._feed, self._source, timestamp))
        with self._engine(scratch) as engine:
            self._reconcile(engine, sources, summary, writer, folder)
        shutil.rmtree(scratch)
        summary.files = [asdict(file) for file in writer.finish()]
        summary.status = "frozen"
        durable.write(folder / "manifest.json", _json(summary))

    def _deliver(self, folder: Path, summary: Summary) -> Summary:
        """Offer the frozen files; once all have arrived, record it. Every step can be repeated."""
        delivery = open_delivery(self._destination, self._settings)
        step = self._meter.step("delivering", len(summary.files))
        for entry in summary.files:
            file = FrozenFile(**{key: value for key, value in entry.items() if key != "location"})
            try:
                entry["location"] = delivery.deliver(folder / "files" / file.name, file, summary.planned_at)
            except IdsyncError as error:
                summary.problem = error.problem
                self._ledger.close(summary.run, "frozen", summary.as_dict())
                raise
            step.advance(1)
        summary.status, summary.problem = "delivered", ""
        self._end(folder, summary, "DELIVERED")
        return summary

    def _end(self, folder: Path, summary: Summary, marker: str) -> None:
        """The ledger first: what it does not know is done again, and doing it again is harmless."""
        summary.finished_at = self._now()
        self._ledger.close(summary.run, summary.status, summary.as_dict())
        if marker == "DELIVERED" and (folder / "held.parquet").exists():
            self._held_path.parent.mkdir(exist_ok=True)
            durable.move(folder / "held.parquet", self._held_path)
            if not summary.held:
                self._held_path.unlink()
        durable.write(folder / marker, b"")

    def _reconcile(
        self, engine: DuckEngine, sources: list[Input], summary: Summary, sink: Sink, folder: Path | None = None
    ) -> None:
        """Read, join, render into `sink`; fill in the summary's figures. Rejects and held records go to `folder`."""
        held = Held(self._held_path, self._plan, engine.schema, now=self._now(), days=self._feed.held_days)
        records = Records(sources, self._plan, engine.schema, start=held.count)
        with ThreadPoolExecutor(max_workers=1) as beside:
            ahead = beside.submit(self._load_mappings, engine, None) if _is_large(sources) else None
            engine.stage(self._counted("reading records", chain(held.batches(), records.batches())))
        superseded = engine.superseded(held.count) if held.count else np.empty(0, np.int64)
        engine.drop(superseded)
        summary.superseded = len(superseded)
        summary.from_hold = held.count - len(superseded)
        summary.read = records.read + summary.from_hold
        for entry in summary.inputs:
            entry["records"] = records.counts[entry["sha256"]]

        # records from hold are always looked at: the rules may have changed since
        suspects = [(0, held.count - 1)] * bool(held.count) + records.suspects
        left_out = held.expired + records.bad + engine.take_faults(suspects)
        self._check_share(left_out, records, summary, folder)
        summary.mappings = ahead.result() if ahead else self._load_mappings(engine, _wanted(engine))
        outcome = engine.render(_Metered(sink, self._meter.step("joining", engine.count())))
        unmatched = _settle_counts(outcome, summary)
        left_out += outcome.rejects
        self._check_share(left_out, records, summary, folder)
        if summary.read != summary.matched + summary.unmatched + summary.rejected:
            raise RunRefused(
                f"{summary.read} records read, but {summary.matched} matched + {summary.unmatched} unmatched + "
                f"{summary.rejected} rejected",
                mend="this is a fault of the program; nothing was delivered; please report it",
            )
        if self._feed.unmatched == "hold":
            target = folder / "held.parquet" if folder else None
            summary.held = engine.write_held(unmatched, held.since, self._now(), target)
        self._write_rejects(left_out, records, summary, folder)

    def _load_mappings(self, engine: DuckEngine, wanted: list[str] | None) -> int:
        """All mappings of the data source, or those of the customers that are wanted."""
        with closing(open_store(self._settings.store)) as store:
            exported = store.export(
                self._source.dpid, self._now(), customer_ids=wanted, latest_only=not self._plan.every_device
            )
            return engine.load_mappings(self._counted("reading mappings", exported))

    def _check_share(self, left_out: list[Reject], records: Records, summary: Summary, folder: Path | None) -> None:
        """Refuse the run when too large a share of the inputs' records was rejected."""
        summary.rejected = len(left_out)
        summary.reasons = rejects.by_reason(left_out)
        share = (len(left_out) - summary.reasons.get("held-too-long", 0)) / max(records.read, 1)
        if share <= self._feed.max_rejected or folder is None:
            return
        self._write_rejects(left_out, records, summary, folder)
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in summary.reasons.items())
        raise RunRefused(
            f"{share:.2%} of the records were rejected, max_rejected is {self._feed.max_rejected:.2%}: {reasons}",
            mend=f"see {summary.rejects_file}; mend the input, or raise the feed's max_rejected; nothing was delivered",
        )

    def _write_rejects(self, left_out: list[Reject], records: Records, summary: Summary, folder: Path | None) -> None:
        if not left_out or folder is None:
            return
        path = folder / "rejects.csv.gz"
        from_inputs = [reject.seq for reject in left_out if reject.seq >= records.first]
        from_hold = {
            reject.seq: (str(self._held_path), reject.seq + 1) for reject in left_out if reject.seq < records.first
        }
        rejects.write(path, left_out, from_hold | records.places(from_inputs))
        summary.rejects_file = str(path)

    # --- small things ----------------------------------------------------------------------------------------------

    @property
    def _held_path(self) -> Path:
        return self.state / "held" / f"{self._feed.name}.parquet"

    def _folders(self) -> list[Path]:
        runs = sorted((self.state / "runs").glob("*-*"))
        return [folder for folder in runs if folder.name.partition("-")[2] == self._feed.name]

    def _engine(self, scratch: Path) -> DuckEngine:
        return DuckEngine(self._plan, scratch, self._settings.reconcile.memory_limit)

    def _counted(self, name: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        step = self._meter.step(name)
        for batch in batches:
            step.advance(len(batch))
            yield batch

    def _summary(self, *, status: str = "planned", **figures: object) -> Summary:
        feed = self._feed
        dpid = feed.dpid or self._source.dpid
        known = {"feed": feed.name, "data_source": feed.data_source, "dpid": dpid, "destination": feed.destination}
        return Summary(**known, status=status, **figures)  # type: ignore[arg-type]


def resolve(settings: Settings, feed_name: str) -> tuple[Feed, DataSource, DirectoryDestination | S3Destination]:
    """A feed with its data source and destination, which the checked settings are known to hold."""
    feed = settings.feed(feed_name)
    if feed is None:
        names = ", ".join(feed.name for feed in settings.feeds) or "none"
        raise UsageError(f'no feed is called "{feed_name}"', mend=f"feeds in this configuration: {names}")
    source, destination = settings.data_source(feed.data_source), settings.destination(feed.destination)
    if source is None or destination is None:
        raise UsageError(f'feed "{feed_name}" refers to what is not there', mend="check the configuration")
    return feed, source, destination


def _settle_counts(outcome: Outcome, summary: Summary) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Fill in the join's figures; the numbers of the unmatched records. A record found unsendable is rejected only."""
    unmatched = np.concatenate([*outcome.unmatched, np.empty(0, np.int64)])
    late = np.array([reject.seq for reject in outcome.rejects], dtype=np.int64)
    kept = unmatched[~np.isin(unmatched, late)]
    summary.unmatched = len(kept)
    summary.matched = outcome.matched - (len(late) - (len(unmatched) - len(kept)))
    summary.silent, summary.lines = outcome.silent, outcome.lines
    return kept


def _is_large(sources: list[Input]) -> bool:
    return sum(source.path.stat().st_size for source in sources if source.path.exists()) > LARGE_INPUT_BYTES


def _wanted(engine: DuckEngine) -> list[str] | None:
    """The customers to ask the store for; None for all."""
    return engine.customer_ids() if engine.count() <= SUBSET_CUSTOMERS else None


def _json(summary: Summary) -> bytes:
    return json.dumps(summary.as_dict(), indent=2).encode()


class _Nowhere:
    """A dry run's sink."""

    def write(self, text: memoryview, count: int) -> None:
        pass


class _Metered:
    """Shows lines as they pass."""

    def __init__(self, sink: Sink, step: Step) -> None:
        self._sink, self._step = sink, step

    def write(self, text: memoryview, count: int) -> None:
        self._sink.write(text, count)
        self._step.advance(count)
