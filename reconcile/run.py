"""A run, from top to bottom: settle what an earlier run left, plan, freeze, deliver, record.

`shipment` is the part that ID-sync files share: what survives which death, who may be overtaken by whom.
"""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from idsync.errors import UsageError
from idsync.settings import DataSource, Destination, Feed, Settings
from reconcile import (
    aftermath,
    durable,
    encryption,
    inputs,
    known,
    preview,
    retention,
    room,
    spark,
    statusfile,
    syncfile,
    tables,
)
from reconcile.clock import clock
from reconcile.delivery import open_delivery
from reconcile.encryption import Recipient
from reconcile.feed import Plan, file_name, plan
from reconcile.inputs import Gathered, Input
from reconcile.join import Clock, Join
from reconcile.known import Judged
from reconcile.lock import Tenure, sole
from reconcile.progress import Meter
from reconcile.shipment import Account, Shipment, entries
from reconcile.state import FeedState, RunFolder
from reconcile.summary import Summary

Engine = Literal["duckdb", "spark"]


def run(
    settings: Settings,
    feed_name: str,
    *,
    dry_run: bool,
    meter: Meter,
    now: Clock = clock,
    since: int = 0,
    hold: bool = False,
    engine: Engine = "duckdb",
) -> Summary:
    """Reconcile the new inputs of a feed and deliver the result. Raises IdsyncError; its exit status tells the kind.

    Inputs last written to before `since` (milliseconds) are passed over, and stay new. To `hold` is to freeze the
    files, and leave their delivery to a release.
    """
    if dry_run:
        return rehearse(settings, feed_name, meter=meter, now=now, since=since, engine=engine)[0]
    state = FeedState(settings.reconcile.state_dir, feed_name)
    resolve(settings, feed_name)
    with sole(settings, state) as tenure, statusfile.told(settings.reconcile.state_dir):
        job = Job(settings, feed_name, meter, now, since=since, tenure=tenure, engine=engine)
        settled, withdrawn = job.settle()
        summary = job.run(hold=hold)
        summary.settled, summary.withdrawn = settled, withdrawn
        retention.purge(job.state, settings, now())
        return summary


def rehearse(
    settings: Settings,
    feed_name: str,
    *,
    meter: Meter,
    now: Clock = clock,
    since: int = 0,
    limit: int = 0,
    sample: int = 0,
    engine: Engine = "duckdb",
) -> tuple[Summary, list[preview.Shown]]:
    """A dry run: what a run would do, of the first `limit` records of the inputs or of all; and `sample` records with
    what they become."""
    if (limit or sample) and engine == "spark":
        raise UsageError(
            "--limit and --sample are not for --engine spark", mend="leave --engine away: a few records need no cluster"
        )
    return Job(settings, feed_name, meter, now, since=since, engine=engine).rehearse(limit, sample)


class Job:
    """A feed with everything that it refers to."""

    def __init__(
        self,
        settings: Settings,
        feed_name: str,
        meter: Meter,
        now: Clock,
        *,
        since: int = 0,
        tenure: Tenure | None = None,
        engine: Engine = "duckdb",
    ) -> None:
        self._settings, self._meter, self._now, self._since = settings, meter, now, since
        self._engine = engine
        self._feed, self._source, self._destination = resolve(settings, feed_name)
        self._plan: Plan = plan(self._feed, self._source, settings.data_sources)
        self.state = FeedState(settings.reconcile.state_dir, feed_name)
        kind, opened = (spark.join_class(), spark.opener(tenure)) if engine == "spark" else (Join, open_delivery)
        self._join = kind(settings, self._feed, self._source, plan=self._plan, state=self.state, meter=meter, now=now)
        self.shipment = Shipment(
            settings,
            self.state,
            meter=meter,
            now=now,
            load=lambda manifest: Summary(**manifest),
            tenure=tenure,
            wait_for=self._wait_for_sync_file,
            ended=self._conclude,
            opened=opened,
        )
        self._ledger = self.shipment.ledger
        self._aftermath = aftermath.Aftermath(
            settings, self._feed, self._source, state=self.state, ledger=self._ledger, meter=meter, now=now
        )

    # --- the flow --------------------------------------------------------------------------------------------------

    def run(self, *, hold: bool = False) -> Summary:
        with self._gathered(self.state.copies, self.state.objects) as gathered:
            return self._run(gathered, hold=hold or self.state.next_on_hold.exists())

    def _run(self, gathered: Gathered, *, hold: bool) -> Summary:
        judged, passed_over = self._judge(gathered)
        sources = judged.fresh
        read = {source.sha256 for source in sources}
        if delivered := [_place(copy) for copy in judged.copies if copy.sha256 not in read]:
            self._ledger.keep_copies(self._feed.name, self._ledger.latest(self._feed.name)[0], delivered)
        if not sources and not self.state.held.exists() and not (self._feed.changes_only and self.state.sent.exists()):
            return self._summary(status="nothing-to-do", **passed_over)
        self._check_room(sources)
        summary = self._summary(**passed_over)
        summary.inputs = [_told(source, judged) for source in sources]
        folder, timestamp = self.shipment.begin(summary, on_hold=hold)
        with self.shipment.freezing(folder, summary):
            self._write(folder, timestamp, sources, summary)
        if not sources and summary.unmatched == summary.held == summary.read and not summary.forgotten:
            folder.remove()
            self._ledger.forget(summary.run)
            return self._summary(status="nothing-to-do", **passed_over, held=summary.held)
        if hold:
            self.shipment.keep_on_hold(summary)
            return summary
        return self.shipment.deliver(folder, summary)

    def settle(self) -> tuple[list[str], list[str]]:
        """The earlier runs delivered, and those withdrawn; see `Shipment.settle`."""
        return self.shipment.settle()

    def rehearse(self, limit: int = 0, sample: int = 0) -> tuple[Summary, list[preview.Shown]]:
        """All of a run but its traces: the same figures, nothing written but scratch files that go at the end."""
        with TemporaryDirectory(prefix="reconcile-") as scratch, self._gathered(Path(scratch) / "copies") as gathered:
            judged, passed_over = self._judge(gathered)
            sources = judged.fresh
            summary = self._summary(status="dry-run", planned_at=self._now(), limit=limit, **passed_over)
            summary.inputs = [_told(source, judged) for source in sources]
            kept = tables.telling_damage(self.state.held, self.state.sent)
            with kept, self._join.engine(Path(scratch)) as engine:
                schema, fates = engine.schema, self._join.run(engine, sources, summary, _Nowhere())
                found = self._aftermath.look(engine, fates, Path(scratch), thorough=self._engine == "duckdb")
            summary.finished_at, summary.steps = self._now(), self._meter.take()
            records = self._join.records(sources, schema, start=tables.rows(self.state.held), limit=limit)
            shown = preview.look(self._join, records, fates, sample, Path(scratch)) if sample else []
            self._aftermath.tell(found, summary)
        return summary, shown

    # --- its steps -------------------------------------------------------------------------------------------------

    def _gathered(self, copies: Path, memory: Path | None = None) -> AbstractContextManager[Gathered]:
        return inputs.gather(
            self._feed, copies, self._now(), self._meter, known=self._known, memory=memory, since=self._since
        )

    def _known(self, found: Mapping[str, str]) -> set[str]:
        """Those of these inputs, by place with their SHA-256, that are surely known."""
        name, places = self._feed.name, self._ledger.places(self._feed.name)
        untouched = {place for place, sha256 in found.items() if places.get(place) == sha256}
        if self._feed.changes_only:
            return untouched
        delivered = self._ledger.known(name, found.values())
        return untouched | {place for place, sha256 in found.items() if place not in places and sha256 in delivered}

    def _judge(self, gathered: Gathered) -> tuple[Judged, dict[str, Any]]:
        """The files that are to be read; and how many were passed over, and why."""
        sources, name = gathered.sources, self._feed.name
        places = self._ledger.places(name)
        if self._feed.changes_only:
            judged = known.by_place(sources, places, self._ledger.latest(name)[1])
        else:
            judged = known.by_content(sources, places, self._ledger.known(name, [one.sha256 for one in sources]))
        unfinished = gathered.unfinished + gathered.unsettled
        known_inputs = len(sources) - len(judged.fresh)
        passed_over = {"known_inputs": known_inputs, "unfinished_inputs": unfinished, "older_inputs": gathered.older}
        return judged, passed_over

    def _check_room(self, sources: list[Input]) -> None:
        limits = self._settings.reconcile
        if limits.disk_check:
            earlier = [summary for summary in self._ledger.history(self._feed.name) if summary.get("mappings")]
            room.check(
                limits.state_dir,
                [(source.path.name, source.state[1]) for source in sources],
                mappings=earlier[0]["mappings"] if earlier else None,
                memory_limit=limits.memory_limit,
                plain=self._feed.compression == "none",
            )

    def _write(self, folder: RunFolder, timestamp: int, sources: list[Input], summary: Summary) -> None:
        name = file_name(self._feed, self._plan, timestamp)
        with self._recipient() as recipient:
            packer = recipient.packer if recipient else None
            with closing(self._join.writer(folder.files, name, packer)) as writer:
                with self._join.engine(folder.scratch) as engine:
                    fates = self._join.run(engine, sources, summary, writer, folder)
                    found = self._aftermath.look(engine, fates, folder.scratch)
                    if found:
                        durable.write(folder.why, json.dumps(found).encode())
                summary.files = entries(writer.finish())

    def _recipient(self) -> AbstractContextManager[Recipient | None]:
        """Whom the files are encrypted for, if for anybody. Raises ConfigError before anything is read."""
        pgp = self._settings.pgp
        return encryption.opened(pgp) if pgp and self._feed.compression == "pgp" else nullcontext()

    def _wait_for_sync_file(self, account: Account) -> None:
        if self._feed.after_sync_file:
            # whose IDs Audience Manager has to know: those that stand in the files
            source = self._settings.data_source(self._feed.user_id) or self._source
            syncfile.see_sent(self._settings, source, self._destination, account, self._now())

    def _conclude(self, folder: RunFolder, account: Account) -> None:
        if isinstance(account, Summary):
            self._aftermath.conclude(folder, account)

    # --- small things ----------------------------------------------------------------------------------------------

    def _summary(self, *, status: str = "planned", **figures: object) -> Summary:
        feed = self._feed
        names = {"feed": feed.name, "data_source": feed.data_source, "destination": feed.destination}
        figures = {"dpid": self._plan.dpid, "unmatched_policy": feed.unmatched, **figures}
        return Summary(**names, status=status, **figures)  # type: ignore[arg-type]


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


def _told(source: Input, judged: Judged) -> dict[str, Any]:
    """An input, with others of the same content, for the ledger."""
    copies = [_place(copy) for copy in judged.copies if copy.sha256 == source.sha256]
    return _place(source) | ({"copies": copies} if copies else {})


def _place(source: Input) -> dict[str, str]:
    return {"path": source.name, "sha256": source.sha256, "place": source.place}


class _Nowhere:
    """A dry run's sink."""

    def write(self, text: memoryview, count: int) -> None:
        pass
