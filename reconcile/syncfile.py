"""Files that tell Audience Manager which customer IDs belong to which device: the stored mappings as ID-sync files.

    adobe_id_0_<DPID>[_<DPID>…]_<time>.sync[.<split>][.gz]      <AAM UUID><TAB><customer ID>[<TAB><customer ID>…]

A line has one customer ID for each DPID, and none can be left empty. So the devices that lack an ID in some of the data
sources go into files of their own, one for each combination that there is. A device with several customers in a data
source has several lines; the latest customer of the others stands on each, so that every mapping is on one at least.

What is sent is what was not sent before: a table beside the ledger holds the mappings that the store had when the last
file was delivered. A mapping that the store lost meanwhile leaves the table, so that it is sent again when it returns.
Where several data sources go into one file, a device is sent whole as soon as one of its mappings is new. Audience
Manager forgets mappings of its own accord; `everything` sends all of them again.

A job goes the way of a run: lock, plan, freeze, deliver, record; see `shipment`. It is kept under the name of a feed
that no feed can have, one for each set of data sources and each destination, as what one was told another was not.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from idsync import ids
from idsync.errors import UsageError
from idsync.settings import AnyDestination, DataSource, Settings
from idsync.store import open_store
from reconcile import durable, failpoints, retention, tables
from reconcile.errors import RunHeldBack, RunRefused
from reconcile.failpoints import Point
from reconcile.files import FileWriter
from reconcile.lock import Tenure, sole
from reconcile.mappings import Mappings
from reconcile.names import AAM_UUID_DPID, IdSyncName
from reconcile.optouts import OptOuts
from reconcile.progress import Meter
from reconcile.screen import doubtful_ids, text_buffer
from reconcile.sent import SEEN
from reconcile.shipment import Account, Shipment, entries, resolve_destination
from reconcile.state import FeedState, RunFolder
from reconcile.words import amount

MAX_SOURCES = 8  # what a file's name has room for
ENDS_IN_SPACE = "id-ends-in-space"
EXPLANATIONS = {
    **ids.EXPLANATIONS,
    ENDS_IN_SPACE: "the customer ID ends in a space; Audience Manager drops lines that do",
}
_PREFIX = "id-sync@"  # no feed can be called so: "@" is not among the signs of their names

Compression = Literal["none", "gzip"]
Clock = Callable[[], int]


@dataclass(slots=True)
class SyncSummary:
    """Counts are of mappings, but for `lines`. `mappings` = `new` + `known` + `left_out`, always.

    `known` mappings were sent before; `left_out` ones, by reason in `reasons`, can't be sent. `status` and the rest are
    as in a run's Summary; there are no `inputs`.
    """

    feed: str
    data_sources: list[str]
    dpids: list[int]
    run: str = ""
    status: str = "planned"
    destination: str = ""
    planned_at: int = 0
    frozen_at: int = 0
    finished_at: int = 0
    everything: bool = False
    mappings: int = 0
    new: int = 0
    known: int = 0
    left_out: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    lines: int = 0
    inputs: list[dict[str, Any]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def feed_name(dpids: Sequence[int], destination: str) -> str:
    """Under which the ledger and the state folder keep the ID-sync files of these data sources for a destination."""
    return f"{_PREFIX}{'_'.join(str(dpid) for dpid in sorted(dpids))}@{destination}"


def dpids_of(name: str) -> frozenset[int]:
    """Those whose ID-sync files are kept under this name; none for that of a feed."""
    if not name.startswith(_PREFIX):
        return frozenset()
    dpids, _, _ = name.removeprefix(_PREFIX).partition("@")
    return frozenset(int(dpid) for dpid in dpids.split("_"))


def destination_of(name: str) -> str:
    """Where the ID-sync files that are kept under this name go."""
    return name.removeprefix(_PREFIX).partition("@")[2]


def sync_file(
    settings: Settings,
    names: Sequence[str],
    *,
    destination: str | None = None,
    everything: bool = False,
    compression: Compression = "gzip",
    meter: Meter,
    now: Clock,
) -> SyncSummary:
    """Freeze and deliver what is new of the mappings of these data sources, columns in their order; `now` in ms.

    Raises IdsyncError; its exit status tells the kind.
    """
    sources = resolve_sources(settings, names)
    target = resolve_destination(settings, destination)
    state = FeedState(settings.reconcile.state_dir, feed_name([source.dpid for source in sources], target.name))
    with sole(settings, state) as tenure:
        job = Job(settings, sources, state, meter=meter, now=now, tenure=tenure)
        settled, withdrawn = job.shipment.settle()
        summary = job.run(target, everything=everything, compression=compression)
        summary.settled, summary.withdrawn = settled, withdrawn
        retention.purge(job.state, settings, now())
        return summary


def see_sent(settings: Settings, source: DataSource, destination: AnyDestination, account: Account, now: int) -> None:
    """Raise RunHeldBack unless ID-sync files with every mapping that frozen files may rest upon were delivered.

    They were where a job read the mappings after the freeze, or where the store has none that was not sent. `source` is
    that of the files' user IDs, `destination` that of the files. ID-sync files may go another way than data; but what
    the beta environment was told, the other was not.
    """
    ways = {way.name for way in settings.destinations if _is_beta(way) == _is_beta(destination)}
    kept = [(path.stem, path) for path in settings.reconcile.state_dir.glob("sent/*.parquet")]
    sent = [path for name, path in kept if source.dpid in dpids_of(name) and destination_of(name) in ways]
    if any(_read_at(path) >= account.frozen_at for path in sent):
        return
    with (
        tables.telling_damage(*sent),
        TemporaryDirectory(prefix="reconcile-") as folder,
        closing(open_store(settings.store)) as store,
        Mappings([source], Path(folder), settings.reconcile.memory_limit) as mappings,
    ):
        exported = store.export(source.dpid, now)
        mappings.load(source.dpid, (_sendable(batch, source.id_rules, Counter()) for batch in exported))
        mappings.compare(sent, everything=False)
        new = mappings.count_new()
    if new:
        named = f" --destination {destination.name}" if len(settings.destinations) > 1 else ""
        raise RunHeldBack(
            f"run {account.run} waits for an ID-sync file: {amount(new, 'mapping')} of {source.name} "
            f"{'was' if new == 1 else 'were'} in none that was delivered",
            mend=f"python -m reconcile sync-file {source.name}{named}, then run again: the frozen files go then",
        )


def _is_beta(destination: AnyDestination) -> bool:
    return getattr(destination, "environment", None) == "beta"


def _read_at(path: Path) -> int:
    """When the mappings in this table were read, in milliseconds."""
    with tables.reading(path), parquet.ParquetFile(path) as file:
        batch = next(file.iter_batches(batch_size=1, columns=[SEEN]), None)
    return int(batch.column(0)[0].as_py()) if batch else 0


def resolve_sources(settings: Settings, names: Sequence[str]) -> list[DataSource]:
    """The data sources of these names. Raises UsageError for one that is not there, or twice."""
    known = ", ".join(source.name for source in settings.data_sources)
    found = []
    for name in names:
        source = settings.data_source(name)
        if source is None:
            raise UsageError(f'no data source is called "{name}"', mend=f"data sources in this configuration: {known}")
        if source in found:
            raise UsageError(f'the data source "{name}" is named twice', mend="name each once")
        found.append(source)
    if not 0 < len(found) <= MAX_SOURCES:
        raise UsageError(f"{len(found)} data sources", mend=f"name one to {MAX_SOURCES}: the file's name has each DPID")
    return found


def told(summary: SyncSummary) -> Iterator[str]:
    """What happened, line by line, for people."""
    for earlier in summary.settled:
        yield f"run {earlier} had not been delivered: its frozen files went first"
    for earlier in summary.withdrawn:
        yield f"run {earlier} was withdrawn: somebody opted out before its files were offered to anybody"
    counts = f"{amount(summary.mappings, 'mapping')}: {summary.new:,} new, {summary.known:,} sent before"
    yield f"{counts}, {summary.left_out:,} left out"
    for reason, count in summary.reasons.items():
        yield f"  {reason} {count:,}: {EXPLANATIONS[reason]}"
    for file in summary.files:
        yield f"{file['location']}  {amount(file['lines'], 'line')}, {file['bytes']:,} bytes"
    if not summary.files:
        yield "nothing to send, so there is no file: Audience Manager takes no empty ones"


class Job:
    """The ID-sync files of some data sources."""

    def __init__(
        self,
        settings: Settings,
        sources: Sequence[DataSource],
        state: FeedState,
        *,
        meter: Meter,
        now: Clock,
        tenure: Tenure | None,
    ) -> None:
        self._settings, self._sources, self.state, self._meter, self._now = settings, sources, state, meter, now
        self.shipment = Shipment(
            settings,
            self.state,
            meter=meter,
            now=now,
            load=lambda manifest: SyncSummary(**manifest),
            tenure=tenure,
        )

    def run(self, destination: AnyDestination, *, everything: bool, compression: Compression) -> SyncSummary:
        summary = SyncSummary(
            feed=self.state.feed,
            data_sources=[source.name for source in self._sources],
            dpids=[source.dpid for source in self._sources],
            destination=destination.name,
            everything=everything,
        )
        folder, timestamp = self.shipment.begin(summary)
        with self.shipment.freezing(folder, summary):
            self._write(folder, timestamp, summary, compression)
        if not summary.files:
            self._keep_sent(folder)  # it has nothing that was not sent, only less perhaps
            folder.remove()
            self.shipment.ledger.forget(summary.run)
            summary.run, summary.status = "", "nothing-to-do"
            return summary
        return self.shipment.deliver(folder, summary)

    # --- steps -----------------------------------------------------------------------------------------------------

    def _write(self, folder: RunFolder, timestamp: int, summary: SyncSummary, compression: Compression) -> None:
        # before the mappings: whoever opts out meanwhile makes another digest
        durable.write(folder.opt_outs, self._opt_outs().digest.encode())
        with Mappings(self._sources, folder.scratch, self._settings.reconcile.memory_limit) as mappings:
            self._load(mappings, summary)
            mappings.compare([self.state.sent] * self.state.sent.exists(), everything=summary.everything)
            kept = summary.mappings - summary.left_out
            summary.new = mappings.count_new()
            summary.known = kept - summary.new
            if mappings.count() != kept:
                raise RunRefused(
                    f"{mappings.count()} of {kept} mappings are left after the load",
                    mend="this is a fault of the program; nothing was delivered; please report it",
                )
            for dpids, batches in mappings.lines():
                summary.files += self._write_lines(folder, dpids, timestamp, batches, compression)
            summary.lines = sum(file["lines"] for file in summary.files)
            if summary.lines != mappings.rendered:
                raise RunRefused(
                    f"{summary.lines} of {mappings.rendered} lines were written",
                    mend="this is a fault of the program; nothing was delivered; please report it",
                )
            mappings.write_sent(folder.sent, summary.planned_at)
        durable.sync(folder.sent)

    def _load(self, mappings: Mappings, summary: SyncSummary) -> None:
        left_out: Counter[str] = Counter()
        step = self._meter.step("reading mappings")

        def sendable(source: DataSource, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                step.advance(len(batch))
                summary.mappings += len(batch)
                yield _sendable(batch, source.id_rules, left_out)

        for source in self._sources:
            with closing(open_store(self._settings.store)) as store:
                mappings.load(source.dpid, sendable(source, store.export(source.dpid, self._now())))
        summary.left_out, summary.reasons = left_out.total(), dict(left_out.most_common())

    def _write_lines(
        self,
        folder: RunFolder,
        dpids: Sequence[int],
        timestamp: int,
        batches: Iterator[pa.RecordBatch],
        compression: Compression,
    ) -> list[dict[str, Any]]:
        suffix: Literal["", "gz"] = "gz" if compression == "gzip" else ""
        name = IdSyncName("adobe_id", (AAM_UUID_DPID, *dpids), timestamp, suffix=suffix)
        step = self._meter.step("writing lines")
        with closing(FileWriter(folder.files, name)) as writer:
            for batch in batches:
                lengths, text = text_buffer(batch.column("line"))
                writer.write(text, len(lengths))
                step.advance(len(lengths))
            return entries(writer.finish())

    def _keep_sent(self, folder: RunFolder) -> None:
        if folder.sent.exists():  # else an earlier try came so far
            self.state.sent.parent.mkdir(exist_ok=True)
            durable.move(folder.sent, self.state.sent)
        failpoints.reached(Point.SENT_KEPT)

    def _opt_outs(self) -> OptOuts:
        with closing(open_store(self._settings.store)) as store:
            return OptOuts(self._sources[0].dpid, store.opt_outs())


def _sendable(batch: pa.RecordBatch, rules: ids.IdRules, left_out: Counter[str]) -> pa.RecordBatch:
    """The mappings whose customer ID can stand in a file. The rules may have changed since it was stored."""
    customers = batch.column("customer_id")
    keep = np.ones(len(batch), bool)
    for row in np.flatnonzero(doubtful_ids(customers, rules)):
        customer_id = customers[int(row)].as_py()
        reason = ids.customer_id_fault(customer_id, rules) or (ENDS_IN_SPACE if customer_id.endswith(" ") else None)
        if reason:
            keep[row] = False
            left_out[reason] += 1
    return batch if keep.all() else batch.filter(pa.array(keep))
