"""Files that tell Audience Manager which customer IDs belong to which device: the stored mappings as ID-sync files.

    adobe_id_0_<DPID>[_<DPID>…]_<time>.sync[.<split>][.gz]      <AAM UUID><TAB><customer ID>[<TAB><customer ID>…]

A line has one customer ID for each DPID, and none can be left empty. So the devices that lack an ID in some of the data
sources go into files of their own, one for each combination that there is. A device with several customers in a data
source has several lines; the latest customer of the others stands on each, so that every mapping is on one at least.

What is sent is what was not sent before: a table beside the ledger holds the mappings that the store had when the last
file was delivered. A mapping that the store lost meanwhile leaves the table, so that it is sent again when it returns.
Where several data sources go into one file, a device is sent whole as soon as one of its mappings is new. Audience
Manager forgets mappings of its own accord; `everything` sends all of them again.

A job goes the way of a run: lock, plan, freeze, deliver, record; `run` and `state` say what survives which death. It is
kept under the name of a feed that no feed can have, one for each set of data sources.
"""

# ruff: noqa: S608  queries are built of DPIDs and quoted literals only

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import duckdb
import numpy as np
import pyarrow as pa

from idsync import ids
from idsync.errors import IdsyncError, UsageError
from idsync.settings import AnyDestination, DataSource, Settings
from idsync.store import open_store
from idsync.store.base import EXPORT_SCHEMA
from reconcile import durable, retention
from reconcile.delivery import open_delivery
from reconcile.engine import sql
from reconcile.engine.duckdb import Guard
from reconcile.errors import RunRefused
from reconcile.files import FileWriter, FrozenFile
from reconcile.ledger import Ledger
from reconcile.lock import exclusive
from reconcile.names import AAM_UUID_DPID, IdSyncName, InboundName
from reconcile.optouts import OptOuts
from reconcile.progress import Meter
from reconcile.report import amount
from reconcile.screen import doubtful_ids, text_buffer
from reconcile.state import FeedState, RunFolder, withdraw

BATCH_ROWS = 100_000
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
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def feed_name(dpids: Sequence[int]) -> str:
    """Under which the ledger and the state folder keep the ID-sync files of these data sources."""
    return _PREFIX + "_".join(str(dpid) for dpid in sorted(dpids))


def dpids_of(name: str) -> frozenset[int]:
    """Those whose ID-sync files are kept under this name; none for that of a feed."""
    if not name.startswith(_PREFIX):
        return frozenset()
    return frozenset(int(dpid) for dpid in name.removeprefix(_PREFIX).split("_"))


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
    job = _Job(settings, sources, target, compression=compression, meter=meter, now=now)
    with exclusive(job.state.lock, job.state.feed):
        settled, withdrawn = job.settle()
        summary = job.run(everything=everything)
        summary.settled, summary.withdrawn = settled, withdrawn
        retention.purge(job.state, settings, now())
        return summary


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


def resolve_destination(settings: Settings, name: str | None) -> AnyDestination:
    """The destination of this name, or the only one. Raises UsageError."""
    known = ", ".join(destination.name for destination in settings.destinations) or "none"
    if name is None:
        if len(settings.destinations) == 1:
            return settings.destinations[0]
        raise UsageError("no destination is named", mend=f"give --destination with one of: {known}")
    found = settings.destination(name)
    if found is None:
        raise UsageError(f'no destination is called "{name}"', mend=f"destinations in this configuration: {known}")
    return found


def told(summary: SyncSummary) -> Iterator[str]:
    """What happened, line by line, for people."""
    for earlier in summary.settled:
        yield f"run {earlier} had been interrupted: its frozen files were delivered first"
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


class _Job:
    def __init__(
        self,
        settings: Settings,
        sources: Sequence[DataSource],
        destination: AnyDestination,
        *,
        compression: Compression,
        meter: Meter,
        now: Clock,
    ) -> None:
        self._settings, self._sources, self._destination = settings, sources, destination
        self._compression, self._meter, self._now = compression, meter, now
        self.state = FeedState(settings.reconcile.state_dir, feed_name([source.dpid for source in sources]))
        self._ledger = Ledger(settings.reconcile.state_dir / "ledger.db")

    def run(self, *, everything: bool) -> SyncSummary:
        run, timestamp = self._ledger.reserve(self.state.feed, self._now() // 1000)
        folder = self.state.run(run)
        summary = SyncSummary(
            feed=self.state.feed,
            data_sources=[source.name for source in self._sources],
            dpids=[source.dpid for source in self._sources],
            run=run,
            destination=self._destination.name,
            planned_at=self._now(),
            everything=everything,
        )
        folder.files.mkdir(parents=True)
        durable.write(folder.plan, _json(summary))
        try:
            self._freeze(folder, timestamp, summary)
        except IdsyncError as error:
            summary.status, summary.problem = "failed", error.problem
            folder.remove()
            self._ledger.close(run, "failed", summary.as_dict())
            raise
        if not summary.files:
            self._keep_sent(folder)  # it has nothing that was not sent, only less perhaps
            folder.remove()
            self._ledger.forget(run)
            summary.run, summary.status = "", "nothing-to-do"
            return summary
        return self._deliver(folder, summary, self._destination)

    def settle(self) -> tuple[list[str], list[str]]:
        """As that of a run; what was meant for another destination goes there."""
        self.state.clear_leftovers()
        delivered, withdrawn = [], []
        for folder in [folder for folder in self.state.runs() if not folder.is_ended]:
            if folder.may_be_withdrawn and folder.opt_outs.read_text() != self._opt_outs().digest:
                withdraw(folder, self._ledger, "somebody opted out before its files were offered")
                withdrawn.append(folder.name)
            else:
                summary = SyncSummary(**json.loads(folder.manifest.read_text()))
                self._deliver(folder, summary, resolve_destination(self._settings, summary.destination))
                delivered.append(folder.name)
        self._ledger.abandon(self.state.feed, "interrupted before its files were frozen")
        return delivered, withdrawn

    # --- steps -----------------------------------------------------------------------------------------------------

    def _freeze(self, folder: RunFolder, timestamp: int, summary: SyncSummary) -> None:
        folder.scratch.mkdir()
        # before the mappings: whoever opts out meanwhile makes another digest
        durable.write(folder.opt_outs, self._opt_outs().digest.encode())
        with _Mappings(self._sources, folder.scratch, self._settings.reconcile.memory_limit) as mappings:
            self._load(mappings, summary)
            mappings.compare(self.state.sent if self.state.sent.exists() else None, everything=summary.everything)
            kept = summary.mappings - summary.left_out
            summary.new = mappings.count_new()
            summary.known = kept - summary.new
            if mappings.count() != kept:
                raise RunRefused(
                    f"{mappings.count()} of {kept} mappings are left after the load",
                    mend="this is a fault of the program; nothing was delivered; please report it",
                )
            for dpids, batches in mappings.lines():
                summary.files += self._write(folder, dpids, timestamp, batches)
            summary.lines = sum(file["lines"] for file in summary.files)
            if summary.lines != mappings.rendered:
                raise RunRefused(
                    f"{summary.lines} of {mappings.rendered} lines were written",
                    mend="this is a fault of the program; nothing was delivered; please report it",
                )
            mappings.write_sent(folder.sent, summary.planned_at)
        durable.sync(folder.sent)
        shutil.rmtree(folder.scratch)
        summary.status = "frozen"
        durable.write(folder.manifest, _json(summary))

    def _load(self, mappings: "_Mappings", summary: SyncSummary) -> None:
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

    def _write(
        self, folder: RunFolder, dpids: Sequence[int], timestamp: int, batches: Iterator[pa.RecordBatch]
    ) -> list[dict[str, Any]]:
        suffix: Literal["", "gz"] = "gz" if self._compression == "gzip" else ""
        name = IdSyncName("adobe_id", (AAM_UUID_DPID, *dpids), timestamp, suffix=suffix)
        step = self._meter.step("writing lines")
        with closing(FileWriter(folder.files, cast(InboundName, name))) as writer:
            for batch in batches:
                lengths, text = text_buffer(batch.column("line"))
                writer.write(text, len(lengths))
                step.advance(len(lengths))
            return [asdict(file) for file in writer.finish()]

    def _deliver(self, folder: RunFolder, summary: SyncSummary, destination: AnyDestination) -> SyncSummary:
        """As that of a run."""
        step = self._meter.step("delivering", len(summary.files))
        entries = {entry["name"]: entry for entry in summary.files}
        files = [
            FrozenFile(**{key: value for key, value in entry.items() if key != "location"}) for entry in summary.files
        ]
        try:
            delivery = open_delivery(destination, self._settings)
            delivery.reach()
            folder.mark_offered()
            for file, location in delivery.deliver_all(folder.files, files, summary.planned_at):
                entries[file.name]["location"] = location
                step.advance(1)
        except IdsyncError as error:
            summary.problem = error.problem
            self._ledger.close(summary.run, "frozen", summary.as_dict())
            raise
        summary.status, summary.problem, summary.finished_at = "delivered", "", self._now()
        self._ledger.close(summary.run, summary.status, summary.as_dict())
        self._keep_sent(folder)
        folder.mark_ended(summary.finished_at, delivered=True)
        return summary

    def _keep_sent(self, folder: RunFolder) -> None:
        if folder.sent.exists():  # else an earlier try came so far
            self.state.sent.parent.mkdir(exist_ok=True)
            durable.move(folder.sent, self.state.sent)

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


class _Mappings:
    """The mappings of some data sources in DuckDB; what exceeds the memory limit spills into `scratch`.

    `new` are the devices and mappings to send, filled in by `compare`.
    """

    def __init__(self, sources: Sequence[DataSource], scratch: Path, memory_limit: str) -> None:
        self._dpids = [source.dpid for source in sources]
        self._con = duckdb.connect(config={"memory_limit": memory_limit, "temp_directory": str(scratch)})
        self._con.execute(
            "CREATE TABLE facts (customer_id VARCHAR, high UBIGINT, low UBIGINT, dpid BIGINT, last_seen BIGINT)"
        )
        self.rendered = 0

    def __enter__(self) -> "_Mappings":
        return self

    def __exit__(self, *_: object) -> None:
        self._con.close()

    def load(self, dpid: int, batches: Iterator[pa.RecordBatch]) -> None:
        """Take in batches of EXPORT_SCHEMA."""
        source = Guard(batches)
        self._con.register("export", pa.RecordBatchReader.from_batches(EXPORT_SCHEMA, source))
        try:
            self._con.execute(f"INSERT INTO facts SELECT customer_id, {sql.UUID_HALVES}, {dpid}, last_seen FROM export")
        except duckdb.Error as error:
            if source.error is not None:
                raise source.error from None
            raise _too_large(error) from None
        finally:
            self._con.unregister("export")

    def count(self) -> int:
        return self._value("SELECT count(*) FROM facts")

    def compare(self, sent: Path | None, *, everything: bool) -> None:
        """Tell new mappings from those that were sent, which `sent` holds."""
        if sent is None or everything:
            self._execute("CREATE VIEW fresh AS FROM facts")
            return
        known = f"read_parquet({sql.literal(str(sent))})"
        self._execute(
            f"CREATE TABLE fresh AS FROM facts ANTI JOIN {known} AS known USING (customer_id, high, low, dpid)"
        )

    def count_new(self) -> int:
        return self._value("SELECT count(*) FROM fresh")

    def lines(self) -> Iterator[tuple[list[int], Iterator[pa.RecordBatch]]]:
        """For each combination of DPIDs that has any: batches of lines."""
        uuid = sql.UUID.replace("m.", "")
        if len(self._dpids) == 1:
            self.rendered = self.count_new()
            if self.rendered:
                yield self._dpids, self._stream(f"SELECT {uuid} || chr(9) || customer_id || chr(10) AS line FROM fresh")
            return
        places = range(len(self._dpids))
        self._execute(
            "CREATE TABLE ranked AS SELECT customer_id, high, low, dpid, row_number() OVER "
            "(PARTITION BY high, low, dpid ORDER BY last_seen DESC, customer_id) AS rank "
            "FROM facts SEMI JOIN fresh USING (high, low)"
        )
        columns = [f"max(customer_id) FILTER (dpid = {dpid}) AS c{place}" for place, dpid in enumerate(self._dpids)]
        filled = [
            f"coalesce(c{at}, first_value(c{at}) OVER (PARTITION BY high, low ORDER BY rank)) AS c{at}" for at in places
        ]
        has = " + ".join(f"CASE WHEN c{at} IS NULL THEN 0 ELSE {1 << at} END" for at in places)
        self._execute(
            f"CREATE TABLE rows AS SELECT *, {has} AS has FROM (SELECT high, low, {', '.join(filled)} FROM "
            f"(SELECT high, low, rank, {', '.join(columns)} FROM ranked GROUP BY high, low, rank))"
        )
        self.rendered = self._value("SELECT count(*) FROM rows")
        for (has_these,) in self._execute("SELECT DISTINCT has FROM rows ORDER BY has DESC").fetchall():
            line = f"concat_ws(chr(9), {uuid}, {', '.join(f'c{at}' for at in places)}) || chr(10) AS line"
            there = [dpid for place, dpid in enumerate(self._dpids) if has_these >> place & 1]
            yield there, self._stream(f"SELECT {line} FROM rows WHERE has = {has_these}")

    def write_sent(self, path: Path, now: int) -> None:
        """All mappings of now as a Parquet file of (customer_id, high, low, dpid, seen): what erasure and retention
        know of what a feed has sent, and the data source.
        """
        self._execute(
            f"COPY (SELECT customer_id, high, low, dpid, {now}::BIGINT AS seen FROM facts) "
            f"TO {sql.literal(str(path))} (FORMAT parquet, COMPRESSION zstd)"
        )

    def _stream(self, query: str) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._con.sql(query).to_arrow_reader(BATCH_ROWS)
        except duckdb.Error as error:
            raise _too_large(error) from None

    def _execute(self, query: str) -> duckdb.DuckDBPyConnection:
        try:
            return self._con.execute(query)
        except duckdb.Error as error:
            raise _too_large(error) from None

    def _value(self, query: str) -> int:
        return int(self._execute(query).fetchall()[0][0])


def _too_large(error: duckdb.Error) -> Exception:
    """What can be mended by more room, told so; any other error as it is."""
    if not isinstance(error, duckdb.OutOfMemoryException):
        return error
    return RunRefused(
        f"sorting the mappings ran out of memory or of room to spill: {str(error).splitlines()[0]}",
        mend="raise reconcile.memory_limit, or free disk under reconcile.state_dir, and run again",
    )


def _json(summary: SyncSummary) -> bytes:
    return json.dumps(summary.as_dict(), indent=2).encode()
