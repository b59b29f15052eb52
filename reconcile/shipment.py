"""What a run and an ID-sync job have in common: settle what an earlier one left, plan, freeze, deliver, record.

`state` says what lies where. A run that ends before its manifest is complete has offered nothing to anybody: the next
starts from the beginning, under a new name. One that ends later is delivered by the next run: same names, same bytes.
There are two exceptions. Where somebody opted out after the freeze, and no byte was offered to the destination yet, the
run is withdrawn, and its inputs are new again. And a run on hold is delivered by a release alone. As long as it waits
its feed stands still: its inputs count as new until they are delivered, so that a run that overtook it would send them
again, and what the feed holds and has sent is not known before.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

import duckdb

from idsync.errors import IdsyncError, StoreUnavailable, UsageError
from idsync.settings import AnyDestination, Settings
from idsync.store import open_store
from reconcile import durable, failpoints, tables
from reconcile.delivery import Opener, open_delivery
from reconcile.errors import RunHeldBack, RunLocked, RunRefused, StateDamaged, StateUnavailable
from reconcile.failpoints import Point
from reconcile.files import FrozenFile, check_limits
from reconcile.ledger import Ledger
from reconcile.lock import Tenure
from reconcile.manifest import control_files
from reconcile.optouts import OptOuts
from reconcile.progress import Meter
from reconcile.state import FeedState, RunFolder, withdraw

Clock = Callable[[], int]


class Account(Protocol):
    """What is known of a run; the Summary of a feed's, the SyncSummary of an ID-sync job."""

    feed: str
    run: str
    status: str
    destination: str
    planned_at: int
    frozen_at: int
    finished_at: int
    files: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    problem: str

    def as_dict(self) -> dict[str, Any]: ...


A = TypeVar("A", bound=Account)


class Shipment:
    """Of one feed, or of ID-sync files. `now` gives milliseconds. `opened` is how a destination is reached.

    `load` makes the account of what a manifest holds. `wait_for`, given that of frozen files, raises RunHeldBack for as
    long as they have to wait. `ended` comes last, when the run is recorded. Without a `tenure` nobody is asked whether
    the feed is still ours.
    """

    def __init__(
        self,
        settings: Settings,
        state: FeedState,
        *,
        meter: Meter,
        now: Clock,
        load: Callable[[dict[str, Any]], Account],
        tenure: Tenure | None = None,
        wait_for: Callable[[Account], None] = lambda _: None,
        ended: Callable[[RunFolder, Account], None] = lambda *_: None,
        opened: Opener = open_delivery,
    ) -> None:
        self._settings, self._state, self._meter, self._now = settings, state, meter, now
        self._load, self._tenure, self._wait_for, self._ended = load, tenure, wait_for, ended
        self._opened = opened
        self._feed = settings.feed(state.feed)
        self.ledger = Ledger(settings.reconcile.state_dir / "ledger.db")

    def settle(self) -> tuple[list[str], list[str]]:
        """Finish what interrupted runs left: clear away what was never frozen, deliver what was, or withdraw it.

        The runs delivered, and those withdrawn.
        """
        self._state.clear_leftovers()
        delivered, withdrawn = [], []
        for folder in [folder for folder in self._state.runs() if not folder.is_ended]:
            if self.is_outdated(folder):
                withdraw(folder, self.ledger, "somebody opted out before its files were offered")
                withdrawn.append(folder.name)
                continue
            account = self.account(folder)
            if folder.is_on_hold:
                self.keep_on_hold(account)
                raise RunHeldBack(
                    f"run {folder.name} is on hold, and no other of its feed may overtake it",
                    mend=f"look at its files in {folder.files}, then: python -m reconcile release {folder.name}",
                )
            self.deliver(folder, account)
            delivered.append(folder.name)
        self.ledger.abandon(self._state.feed, "interrupted before its files were frozen; its inputs stay new")
        return delivered, withdrawn

    def account(self, folder: RunFolder) -> Account:
        """Of a run that is frozen, as it was then. Raises StateDamaged where the run is not what was frozen: before
        anything is offered, since then it may still be given up.
        """
        with durable.telling(folder.manifest):
            manifest = folder.manifest.read_bytes()
        try:
            account = self._load(json.loads(manifest))
        except (ValueError, TypeError):
            raise self._damaged(folder, folder.manifest) from None
        for table in (folder.held, folder.sent):
            try:
                tables.see_whole(table)
            except StateDamaged:
                raise self._damaged(folder, table) from None
        return account

    def is_outdated(self, folder: RunFolder) -> bool:
        """Whether a run has to be withdrawn: nothing was offered, and the opt-outs are not those that it honours."""
        return folder.may_be_withdrawn and not self.honours_opt_outs(folder)

    def honours_opt_outs(self, folder: RunFolder) -> bool:
        """Whether nobody has opted out, or in, since the files were made."""
        with closing(open_store(self._settings.store)) as store:
            digest = OptOuts(0, store.opt_outs()).digest
        return folder.opt_outs.exists() and folder.opt_outs.read_text() == digest

    def begin(self, account: Account, *, on_hold: bool = False) -> tuple[RunFolder, int]:
        """A folder, and a time for the names of files, in UTC seconds. What is planned is written down first."""
        account.planned_at = self._now()
        agreed = {"agree": self._tenure.later} if self._tenure else {}
        account.run, timestamp = self.ledger.reserve(account.feed, account.planned_at // 1000, **agreed)
        failpoints.reached(Point.RESERVED)
        folder = self._state.run(account.run)
        with durable.telling(folder.path):
            folder.files.mkdir(parents=True)
            for made in folder.path.parents[:2]:  # the folders of all runs, and of the job
                durable.sync_folder(made)
        failpoints.reached(Point.FOLDER_MADE)
        if on_hold:
            folder.mark_on_hold()
        durable.write(folder.plan, as_json(account))
        failpoints.reached(Point.PLANNED)
        return folder, timestamp

    @contextmanager
    def freezing(self, folder: RunFolder, account: Account) -> Iterator[None]:
        """Around what fills the folder and the account's `files`. At its end the files are frozen, or gone."""
        try:
            with self._telling_disk(folder), tables.telling_damage(self._state.held, self._state.sent):
                folder.scratch.mkdir()
                yield
                shutil.rmtree(folder.scratch)
                self._freeze(folder, account)
        except RunRefused as error:
            account.status, account.problem = "refused", error.problem
            for made in (folder.files, folder.scratch):
                shutil.rmtree(made, ignore_errors=True)
            self.end(folder, account)
            raise
        except IdsyncError as error:
            account.status, account.problem = "failed", error.problem
            with suppress(StateUnavailable, StoreUnavailable):  # the disk may be full; the next run clears it away
                folder.remove()
                self.ledger.close(account.run, "failed", account.as_dict())
            raise

    def _freeze(self, folder: RunFolder, account: Account) -> None:
        files = frozen(account)
        check_limits(files)
        for name, content in control_files(files).items():
            durable.write(folder.path / name, content)
        failpoints.reached(Point.CONTROL_WRITTEN)
        self._check_tenure()
        account.status, account.frozen_at, account.steps = "frozen", self._now(), self._meter.take()
        durable.write(folder.manifest, as_json(account))
        failpoints.reached(Point.FROZEN)

    def keep_on_hold(self, account: Account) -> None:
        """Let the ledger say so; the folder does already."""
        account.status = "on-hold"
        self.ledger.close(account.run, account.status, account.as_dict())
        self._state.next_on_hold.unlink(missing_ok=True)

    def deliver(self, folder: RunFolder, account: A) -> A:
        """Offer the frozen files; once all have arrived, record it. Every step can be repeated."""
        try:
            if account.files and not folder.is_offered:
                self._wait_for(account)
            target = self._destination(account)
            self.carry(folder, account, target, mark_offered=True)
            account.destination = target.name
        except RunLocked:
            raise  # whoever has the feed now may have recorded more than we know
        except IdsyncError as error:
            account.status, account.problem = "frozen", error.problem
            with suppress(StoreUnavailable):  # the folder says so, too
                self.ledger.close(account.run, "frozen", account.as_dict())
            raise
        account.status, account.problem = "delivered", ""
        self.end(folder, account)
        return account

    def carry(self, folder: RunFolder, account: Account, target: AnyDestination, *, mark_offered: bool) -> None:
        """Offer the files to a destination; where each lies goes into the account."""
        step = self._meter.step("delivering", len(account.files))
        delivery = self._opened(target, self._settings)
        if account.files:
            delivery.reach()
        failpoints.reached(Point.REACHED)
        self._check_tenure()
        if mark_offered:
            folder.mark_offered()  # without files, too: it is about to be recorded
        failpoints.reached(Point.OFFERED)
        entries = {entry["name"]: entry for entry in account.files}
        arrived = delivery.deliver_all(folder.files, frozen(account), account.planned_at, permit=self._check_tenure)
        try:
            for file, location in arrived:
                entries[file.name]["location"] = location
                step.advance(1)
        except RunLocked:
            raise
        except (IdsyncError, OSError):  # a destination takes a file of ours that is not there for a fault of its own
            for file in frozen(account):
                if not (folder.files / file.name).exists():
                    raise self._damaged(folder, folder.files / file.name, "no such file, but it was frozen") from None
            raise
        failpoints.reached(Point.ALL_THERE)
        self._check_tenure()

    def end(self, folder: RunFolder, account: Account) -> None:
        """The ledger first: what it does not know is done again, and doing it again is harmless."""
        account.finished_at = self._now()
        account.steps += self._meter.take()
        self.ledger.close(account.run, account.status, account.as_dict())
        failpoints.reached(Point.RECORDED)
        delivered = account.status == "delivered"
        if delivered:
            self._take_over(folder)
        failpoints.reached(Point.STATE_MOVED)
        folder.mark_ended(account.finished_at, delivered=delivered)
        failpoints.reached(Point.ENDED)
        self._ended(folder, account)

    def _take_over(self, folder: RunFolder) -> None:
        """What the run has left to hold, and has sent, is from now on that of the feed."""
        with durable.telling(folder.path):
            for made, target in ((folder.held, self._state.held), (folder.sent, self._state.sent)):
                if made.exists():  # else an earlier try came so far
                    target.parent.mkdir(exist_ok=True)
                    durable.move(made, target)
            if self._feed and not self._feed.changes_only:
                self._state.sent.unlink(missing_ok=True)  # it would not know of this run
            for table in (self._state.held, self._state.sent):
                if table.exists() and not tables.rows(table):
                    table.unlink()

    def _damaged(self, folder: RunFolder, path: Path, problem: str = "damaged, or cut off") -> StateDamaged:
        """A file of a run, and what it means to go on without the run."""
        mend = "restore the file from a backup"
        if folder.is_delivered:
            return StateDamaged(f"{path}: {problem}", mend=mend)
        mend += f"; or give the run up, and remove the folder {folder.path}: "
        if any(row["state"] == "delivered" for row in self.ledger.runs([folder.name])):
            mend += "it is delivered, but the records that it was to hold are lost then, and what it sent is forgotten"
        else:
            mend += "what it has read is new again then"
            if folder.is_offered:
                mend += ", and what has arrived of its files arrives once more, under other names"
            elif folder.is_on_hold:
                mend += ", and on hold only by run --hold"
        return StateDamaged(f"{path}: {problem}", mend=mend)

    def _destination(self, account: Account) -> AnyDestination:
        """That of the feed now; of ID-sync files, and of a feed that is configured no more, the one then."""
        name = self._feed.destination if self._feed else account.destination
        return resolve_destination(self._settings, name)

    def _check_tenure(self) -> None:
        if self._tenure is not None:
            self._tenure.check()

    @contextmanager
    def _telling_disk(self, folder: RunFolder) -> Iterator[None]:
        """Disks fill up while DuckDB spills, too."""
        try:
            with durable.telling(folder.path):
                yield
        except duckdb.IOException as error:
            raise StateUnavailable(
                f"{folder.path}: {str(error).splitlines()[0]}",
                mend="free space there, or let the user that runs the job write there, and run again",
            ) from None


def frozen(account: Account) -> list[FrozenFile]:
    """The files of an account, without where they lie."""
    return [FrozenFile(**{key: value for key, value in entry.items() if key != "location"}) for entry in account.files]


def entries(files: list[FrozenFile]) -> list[dict[str, Any]]:
    """Files as an account has them."""
    return [asdict(file) for file in files]


def as_json(account: Account) -> bytes:
    return json.dumps(account.as_dict(), indent=2).encode()


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
