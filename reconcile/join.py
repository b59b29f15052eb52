"""The heart of a run: read as text, join, render; and an account in which every record has its place."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from idsync.settings import DataSource, Feed, Settings
from idsync.store import DAY, open_store
from reconcile import durable, optouts, rejects, sent
from reconcile.engine.changes import ChangesEngine
from reconcile.engine.duckdb import DuckEngine, Ints, Outcome, Reject, Sink
from reconcile.errors import RunRefused
from reconcile.feed import Plan
from reconcile.held import Held
from reconcile.inputs import Input
from reconcile.optouts import OptOuts
from reconcile.progress import Meter, Step
from reconcile.records import Records
from reconcile.state import FeedState, RunFolder
from reconcile.summary import Summary

# Up to so many customers the store is asked for them alone; beyond, reading all of it is quicker.
SUBSET_CUSTOMERS = 100_000
# Inputs of this size surely hold more: then the store is read while the inputs are.
LARGE_INPUT_BYTES = 32_000_000
# What is left out for these reasons is no sign of a bad input.
_BLAMELESS = ("held-too-long", "opted-out", "vanished")

Clock = Callable[[], int]


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

    def engine(self, scratch: Path) -> DuckEngine:
        kind = ChangesEngine if self._feed.changes_only else DuckEngine
        return kind(self._plan, scratch, self._settings.reconcile.memory_limit)

    def run(
        self, engine: DuckEngine, sources: list[Input], summary: Summary, sink: Sink, folder: RunFolder | None = None
    ) -> None:
        """Read, join, render into `sink`; fill in the summary's figures. Rejects and held records go to `folder`."""
        if self._feed.vanished == "remove":
            sources = sources[-1:]  # each is a full export, and the last by name says it all
        held = Held(self._state.held, self._plan, engine.schema, now=self._now(), days=self._feed.held_days)
        records = Records(sources, self._plan, engine.schema, start=held.count)
        with ThreadPoolExecutor(max_workers=1) as beside:
            ahead = beside.submit(self._load_mappings, engine, None) if _is_large(sources) else None
            incoming = chain(held.batches(), records.batches())
            engine.stage(self._counted("reading records", incoming, lambda: records.share))
        superseded = engine.superseded(held.count) if held.count else np.empty(0, np.int64)
        engine.drop(superseded)
        summary.superseded = len(superseded)
        summary.from_hold = held.count - len(superseded)
        summary.read = records.read + summary.from_hold
        for entry in summary.inputs:
            entry["records"] = records.counts.get(entry["sha256"], 0)

        # first of all: else a faulty record would bring the ID of somebody who opted out among the rejects
        opt_outs = self.opt_outs()
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
            told = [f"{name}, line {line}" for name, line in places.values()] or [str(self._state.held)]
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
        known = sent.look(self._state.sent, sent.metadata(self._feed, self._source))
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

    def opt_outs(self) -> OptOuts:
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


class _Metered:
    """Shows lines as they pass."""

    def __init__(self, sink: Sink, step: Step) -> None:
        self._sink, self._step = sink, step

    def write(self, text: memoryview, count: int) -> None:
        self._sink.write(text, count)
        self._step.advance(count)
