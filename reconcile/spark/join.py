"""The join on Spark: the driver's side. Plans shares, sends tasks out, puts together what they tell."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from functools import partial
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from idsync.store import DAY, open_store
from idsync.store.base import Part
from reconcile import durable, failpoints, held, inputs, join, optouts, room, sent, tables
from reconcile.engine import sql
from reconcile.engine.changes import sent_schema
from reconcile.engine.duckdb import SAMPLES, DuckEngine, Ints, LeftOut, Outcome, Reject, Sink
from reconcile.failpoints import Point
from reconcile.feed import Plan
from reconcile.files import FrozenFile, Packer
from reconcile.inputs import Input
from reconcile.join import Fates, Join
from reconcile.names import FileName
from reconcile.optouts import OptOuts
from reconcile.records import Records
from reconcile.spark import parcels, tasks
from reconcile.spark.session import Cluster, ClusterFailed, cluster
from reconcile.spark.traits import TraitCount
from reconcile.spark.work import (
    FILE_BITS,
    HELD,
    HELD_PART,
    SENT_PART,
    Before,
    Failure,
    Judged,
    Reached,
    Read,
    Rendered,
    Work,
)
from reconcile.state import RunFolder
from reconcile.summary import Summary

# Of inputs, to a share: it becomes a file or more, and a task that one core does in some seconds.
SHARE_BYTES = 64_000_000
MOST_SHARES = 4_000


class SparkJoin(Join):
    """See `Join`."""

    def engine(self, scratch: Path) -> DuckEngine:
        return Collected(self._plan)

    def writer(self, folder: Path, name: FileName, packer: Callable[[], Packer] | None) -> "Committer":
        return Committer(folder, name)

    def run(
        self, engine: DuckEngine, sources: list[Input], summary: Summary, sink: Sink, folder: RunFolder | None = None
    ) -> Fates:
        if self._feed.vanished == "remove":
            sources = sources[-1:]
        opt_outs = self.opt_outs()
        if folder:
            durable.write(folder.opt_outs, opt_outs.digest.encode())
        with self._scratch(folder) as scratch:
            attempts = scratch / "attempts"
            attempts.mkdir()
            before = self._before(opt_outs) if self._feed.changes_only else None
            work = Work(
                self._settings,
                self._feed,
                self._source,
                self._plan,
                self._now(),
                max(_shares(sources), _shares_of_sent(before)),
                tuple(sources),
                self._state.held,
                tables.rows(self._state.held),
                opt_outs,
                self._traits,
                attempts if folder else None,
                sink.name if isinstance(sink, Committer) else None,
                failpoints.reached,
                hash_opt_outs=self.opt_outs(self._plan.email_dpid) if self._plan.email_dpid else None,
                before=before,
            )
            told = self._sent_out(cluster(scratch), work)
            return self._settled(work, told, engine=engine, summary=summary, sink=sink, folder=folder)

    # --- on the cluster --------------------------------------------------------------------------------------------

    def _sent_out(self, spark: Cluster, work: Work) -> list[Any]:
        """The accounts of all tasks. Raises what went wrong in any."""
        step = self._meter.step("joining on Spark")
        records = spark.source("inputs", len(tasks.numbers(work)), partial(tasks.read, work))
        if work.before and work.sources and self._feed.vanished == "remove":
            # whether anybody may have vanished is known once all is read
            records = spark.kept(records)
            read = _accounts(spark, records.where(f"kind = {parcels.ACCOUNT}"))
            complete = not any(account.bad for account in read if account.number != HELD)
            work = replace(work, before=replace(work.before, complete=complete))
        if self._plan.email_dpid:  # no device is asked for
            made = spark.parted([records], work.shares, partial(tasks.judge, work))
        else:
            made = self._joined(spark, work, records)
        told = _accounts(spark, made)
        step.advance(sum(account.count for account in told if isinstance(account, Read)))
        return told

    def _joined(self, spark: Cluster, work: Work, records: Any) -> Any:
        """What the tasks make of records and mappings."""
        if join.is_large(list(work.sources)):
            work = replace(work, parts=self._parts(spark, work, self._source.dpid))
        else:
            work = self._narrowed(
                spark, work, _accounts(spark, spark.parted([records], work.shares, partial(tasks.customers, work)))
            )
        if self._plan.other:
            work = replace(work, other_parts=self._parts(spark, work, self._plan.other.dpid))
        parts = len(work.parts) + len(work.other_parts)
        mappings = spark.kept(spark.source("mappings", parts, partial(tasks.export, work)))
        if self._plan.other:
            mappings = spark.parted([mappings], work.shares, partial(tasks.reach, work))
        frames = [records, mappings]
        if work.before and work.before.parts:
            frames.append(spark.source("sent", work.before.parts, partial(tasks.recall, work)))
        made = spark.parted(frames, work.shares, partial(tasks.judge, work))
        return spark.parted([made], work.shares, partial(tasks.render, work)) if tasks.by_user(self._plan) else made

    def _narrowed(self, spark: Cluster, work: Work, told: list[Any]) -> Work:
        """Few customers are asked for alone."""
        found = [account for account in told if isinstance(account, tuple)]
        if sum(count for count, _ in found) <= join.SUBSET_CUSTOMERS:
            return replace(work, wanted=tuple(name for _, names in found for name in names))
        return replace(work, parts=self._parts(spark, work, self._source.dpid))

    def _parts(self, spark: Cluster, work: Work, dpid: int) -> tuple[Part, ...]:
        with closing(open_store(self._settings.store)) as store:
            return tuple(store.parts(dpid, max(spark.tasks, work.shares)))

    def _before(self, opt_outs: OptOuts) -> Before:
        metadata = sent.metadata(self._feed, self._source, self._plan)
        known = sent.look(self._state.sent, metadata)
        groups = parquet.read_metadata(known.path).num_row_groups if known.path else 0
        oldest = self._now() - self._settings.reconcile.keep_state_days * DAY
        users = self.opt_outs(self._plan.other.dpid).tokens if self._plan.other else opt_outs.devices
        return Before(known.path, min(groups, MOST_SHARES), known.marked, oldest, metadata, users)

    # --- the account -----------------------------------------------------------------------------------------------

    def _settled(
        self,
        work: Work,
        told: list[Any],
        *,
        engine: DuckEngine,
        summary: Summary,
        sink: Sink,
        folder: RunFolder | None,
    ) -> Fates:
        """As `Join.run` does it: the same figures in the same order."""
        records = ReadElsewhere(work, [account for account in told if isinstance(account, Read)], engine.schema)
        judged = [account for account in told if isinstance(account, Judged)]
        rendered = [account for account in told if isinstance(account, Rendered)]
        summary.superseded = sum(account.superseded for account in judged)
        summary.from_hold = work.held_count - summary.superseded
        summary.read = records.read + summary.from_hold
        for entry in summary.inputs:
            entry["records"] = records.counts.get(entry["sha256"], 0)
        lost = [account.lost for account in judged if account.lost]
        summary.forgotten = sum(account.forgotten for account in lost)
        summary.vanished = sum(account.vanished for account in lost)
        self._check_vanished(summary, sum(account.known for account in lost))
        left_out = [reject for account in lost for reject in account.held]
        left_out += [Reject(int(seq), "", optouts.REASON) for account in judged for seq in account.opted_out]
        faults = [reject for account in judged for reject in account.faults]
        left_out += records.bad + sorted(faults, key=lambda reject: reject.seq)
        left_out = work.opt_outs.hide(left_out)
        self._check_share(left_out, records, summary, folder)
        for item in _items([item for account in judged for item in account.items], self._plan):
            samples = self._samples(item.seqs, records)
            summary.items_left_out.append(
                {"column": item.column, "reason": item.reason, "items": item.items, "samples": samples}
            )
        reached = [account for account in told if isinstance(account, Reached)]
        summary.mappings = sum(account.mappings for account in reached or judged)
        summary.ids_left_out = dict(sum((Counter(account.left_out) for account in reached), Counter()).most_common())
        outcome = _outcome(rendered)
        _check_whole(outcome.records, sum(account.staged for account in judged))
        watches = [account.traits for account in rendered if account.traits]
        summary.traits = TraitCount.total(watches, work.traits).as_dict() if work.traits else {}
        summary.conflicts = outcome.conflicts
        summary.conflict_samples = self._samples(outcome.conflict_seqs, records)
        unmatched = join.settle_counts(outcome, summary)
        left_out += outcome.rejects
        self._check_share(left_out, records, summary, folder)
        join.check_sum(summary)
        if self._feed.unmatched == "hold" or work.held_count:
            summary.held = sum(account.held for account in rendered)
            if folder:
                self._join_held([account.folder for account in rendered if account.folder], folder.held)
        if work.before and folder:
            _join_sent(rendered, sent_schema(self._plan).with_metadata(work.before.metadata), folder.sent)
        self._write_rejects(left_out, records, summary, folder)
        if isinstance(engine, Collected):
            engine.ids = [account.ids for account in rendered if account.ids is not None]
        if isinstance(sink, Committer):
            sink.take([(account.folder, account.files) for account in rendered if account.folder])
        return Fates(records.read, unmatched, left_out)

    def _join_held(self, folders: Sequence[Path], target: Path) -> None:
        texts = [(name, pa.string()) for name in sql.record_columns(self._plan)[1:]]
        schema = pa.schema([*texts, (held.SINCE, pa.int64())], held.Held.metadata(self._source, self._plan))
        paths = [folder / HELD_PART for folder in folders if self._feed.unmatched == "hold"]
        _join_parts(paths, schema, target)

    def _scratch(self, folder: RunFolder | None) -> AbstractContextManager[Path]:
        """A dry run's, too, has to lie where all machines see it."""
        if folder:
            return nullcontext(folder.scratch)
        return self._state.dry_run()


class ReadElsewhere(Records):
    """The inputs' records as other machines have read them; see `work.FILE_BITS` for their numbers."""

    def __init__(self, work: Work, told: Sequence[Read], schema: pa.Schema) -> None:
        super().__init__(work.sources, work.plan, schema, start=1 << FILE_BITS)
        self._found = work.sources
        of_files = [account for account in told if account.number != HELD]
        self.read = sum(account.count for account in of_files)
        self.bad = [reject for account in told for reject in account.bad]
        self.counts = {work.sources[account.number].sha256: account.count for account in of_files}

    def places(self, seqs: Sequence[int]) -> dict[int, tuple[str, int]]:
        found: dict[int, tuple[str, int]] = {}
        for number, source in enumerate(self._found):
            start = number + 1 << FILE_BITS
            ordinals = [seq - start for seq in seqs if start <= seq < number + 2 << FILE_BITS]
            if ordinals:
                lines = inputs.line_numbers(source, ordinals)
                found |= {start + ordinal: (source.name, line) for ordinal, line in lines.items()}
        return found


class Collected(DuckEngine):
    """Stands where a run has its engine; the work was done by others. `ids`: what each share tells of its unmatched."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.ids: list[pa.Table] = []

    def __exit__(self, *_: object) -> None:
        pass

    def ids_of(self, seqs: Ints, most: int) -> pa.Table:
        whole = pa.concat_tables(self.ids)
        if len(whole) <= 2 * most:
            return whole
        places = [md5(name.encode(), usedforsecurity=False).digest()[:8][::-1] for name in whole["id"].to_pylist()]
        return whole.take(pa.array(sorted(range(len(whole)), key=places.__getitem__)[: 2 * most]))


class Committer:
    """Gives the executors' files their names: from then on they are as frozen as any.

    Each share's files come of the one attempt of its task whose account Spark has handed on; what others have written
    goes with the scratch folder.
    """

    def __init__(self, folder: Path, name: FileName) -> None:
        self._folder, self.name = folder, name
        self._taken: list[tuple[Path, FrozenFile]] = []

    def write(self, text: memoryview, count: int) -> None:
        raise NotImplementedError("lines are written by the executors")

    def take(self, attempts: Sequence[tuple[Path, Sequence[FrozenFile]]]) -> None:
        self._taken = [(folder / file.name, file) for folder, files in attempts for file in files]

    def finish(self) -> list[FrozenFile]:
        """See `FileWriter.finish`."""
        frozen = []
        for number, (path, file) in enumerate(self._taken, start=1):
            name = self.name.part(number if len(self._taken) > 1 else None).render()
            if not path.exists() or path.stat().st_size != file.bytes:
                raise ClusterFailed(
                    f"{path}: an executor has written {file.bytes:,} bytes, which are not here",
                    mend="let reconcile.state_dir lie in a file system that the driver and all executors share",
                )
            path.rename(self._folder / name)
            failpoints.reached(Point.FILE_NAMED)
            frozen.append(replace(file, name=name))
        durable.sync_folder(self._folder)
        failpoints.reached(Point.FILES_NAMED)
        return frozen

    def close(self) -> None:
        """Nothing is held open here."""


def _accounts(spark: Cluster, frame: Any) -> list[Any]:
    told = [parcels.told(parcel) for parcel in spark.collected(frame)]
    for account in told:
        if isinstance(account, Failure):
            raise account.error()
    return told


def _shares(sources: Sequence[Input]) -> int:
    text = room.unpacked([(source.path.name, source.state[1]) for source in sources])
    return min(text // SHARE_BYTES + 1, MOST_SHARES)


def _shares_of_sent(before: Before | None) -> int:
    size = before.path.stat().st_size if before and before.path else 0
    return min(size // SHARE_BYTES + 1, MOST_SHARES)


def _items(items: Sequence[LeftOut], plan: Plan) -> list[LeftOut]:
    """Those of one column and reason together, in the order of the plan."""
    found: dict[tuple[str, str], LeftOut] = {}
    for item in items:
        before = found.get((item.column, item.reason))
        seqs = (*(before.seqs if before else ()), *item.seqs)
        count = item.items + (before.items if before else 0)
        found[item.column, item.reason] = replace(item, items=count, seqs=tuple(sorted(seqs)[:SAMPLES]))
    known = [(plan.columns[index], reason) for index, reason, _ in sql.item_faults(plan)]
    return [found[kind] for kind in known if kind in found]


def _outcome(rendered: Sequence[Rendered]) -> Outcome:
    """Of all shares. A record that several shares have is told of once."""
    whole = Outcome()
    for account in rendered:
        part = account.outcome
        whole.records += part.records
        whole.matched += part.matched
        whole.silent += part.silent
        whole.unchanged += part.unchanged
        whole.lines += part.lines
        whole.conflicts += part.conflicts
        whole.conflict_seqs = sorted([*whole.conflict_seqs, *part.conflict_seqs])[:SAMPLES]
        whole.unmatched.append(account.unmatched)
        whole.rejects += part.rejects
    changed = _numbers(account.changed for account in rendered)
    mute = np.setdiff1d(_numbers(account.mute for account in rendered), changed)
    whole.silent += len(mute)
    whole.unchanged -= len(changed) + len(mute)  # none but of feeds that send only changes
    whole.rejects = list({reject.seq: reject for reject in whole.rejects}.values())
    return whole


def _numbers(found: Iterable[Ints]) -> Ints:
    return np.unique(np.concatenate([np.empty(0, np.int64), *found]))


def _join_sent(rendered: Sequence[Rendered], schema: pa.Schema, target: Path) -> None:
    written = _join_parts([account.folder / SENT_PART for account in rendered if account.folder], schema, target)
    _check_whole(written, sum(account.sent for account in rendered), "rows of what was sent")


def _join_parts(paths: Sequence[Path], schema: pa.Schema, target: Path) -> int:
    """Parquet files as one; the number of rows."""
    with parquet.ParquetWriter(target, schema, compression="zstd") as whole:
        for path in paths:
            with parquet.ParquetFile(path) as part:
                for batch in part.iter_batches(batch_size=held.BATCH_ROWS):
                    whole.write_batch(batch.cast(schema))
    durable.sync(target)
    return tables.rows(target)


def _check_whole(found: int, expected: int, of: str = "records") -> None:
    if found != expected:
        raise ClusterFailed(
            f"the shares returned {found} of {expected} {of}",
            mend="this is a fault of the program; nothing was delivered; please report it with Spark's version",
        )
