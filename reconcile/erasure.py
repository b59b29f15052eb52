"""Finding and erasing customers and devices in all that the job keeps.

Fields are compared whole and byte for byte: the ID column of records that are held or rejected, the samples of reports
and of what is to be reported, the first column of files. What a feed keeps is searched for the customers of its data
source; what is left of a feed that is in the configuration no more, for those of all. Input files are the customer's
own and are not looked at.
"""

import gzip
import json
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from idsync import ids
from idsync.errors import UsageError
from idsync.settings import Settings
from reconcile import durable, rejects, report, tables
from reconcile.errors import RunLocked, StateDamaged, StateUnavailable
from reconcile.feed import USER_IDS
from reconcile.ledger import Ledger
from reconcile.lock import exclusive
from reconcile.names import parse_id_sync
from reconcile.state import FeedState, RunFolder, feeds, withdraw
from reconcile.strike import strike
from reconcile.why import Diagnosis

_BLOCK_BYTES = 1 << 24
_LOOKS = 3


class Sought(NamedTuple):
    """Who is sought: customer IDs by DPID, and UUIDs."""

    customers: Mapping[int, frozenset[str]]
    uuids: frozenset[str]

    def customer_ids(self, dpid: int | None) -> frozenset[str]:
        """Those of a data source; of all for None."""
        if dpid is not None:
            return self.customers.get(dpid, frozenset())
        return frozenset().union(*self.customers.values())


class Trace(NamedTuple):
    """Something that holds the ID of somebody sought, `hits` times. `run`: the folder that it lies in, if in one."""

    kind: str
    path: Path
    hits: int
    run: RunFolder | None = None


@dataclass(slots=True)
class Account:
    """What was removed, or found, by place; then what is not in the job's hands.

    `directories`: in files that were delivered to a folder. `waiting` files were offered to a destination, perhaps in
    part, and go out as they are; `delivered` ones lie there.
    `unreadable` files are damaged: who is in them is not known, and they stay.
    `busy` feeds have a run under way and were passed over: try again.
    """

    held: dict[str, int] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    rejects: dict[str, int] = field(default_factory=dict)
    why: dict[str, int] = field(default_factory=dict)
    reports: dict[str, int] = field(default_factory=dict)
    frozen: dict[str, int] = field(default_factory=dict)
    directories: dict[str, int] = field(default_factory=dict)
    withdrawn: list[str] = field(default_factory=list)
    leftovers: int = 0
    waiting: dict[str, int] = field(default_factory=dict)
    delivered: dict[str, int] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Of each place how many records or lines hold an ID that is sought, and in which files."""
        places = {
            "held": ("records", self.held),
            "sent": ("users", self.sent),
            "rejects": ("records", self.rejects),
            "why": ("samples", self.why),
            "reports": ("samples", self.reports),
            "frozen": ("lines", self.frozen),
            "directories": ("lines", self.directories),
            "waiting": ("lines", self.waiting),
            "delivered": ("lines", self.delivered),
        }
        told: dict[str, Any] = {
            name: {unit: sum(found.values()), "files": sorted(found)} for name, (unit, found) in places.items()
        }
        rest = {"withdrawn": self.withdrawn, "leftovers": self.leftovers, "unreadable": self.unreadable}
        return {**told, **rest, "busy": self.busy}


def parse(lines: Iterable[bytes]) -> Sought:
    """Lines of JSON, `{"dpid": 12345, "customer_id": "x"}` or `{"uuid": "<38 digits>"}`. Raises UsageError; no message
    quotes a line."""
    customers: dict[int, set[str]] = defaultdict(set)
    uuids: set[str] = set()
    for number, line in enumerate(lines, start=1):
        try:
            asked = json.loads(line)
        except ValueError:
            asked = None
        match asked:
            case {"dpid": int(dpid), "customer_id": str(customer_id), **rest} if not rest:
                customers[dpid].add(customer_id)
            case {"uuid": str(uuid), **rest} if not rest and ids.is_uuid(uuid):
                uuids.add(uuid)
            case _:
                mend = 'give {"dpid": 12345, "customer_id": "…"} or {"uuid": "<38 digits>"}, one a line'
                raise UsageError(f"standard input, line {number}: not a customer or device", mend=mend)
    return Sought({dpid: frozenset(found) for dpid, found in customers.items()}, frozenset(uuids))


def find(settings: Settings, sought: Sought) -> Account:
    """What holds these IDs. Changes nothing, takes no lock, and does not look at what a run under way is making."""
    account = Account()
    looked: dict[str, int] = {}
    for name in _all_feeds(settings):
        state = FeedState(settings.reconcile.state_dir, name)
        for trace in _steady(partial(_traces, state, settings, sought, account, looked)):
            _enter(account, trace)
    _look_at_destinations(settings, sought, account, looked, remove=False)
    return account


def erase(settings: Settings, sought: Sought, patience_seconds: float) -> Account:
    """Remove all that holds these IDs and is ours to remove. What stays is in the account. Can be repeated."""
    account = Account()
    looked: dict[str, int] = {}
    ledger = Ledger(settings.reconcile.state_dir / "ledger.db")
    for name in _all_feeds(settings):
        state = FeedState(settings.reconcile.state_dir, name)
        try:
            with exclusive(state.lock, name, patience_seconds=patience_seconds):
                account.leftovers += state.clear_leftovers()
                for trace in list(_traces(state, settings, sought, account, looked)):
                    _enter(account, trace)
                    _remove(trace, _customers(settings, name, sought), _users(settings, name, sought), ledger)
        except RunLocked:
            account.busy.append(name)
    _look_at_destinations(settings, sought, account, looked, remove=True)
    return account


# --- looking ---------------------------------------------------------------------------------------------------------


def _all_feeds(settings: Settings) -> list[str]:
    return sorted({feed.name for feed in settings.feeds} | feeds(settings.reconcile.state_dir))


def _customers(settings: Settings, feed_name: str, sought: Sought) -> frozenset[str]:
    """The customer IDs to look for in what is kept of a feed."""
    feed = settings.feed(feed_name)
    source = settings.data_source(feed.data_source) if feed else None
    return sought.customer_ids(source.dpid if source else None)


def _users(settings: Settings, feed_name: str, sought: Sought) -> frozenset[str]:
    """What else stands for a person in what a feed sends: a UUID, or the ID of another data source that it names."""
    feed = settings.feed(feed_name)
    named = {feed.user_id, feed.email_data_source}.difference(USER_IDS) if feed else set()
    others = [source.dpid for source in settings.data_sources if source.name in named]
    return sought.uuids.union(*(sought.customer_ids(dpid) for dpid in others))


def _traces(
    state: FeedState, settings: Settings, sought: Sought, account: Account, looked: dict[str, int]
) -> Iterator[Trace]:
    """`looked` takes the number of lines found in each file of a run, by its name."""
    customers, users = _customers(settings, state.feed, sought), _users(settings, state.feed, sought)
    tables_of_records = [(state.held, None), *((run.held, run) for run in state.runs() if run.is_frozen)]
    for path, run in tables_of_records:
        if count := _counted(partial(tables.count, path, partial(_among, customers)), path, account):
            yield Trace("held", path, count, run)
    for path, run in [(state.sent, None), *((run.sent, run) for run in state.runs() if run.is_frozen)]:
        if count := _counted(partial(tables.count, path, partial(_sent_to, customers, users)), path, account):
            yield Trace("sent", path, count, run)
    for run in state.runs():
        rejected = run.rejects
        if rejected.exists() and (count := _counted(partial(rejects.count, rejected, customers), rejected, account)):
            yield Trace("rejects", rejected, count, run)
        for kind, path in (("why", run.why), ("reports", run.report)):
            if path.exists() and (count := report.samples_of(path, customers)):
                yield Trace(kind, path, count, run)
        if not run.is_frozen:
            continue
        kind = "frozen" if run.is_delivered else "withdrawn" if run.may_be_withdrawn else "waiting"
        for path in run.frozen_files():
            looked[path.name] = _lines(path, customers | users, account)
            if looked[path.name]:
                yield Trace(kind, path, looked[path.name], run)


def _look_at_destinations(
    settings: Settings, sought: Sought, account: Account, looked: dict[str, int], *, remove: bool
) -> None:
    """A folder can be searched, and lines be taken out of its files; of a bucket it is only known what a copy of ours
    has told. Files of a run that goes on will be compared with what was frozen, and stay.
    """
    waiting = {Path(path).name for path in account.waiting}
    for delivered in Ledger(settings.reconcile.state_dir / "ledger.db").deliveries():
        count = looked.get(delivered.name)
        path = Path(delivered.location)
        place = account.delivered
        if path.is_absolute():
            if not path.exists():
                continue
            users = _customers(settings, delivered.feed, sought) | _users(settings, delivered.feed, sought)
            if count is None:
                count = _lines(path, users, account)
            if count and path.name not in waiting:
                place = account.directories
                if remove:
                    place, count = _struck(path, users, count, account)
        if count:
            place[delivered.location] = count


def _struck(path: Path, users: frozenset[str], count: int, account: Account) -> tuple[dict[str, int], int]:
    """Under what to account for a delivered file, and how many lines: gone, or left where we may not write."""
    try:
        removed = strike(path, {user.encode() for user in users}, len(_id_columns(path.name)[0]))
    except StateUnavailable:
        return account.delivered, count
    return account.directories, removed


def _counted(count: Callable[[], int], path: Path, account: Account) -> int:
    """What is counted in a file; a damaged one keeps nobody from what lies elsewhere."""
    try:
        return count()
    except (StateDamaged, gzip.BadGzipFile, zlib.error, EOFError):
        account.unreadable.append(str(path))
        return 0


def _lines(path: Path, users: frozenset[str], account: Account) -> int:
    """How many lines of a file are of these users."""
    if not users:
        return 0
    wanted = pa.array([user.encode() for user in users], pa.binary())
    names, rest = _id_columns(path.name)
    try:
        with arrow_csv.open_csv(
            path,  # .gz is told by the name
            read_options=arrow_csv.ReadOptions(column_names=[*names, *rest], block_size=_BLOCK_BYTES),
            parse_options=arrow_csv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=names, column_types=dict.fromkeys(names, pa.binary())
            ),
        ) as reader:
            return sum(_hits(batch, wanted) for batch in reader)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        account.unreadable.append(str(path))
        return 0


def _id_columns(name: str) -> tuple[list[str], list[str]]:
    """The columns of a file of this name that hold IDs, and the others: all of an ID-sync file, else the first."""
    try:
        return [f"id {number}" for number, _ in enumerate(parse_id_sync(name).dpids)], []
    except ValueError:
        return ["user"], ["items"]


def _hits(batch: pa.RecordBatch, wanted: pa.Array) -> int:
    found = np.zeros(len(batch), bool)
    for column in batch.columns:
        found |= pc.is_in(column, wanted).to_numpy(zero_copy_only=False)
    return int(np.count_nonzero(found))


def _among(customers: frozenset[str], batch: pa.RecordBatch) -> tables.Mask:
    """The ID column of held records is the first."""
    found: tables.Mask = pc.is_in(batch.column(0), pa.array(customers, pa.string())).to_numpy(zero_copy_only=False)
    return found


def _sent_to(customers: frozenset[str], users: frozenset[str], batch: pa.RecordBatch) -> tables.Mask:
    """A UUID is kept in two halves."""
    found = _among(customers, batch)
    if "other_id" in batch.schema.names:
        theirs: tables.Mask = pc.is_in(batch.column("other_id"), pa.array(users, pa.string())).to_numpy(False)
        return found | theirs
    highs, lows = (batch.column(name).to_numpy() for name in ("high", "low"))
    for uuid in users:
        half = len(uuid) // 2
        found = found | ((highs == int(uuid[:half])) & (lows == int(uuid[half:])))
    return found


def _steady(look: Callable[[], Iterator[Trace]]) -> list[Trace]:
    """Without a lock a run may move or remove what is being looked at: then the look is taken again."""
    for _ in range(_LOOKS - 1):
        try:
            return list(look())
        except FileNotFoundError:
            continue
    return list(look())


# --- removing --------------------------------------------------------------------------------------------------------


def _enter(account: Account, trace: Trace) -> None:
    if trace.kind == "withdrawn" and trace.run:
        if trace.run.name not in account.withdrawn:
            account.withdrawn.append(trace.run.name)
        return
    found: dict[str, int] = getattr(account, trace.kind)
    found[str(trace.path)] = trace.hits


def _remove(trace: Trace, customers: frozenset[str], users: frozenset[str], ledger: Ledger) -> None:
    match trace.kind:
        case "held":
            # an empty one of a run says that nothing waits any more once it is delivered
            tables.remove(trace.path, partial(_among, customers), keep_empty=trace.run is not None)
        case "sent":
            choice = partial(_sent_to, customers, users)
            tables.remove(trace.path, choice, keep_empty=trace.run is not None)
        case "rejects":
            rejects.remove(trace.path, customers)
        case "why":
            found = Diagnosis.from_dict(json.loads(trace.path.read_bytes()))
            found = found.keeping(lambda pair, _: customers.isdisjoint(pair))
            durable.write(trace.path, json.dumps(found.as_dict(reveal=True)).encode())
        case "reports" if trace.run:
            # they can be made again, out of what has been searched as well
            trace.run.remove_report()
        case "frozen":
            trace.path.unlink()
            durable.sync_folder(trace.path.parent)
        case "withdrawn" if trace.run and trace.run.path.exists():
            withdraw(trace.run, ledger, "a person in its files was erased before they were offered")
