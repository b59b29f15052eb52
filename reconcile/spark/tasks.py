"""What the executors do. No Spark here: each task takes parcels and gives parcels."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial, wraps
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import ParamSpec

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from idsync.errors import IdsyncError
from idsync.store import open_store
from reconcile import emails, encryption, failpoints, held
from reconcile.engine.duckdb import Ints, Reject, Sink, records_schema
from reconcile.feed import Plan
from reconcile.files import FileWriter
from reconcile.held import Held
from reconcile.names import FileName
from reconcile.records import Records
from reconcile.spark import changes, parcels, process
from reconcile.spark.changes import ChangesShare
from reconcile.spark.engine import EmailShare, ShareEngine
from reconcile.spark.parcels import ACCOUNT, MAPPINGS, OTHERS, RECORDS, SENT, SUSPECTS, Parcel
from reconcile.spark.traits import TraitCount
from reconcile.spark.work import FILE_BITS, HELD, HELD_PART, SENT_PART, Failure, Judged, Reached, Read, Rendered, Work
from reconcile.why import SAMPLE_IDS

Load = Callable[[Iterator[pa.RecordBatch]], object]
_NO_MORE: tuple[int, Iterator[Parcel]] = (-1, iter(()))

_P = ParamSpec("_P")


def _failing(task: Callable[_P, Iterator[Parcel]]) -> Callable[_P, Iterator[Parcel]]:
    """The errors that a user can meet travel as accounts; of all others Spark takes care."""

    @wraps(task)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> Iterator[Parcel]:
        process.settle_in()
        try:
            yield from task(*args, **kwargs)
        except IdsyncError as error:
            yield parcels.account(Failure(type(error), error.problem, error.mend))

    return guarded


# --- from the outside ------------------------------------------------------------------------------------------------


def by_user(plan: Plan) -> bool:
    """Whether customers are not the users, so that `render` has work to do."""
    return plan.by_uuid or plan.other is not None


def numbers(work: Work) -> list[int]:
    """What `read` is to be called for."""
    return [HELD] * bool(work.held_count or not work.sources) + list(range(len(work.sources)))


@_failing
def read(work: Work, at: int) -> Iterator[Parcel]:
    """The records of one file, or of those on hold, for the customers' shares."""
    number = numbers(work)[at]
    if number == HELD:
        yield from _read_held(work)
        return
    schema = records_schema(work.plan)
    records = Records([work.sources[number]], work.plan, schema, start=number + 1 << FILE_BITS)
    place = number + 1 << FILE_BITS
    for rows in parcels.collected(_without_addresses(work, records.batches())):
        kind = SUSPECTS if records.suspects else RECORDS
        records.suspects.clear()
        yield from parcels.parted(rows, parcels.shares_of(rows["id"], work.shares), kind, place)
        place += 1
    yield parcels.account(Read(number, records.read, _hidden(work, records.bad)))


def _read_held(work: Work) -> Iterator[Parcel]:
    waiting = Held(work.held, work.feed, work.source, work.plan, records_schema(work.plan), now=work.now)
    for place, rows in enumerate(parcels.collected(_without_addresses(work, waiting.batches()))):
        yield from parcels.parted(rows, parcels.shares_of(rows["id"], work.shares), SUSPECTS, place)
    yield parcels.account(Read(HELD, waiting.count, _hidden(work, waiting.left_out)))


def _without_addresses(work: Work, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    return map(emails.hashed, batches) if work.plan.email_dpid else batches


def _hidden(work: Work, left_out: list[Reject]) -> list[Reject]:
    """In files of addresses not even an account tells of one in place of a customer ID."""
    return emails.without_addresses(work.opt_outs.hide(left_out)) if work.plan.email_dpid else left_out


@_failing
def export(work: Work, at: int) -> Iterator[Parcel]:
    """A part of the store's mappings, for the customers' shares, or for those of the devices, see `reach`."""
    other = work.plan.other
    kind, key = MAPPINGS, "uuid" if other else "customer_id"
    with closing(open_store(work.settings.store)) as store:
        if other and at >= len(work.parts):
            kind = OTHERS
            exported = store.export(other.dpid, work.now, part=work.other_parts[at - len(work.parts)])
        else:
            exported = store.export(
                work.source.dpid,
                work.now,
                customer_ids=work.wanted,
                latest_only=not work.plan.every_device,
                part=work.parts[at],
            )
        for place, rows in enumerate(parcels.collected(exported)):
            yield from parcels.parted(rows, parcels.shares_of(rows[key], work.shares), kind, place)


@_failing
def recall(work: Work, at: int) -> Iterator[Parcel]:
    """A part of what was sent before, for the customers' shares."""
    if work.before:
        for place, rows in enumerate(parcels.collected(changes.recalled(work.before, work.plan, at))):
            yield from parcels.parted(rows, parcels.shares_of(rows["customer_id"], work.shares), SENT, place)


# --- by device -------------------------------------------------------------------------------------------------------


@_failing
def reach(work: Work, incoming: Iterator[Parcel], threads: int) -> Iterator[Parcel]:
    """A share of the devices: which IDs of another data source the customers have there, for the customers' shares."""
    left_out: dict[str, int] = {}
    with _engine(work, threads) as engine:
        loads = (MAPPINGS, engine.load_mappings), (OTHERS, lambda theirs: left_out.update(engine.load_others(theirs)))
        yield from _taken_in(incoming, *loads)
        yield parcels.account(Reached(engine.mappings, left_out))
        for place, rows in enumerate(engine.reached()):
            yield from parcels.parted(rows, parcels.shares_of(rows["customer_id"], work.shares), MAPPINGS, place)


# --- by customer -----------------------------------------------------------------------------------------------------


@_failing
def judge(work: Work, incoming: Iterator[Parcel], threads: int) -> Iterator[Parcel]:
    """A share of the customers: their records, judged as always, and joined with their mappings, for the users' shares.

    Where customers are the users, no more has to be brought together: see `render`.
    """
    with _engine(work, threads) as engine:
        load_mappings = engine.load_reached if work.plan.other else engine.load_mappings
        yield from _taken_in(incoming, (MAPPINGS, load_mappings), *_of_records(work, engine))
        yield from _judged(work, engine)
        if not by_user(work.plan):
            yield from _rendered(work, engine)
            return
        routed = {MAPPINGS: engine.routed_mappings, RECORDS: engine.routed_records}
        if isinstance(engine, ChangesShare):
            routed[SENT] = engine.routed_sent
        for kind, rows in routed.items():
            for place, (of_shares, shares) in enumerate(rows(work.shares)):
                yield from parcels.parted(of_shares, shares, kind, place)


@_failing
def customers(work: Work, incoming: Iterator[Parcel], threads: int) -> Iterator[Parcel]:
    """Whose mappings `judge` will need, if they are few enough to be told."""
    with _engine(work, threads) as engine:
        yield from _taken_in(incoming, *_of_records(work, engine))
        for _ in _judged(work, engine):
            pass
        yield parcels.account((engine.count(), engine.customer_ids()))


def _taken_in(incoming: Iterator[Parcel], *loads: tuple[int, Load]) -> Iterator[Parcel]:
    """Each load takes what there is of its kind, if only nothing, in order of kinds; the accounts go on."""
    groups = parcels.by_kind(incoming)
    kind, of_kind = next(groups, _NO_MORE)
    if kind == ACCOUNT:
        yield from of_kind
        kind, of_kind = next(groups, _NO_MORE)
    for wanted, load in loads:
        if kind == wanted:
            load(parcels.batches(of_kind))
            kind, of_kind = next(groups, _NO_MORE)
        else:
            load(iter(()))


def _of_records(work: Work, engine: ShareEngine) -> Iterator[tuple[int, Load]]:
    if isinstance(engine, ChangesShare):
        yield SENT, partial(engine.load_before, now=work.now)
    yield from ((RECORDS, engine.stage), (SUSPECTS, engine.stage_suspects))


def _judged(work: Work, engine: ShareEngine) -> Iterator[Parcel]:
    """In the order of `reconcile.join`."""
    lost = None
    if isinstance(engine, ChangesShare) and work.before:
        lost = engine.lose(work.before, work.opt_outs, told=work.feed.optout_removals)
    gone = engine.take_opted_out(work.opt_outs.dpid, work.opt_outs.tokens)
    if isinstance(engine, EmailShare) and work.hash_opt_outs:
        of_hashes = engine.take_opted_out_hashes(work.hash_opt_outs.dpid, work.hash_opt_outs.tokens)
        gone = np.concatenate([gone, of_hashes])
    faults = _hidden(work, engine.take_faults(engine.suspects))
    superseded = engine.superseded(1 << FILE_BITS) if work.held_count else np.empty(0, np.int64)
    engine.drop(superseded)
    items = engine.items_left_out(engine.suspects)
    yield parcels.account(Judged(len(superseded), gone, faults, items, engine.count(), engine.mappings, lost))


# --- by user ---------------------------------------------------------------------------------------------------------


@_failing
def render(work: Work, incoming: Iterator[Parcel], threads: int) -> Iterator[Parcel]:
    """A share of the users: their lines, frozen in files."""
    with _engine(work, threads) as engine:
        yield from _taken_in(incoming, (MAPPINGS, engine.load_routed), *_of_records(work, engine))
        yield from _rendered(work, engine)


def _rendered(work: Work, engine: ShareEngine) -> Iterator[Parcel]:
    with ExitStack() as stack:
        writer = _writer(work, stack)
        sink: Sink = writer or _Nowhere()
        watch = TraitCount(sink, work.traits) if work.traits else None
        if isinstance(engine, ChangesShare):
            engine.pass_over_older([number + 1 << FILE_BITS for number in range(len(work.sources))])
        outcome = engine.render(watch or sink)
        late = np.array([reject.seq for reject in outcome.rejects], dtype=np.int64)
        unmatched = np.concatenate([*outcome.unmatched, np.empty(0, np.int64)])
        waiting = unmatched[~np.isin(unmatched, late)]
        folder = writer.folder if writer else None
        kept = _write_held(work, engine, waiting, folder)
        mute = changed = np.empty(0, np.int64)
        sent = 0
        if isinstance(engine, ChangesShare) and work.before:
            sent = engine.write_sent(work.before.metadata, folder / SENT_PART if folder else None)
            mute, changed = engine.mute, engine.changed
        most = math.ceil(SAMPLE_IDS / work.shares)
        ids = engine.ids_of(waiting, most) if work.feed.diagnose and len(waiting) else None
        outcome.unmatched = []
        files = writer.finish() if writer else []
        if watch:
            watch.close()
        yield parcels.account(Rendered(outcome, mute, changed, unmatched, kept, sent, ids, folder, files, watch))


def _write_held(work: Work, engine: ShareEngine, waiting: Ints, folder: Path | None) -> int:
    if work.feed.unmatched != "hold":
        return 0
    since = (
        parquet.read_table(work.held, columns=[held.SINCE])[held.SINCE] if work.held_count else pa.array([], pa.int64())
    )
    numbers = pa.array(np.arange(len(since), dtype=np.int64))
    path = folder / HELD_PART if folder else None
    told = Held.metadata(work.source, work.plan)
    return engine.write_held(waiting, pa.table({"seq": numbers, "since": since}), work.now, path, told)


def _writer(work: Work, stack: ExitStack) -> "_Attempt | None":
    if work.attempts is None or work.name is None:
        return None
    failpoints.reached = work.reached  # type: ignore[assignment]
    pgp = work.settings.pgp
    packer = None
    if pgp and work.feed.compression == "pgp":
        packer = stack.enter_context(encryption.opened(pgp)).packer
    folder = Path(mkdtemp(dir=work.attempts))
    return stack.enter_context(closing(_Attempt(folder, work.name, encrypted_by=packer)))


class _Attempt(FileWriter):
    """The files of one attempt of a task, in a folder that no other has."""

    def __init__(self, folder: Path, name: FileName, **options: object) -> None:
        super().__init__(folder, name, **options)  # type: ignore[arg-type]
        self.folder = folder


class _Nowhere:
    """The sink of a dry run."""

    def write(self, text: memoryview, count: int) -> None:
        pass


# --- small things ----------------------------------------------------------------------------------------------------


@contextmanager
def _engine(work: Work, threads: int) -> Iterator[ShareEngine]:
    with TemporaryDirectory(prefix="reconcile-", ignore_cleanup_errors=True) as scratch:
        kind = EmailShare if work.plan.email_dpid else ChangesShare if work.before else ShareEngine
        engine = kind(work.plan, Path(scratch), work.settings.reconcile.memory_limit, threads)
        with engine:
            yield engine
