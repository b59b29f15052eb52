"""A run, from top to bottom: settle what an earlier run left, plan, freeze, deliver, record.

`state` says what lies where. A run that ends before its manifest is complete has offered nothing to anybody: the next
run starts from the inputs again, under a new name. One that ends later is delivered by the next run: same names, same
bytes. There is one exception: where somebody opted out after the freeze, and no byte was offered to the destination
yet, the run is withdrawn, and its inputs are new again. Once bytes may have been offered the files go out as they are.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from idsync.errors import IdsyncError, UsageError
from idsync.settings import DataSource, Destination, Feed, Settings
from idsync.store import DAY, open_store
from reconcile import durable, encryption, inputs, optouts, rejects, retention, sent, tables
from reconcile.delivery import open_delivery
from reconcile.encryption import Recipient
from reconcile.engine.changes import ChangesEngine
from reconcile.engine.duckdb import DuckEngine, Ints, Outcome, Reject, Sink
from reconcile.errors import RunRefused
from reconcile.feed import Plan, inbound_name, plan
from reconcile.files import FileWriter, FrozenFile
from reconcile.held import Held
from reconcile.inputs import Gathered, Input
from reconcile.ledger import Ledger
from reconcile.lock import exclusive
from reconcile.optouts import OptOuts
from reconcile.progress import Meter, Step
from reconcile.records import Records
from reconcile.state import FeedState, RunFolder, withdraw
from reconcile.summary import Summary

# Up to so many customers the store is asked for them alone; beyond, reading all of it is quicker.
SUBSET_CUSTOMERS = 100_000
# Inputs of this size surely hold more: then the store is read while the inputs are.
LARGE_INPUT_BYTES = 32_000_000
# What is left out for these reasons is no sign of a bad input.
_BLAMELESS = ("held-too-long", "opted-out", "vanished")

Clock = Callable[[], int]


def clock() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def run(settings: Settings, feed_name: str, *, dry_run: bool, meter: Meter, now: Clock = clock) -> Summary:
    """Reconcile the new inputs of a feed and deliver the result. Raises IdsyncError; its exit status tells the kind."""
    job = Job(settings, feed_name, meter, now)
    if dry_run:
        return job.rehearse()
    with exclusive(job.state.lock, feed_name):
        settled, withdrawn = job.settle()
        summary = job.run()
        summary.settled, summary.withdrawn = settled, withdrawn
        retention.purge(job.state, settings, now())
        return summary


class Job:
    """A feed with everything that it refers to."""

    def __init__(self, settings: Settings, feed_name: str, meter: Meter, now: Clock) -> None:
        self._settings, self._meter, self._now = settings, meter, now
        self._feed, self._source, self._destination = resolve(settings, feed_name)
        self._plan: Plan = plan(self._feed, self._source)
        self.state = FeedState(settings.reconcile.state_dir, feed_name)
        self._ledger = Ledger(settings.reconcile.state_dir / "ledger.db")

    # --- the flow --------------------------------------------------------------------------------------------------

    def run(self) -> Summary:
        with self._gathered(self.state.copies, self.state.objects) as gathered:
            return self._run(gathered)

    def _run(self, gathered: Gathered) -> Summary:
        sources, passed_over = self._new(gathered)
        if not sources and not self.state.held.exists() and not (self._feed.changes_only and self.state.sent.exists()):
            return self._summary(status="nothing-to-do", **passed_over)
        run, timestamp = self._ledger.reserve(self._feed.name, self._now() // 1000)
        folder = self.state.run(run)
        summary = self._summary(run=run, planned_at=self._now(), **passed_over)
        summary.inputs = [{"path": source.name, "sha256": source.sha256} for source in sources]
        folder.files.mkdir(parents=True)
        durable.write(folder.plan, _json(summary))
        try:
            self._freeze(folder, timestamp, sources, summary)
        except RunRefused as error:
            summary.status, summary.problem = "refused", error.problem
            shutil.rmtree(folder.files)
            shutil.rmtree(folder.scratch)
            self._end(folder, summary)
            raise
        except IdsyncError as error:
            summary.status, summary.problem = "failed", error.problem
            folder.remove()
            self._ledger.close(run, "failed", summary.as_dict())
            raise
        if not sources and summary.unmatched == summary.held == summary.read and not summary.forgotten:
            folder.remove()
            self._ledger.forget(run)
            return self._summary(status="nothing-to-do", **passed_over, held=summary.held)
        return self._deliver(folder, summary)

    def settle(self) -> tuple[list[str], list[str]]:
        """Finish what interrupted runs left: clear away what was never frozen, deliver what was, or withdraw it.

        The runs delivered, and those withdrawn.
        """
        self.state.clear_leftovers()
        delivered, withdrawn = [], []
        for folder in [folder for folder in self.state.runs() if not folder.is_ended]:
            if folder.may_be_withdrawn and folder.opt_outs.read_text() != self._opt_outs().digest:
                withdraw(folder, self._ledger, "somebody opted out before its files were offered")
                withdrawn.append(folder.name)
            else:
                self._deliver(folder, Summary(**json.loads(folder.manifest.read_text())))
                delivered.append(folder.name)
        self._ledger.abandon(self._feed.name, "interrupted before its files were frozen; its inputs stay new")
        return delivered, withdrawn

    def rehearse(self) -> Summary:
        """All of a run but its traces: the same figures, nothing written but scratch files that go at the end."""
        with TemporaryDirectory(prefix="reconcile-") as scratch, self._gathered(Path(scratch) / "copies") as gathered:
            sources, passed_over = self._new(gathered)
            summary = self._summary(status="dry-run", planned_at=self._now(), **passed_over)
            summary.inputs = [{"path": source.name, "sha256": source.sha256} for source in sources]
            with self._engine(Path(scratch)) as engine:
                self._reconcile(engine, sources, summary, _Nowhere())
        summary.finished_at = self._now()
        return summary

    # --- its steps -------------------------------------------------------------------------------------------------

    def _gathered(self, copies: Path, memory: Path | None = None) -> AbstractContextManager[Gathered]:
        known = partial(self._ledger.known, self._feed.name)
        return inputs.gather(self._feed, copies, self._now(), self._meter, known=known, memory=memory)

    def _new(self, gathered: Gathered) -> tuple[list[Input], dict[str, Any]]:
        """Files with content that no run of this feed has delivered; and how many were passed over, and why."""
        found: dict[str, Input] = {}
        for source in gathered.sources:
            found.setdefault(source.sha256, source)
        known = self._ledger.known(self._feed.name, found) if found else {}
        fresh = [source for source in found.values() if source.sha256 not in known]
        unfinished = gathered.unfinished + gathered.unsettled
        return fresh, {"known_inputs": len(gathered.sources) - len(fresh), "unfinished_inputs": unfinished}

    def _freeze(self, folder: RunFolder, timestamp: int, sources: list[Input], summary: Summary) -> None:
        folder.scratch.mkdir()
        name = inbound_name(self._feed, self._source, timestamp)
        with self._recipient() as recipient:
            packer = recipient.packer if recipient else None
            self._write(folder, FileWriter(folder.files, name, encrypted_by=packer), sources, summary)
        summary.status = "frozen"
        durable.write(folder.manifest, _json(summary))

    def _recipient(self) -> AbstractContextManager[Recipient | None]:
        """Whom the files are encrypted for, if for anybody. Raises ConfigError before anything is read."""
        pgp = self._settings.pgp
        return encryption.opened(pgp) if pgp and self._feed.compression == "pgp" else nullcontext()

    def _write(self, folder: RunFolder, writer: FileWriter, sources: list[Input], summary: Summary) -> None:
        with closing(writer):
            with self._engine(folder.scratch) as engine:
                self._reconcile(engine, sources, summary, writer, folder)
            shutil.rmtree(folder.scratch)
            summary.files = [asdict(file) for file in writer.finish()]

    def _deliver(self, folder: RunFolder, summary: Summary) -> Summary:
        """Offer the frozen files; once all have arrived, record it. Every step can be repeated."""
        step = self._meter.step("delivering", len(summary.files))
        try:
            delivery = open_delivery(self._destination, self._settings)
            if summary.files:
                delivery.reach()
            folder.mark_offered()  # without files, too: it is about to be recorded
            entries = {entry["name"]: entry for entry in summary.files}
            files = [
                FrozenFile(**{key: value for key, value in entry.items() if key != "location"})
                for entry in summary.files
            ]
            for file, location in delivery.deliver_all(folder.files, files, summary.planned_at):
                entries[file.name]["location"] = location
                step.advance(1)
        except IdsyncError as error:
            summary.problem = error.problem
            self._ledger.close(summary.run, "frozen", summary.as_dict())
            raise
        summary.status, summary.problem = "delivered", ""
        self._end(folder, summary)
        return summary

    def _end(self, folder: RunFolder, summary: Summary) -> None:
        """The ledger first: what it does not know is done again, and doing it again is harmless."""
        summary.finished_at = self._now()
        self._ledger.close(summary.run, summary.status, summary.as_dict())
        delivered = summary.status == "delivered"
        if delivered:
            for made, target in ((folder.held, self.state.held), (folder.sent, self.state.sent)):
                if made.exists():
                    target.parent.mkdir(exist_ok=True)
                    durable.move(made, target)
                if target.exists() and not tables.rows(target):
                    target.unlink()
        if delivered and not self._feed.changes_only:
            self.state.sent.unlink(missing_ok=True)  # it would not know of this run
        folder.mark_ended(summary.finished_at, delivered=delivered)

    def _reconcile(
        self, engine: DuckEngine, sources: list[Input], summary: Summary, sink: Sink, folder: RunFolder | None = None
    ) -> None:
        """Read, join, render into `sink`; fill in the summary's figures. Rejects and held records go to `folder`."""
        if self._feed.vanished == "remove":
            sources = sources[-1:]  # each is a full export, and the last by name says it all
        held = Held(self.state.held, self._plan, engine.schema, now=self._now(), days=self._feed.held_days)
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
            entry["records"] = records.counts.get(entry["sha256"], 0)

        # first of all: else a faulty record would bring the ID of somebody who opted out among the rejects
        opt_outs = self._opt_outs()
        if folder:
            durable.write(folder.opt_outs, opt_outs.digest.encode())
        complete = bool(sources) and not records.bad
        left_out = self._take_sent(engine, opt_outs, summary, first=held.count, complete=complete)
        gone = engine.take_opted_out(opt_outs.dpid, opt_outs.tokens)
        left_out += [Reject(int(seq), "", optouts.REASON) for seq in gone]
        # records from hold are always looked at: the rules may have changed since
        suspects = [(0, held.count - 1)] * bool(held.count) + records.suspects
        left_out += held.expired + records.bad + engine.take_faults(suspects)
        left_out = opt_outs.hide(left_out)
        self._check_share(left_out, records, summary, folder)
        for item in engine.items_left_out(suspects):
            places = records.places([seq for seq in item.seqs if seq >= records.first])
            told = [f"{name}, line {line}" for name, line in places.values()] or [str(self.state.held)]
            summary.items_left_out.append(
                {"column": item.column, "reason": item.reason, "items": item.items, "samples": told}
            )
        if isinstance(engine, ChangesEngine):
            engine.pass_over_older(records.starts)
        summary.mappings = ahead.result() if ahead else self._load_mappings(engine, _wanted(engine))
        outcome = engine.render(_Metered(sink, self._meter.step("joining", engine.count())))
        outcome.rejects = list({reject.seq: reject for reject in outcome.rejects}.values())  # it may have several users
        unmatched = _settle_counts(outcome, summary)
        left_out += outcome.rejects
        self._check_share(left_out, records, summary, folder)
        if summary.read != summary.matched + summary.unmatched + summary.rejected:
            raise RunRefused(
                f"{summary.read} records read, but {summary.matched} matched + {summary.unmatched} unmatched + "
                f"{summary.rejected} rejected",
                mend="this is a fault of the program; nothing was delivered; please report it",
            )
        self._write_held(engine, unmatched, held, summary, folder)
        if isinstance(engine, ChangesEngine):
            engine.write_sent(sent.metadata(self._feed, self._source), folder.sent if folder else None)
            if folder:
                durable.sync(folder.sent)
        self._write_rejects(left_out, records, summary, folder)

    def _take_sent(
        self, engine: DuckEngine, opt_outs: OptOuts, summary: Summary, *, first: int, complete: bool
    ) -> list[Reject]:
        """What was sent before; who opted out since, or vanished from a full export. Held records of such customers go.

        The inputs' records are those from number `first` on. They are `complete` unless there was none, or one that
        can't be read and may be anybody's: then nobody vanishes this time.
        """
        if not isinstance(engine, ChangesEngine):
            return []
        known = sent.look(self.state.sent, sent.metadata(self._feed, self._source))
        oldest = self._now() - self._settings.reconcile.keep_state_days * DAY
        count = engine.load_sent(known.path, self._now(), oldest=oldest, marked=known.marked)
        summary.forgotten = engine.take_opted_out_sent(
            opt_outs.dpid, opt_outs.tokens, opt_outs.devices, told=self._feed.optout_removals
        )
        if self._feed.vanished == "keep" or not complete:
            return []
        summary.vanished = engine.take_vanished(first)
        if summary.vanished > self._feed.max_vanished * count and summary.status != "dry-run":
            raise RunRefused(
                f"{summary.vanished:,} of {count:,} users vanished from the export, "
                f"max_vanished is {self._feed.max_vanished:.2%}",
                mend="see that the export is complete, or raise the feed's max_vanished; nothing was delivered",
            )
        return engine.take_before(first, "vanished")

    def _load_mappings(self, engine: DuckEngine, wanted: list[str] | None) -> int:
        """All mappings of the data source, or those of the customers that are wanted."""
        with closing(open_store(self._settings.store)) as store:
            exported = store.export(
                self._source.dpid, self._now(), customer_ids=wanted, latest_only=not self._plan.every_device
            )
            return engine.load_mappings(self._counted("reading mappings", exported))

    def _opt_outs(self) -> OptOuts:
        with closing(open_store(self._settings.store)) as store:
            return OptOuts(self._source.dpid, store.opt_outs())

    def _write_held(
        self, engine: DuckEngine, unmatched: Ints, held: Held, summary: Summary, folder: RunFolder | None
    ) -> None:
        """A feed that holds no longer lets go of what it held: it was read, and counted, by this run."""
        if self._feed.unmatched != "hold" and not held.count:
            return
        waiting = unmatched if self._feed.unmatched == "hold" else np.empty(0, np.int64)
        summary.held = engine.write_held(waiting, held.since, self._now(), folder.held if folder else None)
        if folder:
            durable.sync(folder.held)

    def _check_share(
        self, left_out: list[Reject], records: Records, summary: Summary, folder: RunFolder | None
    ) -> None:
        """Refuse the run when too large a share of the inputs' records was rejected."""
        summary.rejected = len(left_out)
        summary.reasons = rejects.by_reason(left_out)
        faulty = len(left_out) - sum(summary.reasons.get(reason, 0) for reason in _BLAMELESS)
        share = faulty / max(records.read, 1)
        if share <= self._feed.max_rejected or folder is None:
            return
        self._write_rejects(left_out, records, summary, folder)
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in summary.reasons.items())
        raise RunRefused(
            f"{share:.2%} of the records were rejected, max_rejected is {self._feed.max_rejected:.2%}: {reasons}",
            mend=f"see {summary.rejects_file}; mend the input, or raise the feed's max_rejected; nothing was delivered",
        )

    def _write_rejects(
        self, left_out: list[Reject], records: Records, summary: Summary, folder: RunFolder | None
    ) -> None:
        if not left_out or folder is None:
            return
        from_inputs = [reject.seq for reject in left_out if reject.seq >= records.first]
        from_hold = {
            reject.seq: (str(self.state.held), reject.seq + 1) for reject in left_out if reject.seq < records.first
        }
        rejects.write(folder.rejects, left_out, from_hold | records.places(from_inputs))
        summary.rejects_file = str(folder.rejects)

    # --- small things ----------------------------------------------------------------------------------------------

    def _engine(self, scratch: Path) -> DuckEngine:
        kind = ChangesEngine if self._feed.changes_only else DuckEngine
        return kind(self._plan, scratch, self._settings.reconcile.memory_limit)

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


def resolve(settings: Settings, feed_name: str) -> tuple[Feed, DataSource, Destination]:
    """A feed with its data source and destination, which the checked settings are known to hold."""
    feed = settings.feed(feed_name)
    if feed is None:
        names = ", ".join(feed.name for feed in settings.feeds) or "none"
        raise UsageError(f'no feed is called "{feed_name}"', mend=f"feeds in this configuration: {names}")
    source, destination = settings.data_source(feed.data_source), settings.destination(feed.destination)
    if source is None or destination is None:
        raise UsageError(f'feed "{feed_name}" refers to what is not there', mend="check the configuration")
    return feed, source, destination


def _settle_counts(outcome: Outcome, summary: Summary) -> Ints:
    """Fill in the join's figures; the numbers of the unmatched records. A record found unsendable is rejected only."""
    unmatched = np.concatenate([*outcome.unmatched, np.empty(0, np.int64)])
    late = np.array([reject.seq for reject in outcome.rejects], dtype=np.int64)
    kept = unmatched[~np.isin(unmatched, late)]
    summary.unmatched = len(kept)
    summary.matched = outcome.matched - (len(late) - (len(unmatched) - len(kept)))
    summary.silent, summary.unchanged, summary.lines = outcome.silent, outcome.unchanged, outcome.lines
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
