"""The heart of a run: read as text, join, render; and an account in which every record has its place."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from idsync.settings import DataSource, Feed, Settings
from idsync.store import DAY, open_store
from reconcile import durable, emails, optouts, rejects, sent
from reconcile.emails import EmailEngine
from reconcile.engine.changes import ChangesEngine
from reconcile.engine.duckdb import DuckEngine, Ints, Outcome, Reject, Sink
from reconcile.errors import RunRefused
from reconcile.feed import Plan
from reconcile.files import FileWriter, FrozenFile, Packer
from reconcile.held import Held
from reconcile.inputs import Input
from reconcile.names import FileName
from reconcile.optouts import OptOuts
from reconcile.progress import Meter, Step
from reconcile.records import Records
from reconcile.state import FeedState, RunFolder
from reconcile.summary import Summary
from reconcile.traits import TraitWatch, known_traits

# Up to so many customers the store is asked for them alone; beyond, reading all of it is quicker.
SUBSET_CUSTOMERS = 100_000
# Inputs of this size surely hold more: then the store is read while the inputs are.
LARGE_INPUT_BYTES = 32_000_000
# What is left out for these reasons is no sign of a bad input.
_BLAMELESS = ("opted-out", "vanished")

Clock = Callable[[], int]


class Fates(NamedTuple):
    """How many records the inputs hold, which are unmatched, by number, and which are left out, and why. `among_all`:
    the engine was given all mappings of the data source."""

    read: int
    unmatched: Ints
    left_out: list[Reject]
    among_all: bool = False


class Writer(Sink, Protocol):
    """A sink that freezes what it takes, see `FileWriter`."""

    def finish(self) -> list[FrozenFile]: ...

    def close(self) -> None: ...


class Join:
    """Of one feed; `now` in milliseconds since the epoch."""

    def __init__(
        self,
        settings: Settings,
        feed: Feed,
        source: DataSource,
        *,
        plan: Plan,
        state: FeedState,
        meter: Meter,
        now: Clock,
    ) -> None:
        self._settings, self._feed, self._source, self._plan = settings, feed, source, plan
        self._state, self._meter, self._now = state, meter, now
        self._traits = known_traits(feed.known_traits_file)

    def engine(self, scratch: Path) -> DuckEngine:
        kind = EmailEngine if self._plan.email_dpid else ChangesEngine if self._feed.changes_only else DuckEngine
        return kind(self._plan, scratch, self._settings.reconcile.memory_limit)

    def writer(self, folder: Path, name: FileName, packer: Callable[[], Packer] | None) -> Writer:
        """The sink of a run that freezes its lines."""
        return FileWriter(folder, name, encrypted_by=packer)

    def run(
        self, engine: DuckEngine, sources: list[Input], summary: Summary, sink: Sink, folder: RunFolder | None = None
    ) -> Fates:
        """Read, join, render into `sink`; fill in the summary's figures. Rejects and held records go to `folder`.

        Of the inputs no more than `summary.limit` records are read, unless that is 0.
        """
        held = Held(self._state.held, self._feed, self._source, self._plan, engine.schema, now=self._now())
        records = self.records(sources, engine.schema, start=held.count, limit=summary.limit)
        with ThreadPoolExecutor(max_workers=1) as beside:
            ahead = beside.submit(self._load_mappings, engine, None, summary) if is_large(sources) else None
            incoming = chain(held.batches(), records.batches())
            engine.stage(self._counted("reading records", incoming, lambda: records.share))
            engine.repeated_ids()  # while mappings still come in
        _count_read(summary, records, waited=held.count)  # should the run be refused before more is known

        # first of all: else a faulty record would bring the ID of somebody who opted out among the rejects
        opt_outs = self.opt_outs()
        if folder:
            durable.write(folder.opt_outs, opt_outs.digest.encode())
        complete = bool(sources) and not records.bad and not summary.limit
        left_out = self._take_sent(engine, opt_outs, summary, first=held.count, complete=complete)
        gone = [engine.take_opted_out(opt_outs.dpid, opt_outs.tokens)]
        if isinstance(engine, EmailEngine):
            theirs = self.opt_outs(self._plan.email_dpid)
            gone.append(engine.take_opted_out_hashes(theirs.dpid, theirs.tokens))
        left_out += [Reject(int(seq), "", optouts.REASON) for seq in np.concatenate(gone)]
        # records from hold are always looked at: the rules may have changed since
        suspects = [(0, held.count - 1)] * bool(held.count) + records.suspects
        left_out += held.left_out + records.bad + engine.take_faults(suspects)
        # of what is left: a record that can't be sent takes the place of none
        superseded = engine.superseded(held.count) if held.count else np.empty(0, np.int64)
        engine.drop(superseded)
        _count_read(summary, records, waited=held.count, superseded=len(superseded))
        left_out = opt_outs.hide(left_out)
        if isinstance(engine, EmailEngine):
            left_out = emails.without_addresses(left_out)
        self._check_share(left_out, records, summary, folder)
        for item in engine.items_left_out(suspects):
            samples = self._samples(item.seqs, records)
            summary.items_left_out.append(
                {"column": item.column, "reason": item.reason, "items": item.items, "samples": samples}
            )
        if isinstance(engine, ChangesEngine):
            engine.pass_over_older(records.starts)
        wanted = None if ahead else _wanted(engine)
        summary.mappings = ahead.result() if ahead else self._load_mappings(engine, wanted, summary)
        watch = TraitWatch(sink, self._traits) if self._traits else None
        outcome = engine.render(_Metered(watch or sink, self._meter.step("joining", engine.count())))
        summary.traits = watch.as_dict() if watch else {}
        summary.conflicts = outcome.conflicts
        summary.conflict_samples = self._samples(outcome.conflict_seqs, records)
        outcome.rejects = list({reject.seq: reject for reject in outcome.rejects}.values())  # it may have several users
        unmatched = settle_counts(outcome, summary)
        left_out += outcome.rejects
        self._check_share(left_out, records, summary, folder)
        check_sum(summary)
        self._write_held(engine, unmatched, held, summary, folder)
        if isinstance(engine, ChangesEngine):
            engine.write_sent(sent.metadata(self._feed, self._source, self._plan), folder.sent if folder else None)
            if folder:
                durable.sync(folder.sent)
        self._write_rejects(left_out, records, summary, folder)
        return Fates(records.read, unmatched, left_out, among_all=wanted is None)

    def records(self, sources: list[Input], schema: pa.Schema, *, start: int, limit: int = 0) -> Records:
        """Those of the inputs, numbered from `start`, the number of records that are held."""
        if self._feed.vanished == "remove":
            sources = sources[-1:]  # each is a full export, and the last by name says it all
        return Records(sources, self._plan, schema, start=start, limit=limit)

    def values(self, record: pa.RecordBatch) -> dict[str, str]:
        """What the first record of a batch says, under the names of the feed's columns."""
        if self._plan.email_dpid:
            return {}  # an address is shown to nobody
        _, _, *values = (column[0].as_py() for column in record.columns)
        return dict(zip(self._plan.columns, values, strict=True))

    def lines_of(self, record: pa.RecordBatch, scratch: Path) -> list[str]:
        """What one record becomes when no other is of the same user. For people to look at."""
        kept = _Kept()
        with self.engine(scratch) as engine:
            engine.stage(iter([record]))
            if isinstance(engine, ChangesEngine):
                known = sent.look(self._state.sent, sent.metadata(self._feed, self._source, self._plan))
                engine.load_sent(known.path, self._now(), oldest=0, marked=known.marked)
            self._load_mappings(engine, _wanted(engine), Summary("", "", 0))
            engine.render(kept)
        return kept.lines

    def _take_sent(
        self, engine: DuckEngine, opt_outs: OptOuts, summary: Summary, *, first: int, complete: bool
    ) -> list[Reject]:
        """What was sent before; who opted out since, or vanished from a full export. Held records of such customers go.

        The inputs' records are those from number `first` on. They are `complete` unless there was none, or one that
        can't be read and may be anybody's: then nobody vanishes this time.
        """
        if not isinstance(engine, ChangesEngine):
            return []
        known = sent.look(self._state.sent, sent.metadata(self._feed, self._source, self._plan))
        oldest = self._now() - self._settings.reconcile.keep_state_days * DAY
        count = engine.load_sent(known.path, self._now(), oldest=oldest, marked=known.marked)
        users = self.opt_outs(self._plan.other.dpid).tokens if self._plan.other else opt_outs.devices
        summary.forgotten = engine.take_opted_out_sent(
            opt_outs.dpid, opt_outs.tokens, users, told=self._feed.optout_removals
        )
        if self._feed.vanished == "keep" or not complete:
            return []
        summary.vanished = engine.take_vanished(first)
        self._check_vanished(summary, count)
        return engine.take_vanished_held(first)

    def _check_vanished(self, summary: Summary, count: int) -> None:
        """Refuse the run when too large a share of those who were sent something is no longer in the export."""
        if summary.vanished > self._feed.max_vanished * count and summary.status != "dry-run":
            raise RunRefused(
                f"{summary.vanished:,} of {count:,} users vanished from the export, "
                f"max_vanished is {self._feed.max_vanished:.2%}",
                mend="see that the export is complete, or raise the feed's max_vanished; nothing was delivered",
            )

    def _load_mappings(self, engine: DuckEngine, wanted: list[str] | None, summary: Summary) -> int:
        """All mappings of the data source, or those of the customers that are wanted; and what they lead to."""
        if self._plan.email_dpid:
            return 0
        with closing(open_store(self._settings.store)) as store:
            exported = store.export(
                self._source.dpid, self._now(), customer_ids=wanted, latest_only=not self._plan.every_device
            )
            count = engine.load_mappings(self._counted("reading mappings", exported))
            if self._plan.other:
                others = store.export(self._plan.other.dpid, self._now())
                counted = self._counted("reading mappings of the other data source", others)
                summary.ids_left_out = engine.load_others(counted)
        if not self._feed.changes_only:  # which goes by customers
            engine.repeated_users()  # while records still come in
        return count

    def opt_outs(self, dpid: int | None = None) -> OptOuts:
        """As seen from a data source; from the feed's own for None."""
        with closing(open_store(self._settings.store)) as store:
            return OptOuts(self._source.dpid if dpid is None else dpid, store.opt_outs())

    def _samples(self, seqs: Sequence[int], records: Records) -> list[str]:
        """Where these records stand."""
        places = records.places([seq for seq in seqs if seq >= records.first])
        told = [f"{name}, line {line}" for name, line in places.values()]
        return told or [str(self._state.held)] * bool(seqs)

    def _write_held(
        self, engine: DuckEngine, unmatched: Ints, held: Held, summary: Summary, folder: RunFolder | None
    ) -> None:
        """A feed that holds no longer lets go of what it held: it was read, and counted, by this run."""
        if self._feed.unmatched != "hold" and not held.count:
            return
        waiting = unmatched if self._feed.unmatched == "hold" else np.empty(0, np.int64)
        target, told = folder.held if folder else None, Held.metadata(self._source, self._plan)
        summary.held = engine.write_held(waiting, held.since, self._now(), target, told)
        if folder:
            durable.sync(folder.held)

    def _check_share(
        self, left_out: list[Reject], records: Records, summary: Summary, folder: RunFolder | None
    ) -> None:
        """Refuse the run when too large a share of the inputs' records was rejected; held ones are none of theirs."""
        summary.rejected = len(left_out)
        summary.reasons = rejects.by_reason(left_out)
        faulty = sum(reject.seq >= records.first and reject.reason not in _BLAMELESS for reject in left_out)
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
            reject.seq: (str(self._state.held), reject.seq + 1) for reject in left_out if reject.seq < records.first
        }
        rejects.write(folder.rejects, left_out, from_hold | records.places(from_inputs))
        summary.rejects_file = str(folder.rejects)

    def _counted(
        self, name: str, batches: Iterator[pa.RecordBatch], share: Callable[[], float] = float
    ) -> Iterator[pa.RecordBatch]:
        step = self._meter.step(name)
        for batch in batches:
            step.advance(len(batch), share())
            yield batch


def settle_counts(outcome: Outcome, summary: Summary) -> Ints:
    """Fill in the join's figures; the numbers of the unmatched records. A record found unsendable is rejected only."""
    unmatched = np.concatenate([*outcome.unmatched, np.empty(0, np.int64)])
    late = np.array([reject.seq for reject in outcome.rejects], dtype=np.int64)
    kept = unmatched[~np.isin(unmatched, late)]
    summary.unmatched = len(kept)
    summary.matched = outcome.matched - (len(late) - (len(unmatched) - len(kept)))
    summary.silent, summary.unchanged, summary.lines = outcome.silent, outcome.unchanged, outcome.lines
    return kept


def _count_read(summary: Summary, records: Records, *, waited: int, superseded: int = 0) -> None:
    summary.superseded, summary.from_hold = superseded, waited - superseded
    summary.read = records.read + summary.from_hold
    for entry in summary.inputs:
        entry["records"] = records.counts.get(entry["sha256"], 0)


def check_sum(summary: Summary) -> None:
    """Raise RunRefused unless every record read has its place."""
    if summary.read != summary.matched + summary.unmatched + summary.rejected:
        raise RunRefused(
            f"{summary.read} records read, but {summary.matched} matched + {summary.unmatched} unmatched + "
            f"{summary.rejected} rejected",
            mend="this is a fault of the program; nothing was delivered; please report it",
        )


def is_large(sources: list[Input]) -> bool:
    return sum(source.path.stat().st_size for source in sources if source.path.exists()) > LARGE_INPUT_BYTES


def _wanted(engine: DuckEngine) -> list[str] | None:
    """The customers to ask the store for; None for all."""
    return engine.customer_ids() if engine.count() <= SUBSET_CUSTOMERS else None


class _Kept:
    """Keeps lines, as they are."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, text: memoryview, count: int) -> None:
        self.lines += bytes(text).decode().split("\n")[:count]


class _Metered:
    """Shows lines as they pass."""

    def __init__(self, sink: Sink, step: Step) -> None:
        self._sink, self._step = sink, step

    def write(self, text: memoryview, count: int) -> None:
        self._sink.write(text, count)
        self._step.advance(count)
