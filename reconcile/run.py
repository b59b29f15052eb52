"""A run, from top to bottom: settle what an earlier run left, plan, freeze, deliver, record.

`state` says what lies where. A run that ends before its manifest is complete has offered nothing to anybody: the next
run starts from the inputs again, under a new name. One that ends later is delivered by the next run: same names, same
bytes. There is one exception: where somebody opted out after the freeze, and no byte was offered to the destination
yet, the run is withdrawn, and its inputs are new again. Once bytes may have been offered the files go out as they are.
"""

import json
import shutil
import time
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from idsync.errors import IdsyncError, UsageError
from idsync.settings import DataSource, Destination, Feed, Settings
from reconcile import durable, encryption, inputs, retention, tables
from reconcile.delivery import open_delivery
from reconcile.encryption import Recipient
from reconcile.errors import RunRefused
from reconcile.feed import Plan, inbound_name, plan
from reconcile.files import FileWriter, FrozenFile
from reconcile.inputs import Gathered, Input
from reconcile.join import Clock, Join
from reconcile.ledger import Ledger
from reconcile.lock import exclusive
from reconcile.progress import Meter
from reconcile.state import FeedState, RunFolder, withdraw
from reconcile.summary import Summary


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
        self._join = Join(settings, self._feed, self._source, plan=self._plan, state=self.state, meter=meter, now=now)
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
            if folder.may_be_withdrawn and folder.opt_outs.read_text() != self._join.opt_outs().digest:
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
            with self._join.engine(Path(scratch)) as engine:
                self._join.run(engine, sources, summary, _Nowhere())
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
            with self._join.engine(folder.scratch) as engine:
                self._join.run(engine, sources, summary, writer, folder)
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

    # --- small things ----------------------------------------------------------------------------------------------

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


def _json(summary: Summary) -> bytes:
    return json.dumps(summary.as_dict(), indent=2).encode()


class _Nowhere:
    """A dry run's sink."""

    def write(self, text: memoryview, count: int) -> None:
        pass
