"""Frozen files that go out at somebody's word: a run that was on hold, or one that was delivered, once more."""

from dataclasses import dataclass, field
from typing import Any

from idsync.errors import UsageError
from idsync.settings import Settings
from reconcile import durable, statusfile, syncfile
from reconcile.delivery.base import sha256
from reconcile.errors import RunHeldBack, RunRefused
from reconcile.ledger import Ledger
from reconcile.lock import Tenure, sole
from reconcile.progress import Meter
from reconcile.run import Job
from reconcile.shipment import Account, Clock, Shipment, frozen, resolve_destination
from reconcile.state import FeedState, RunFolder, withdraw


@dataclass(slots=True)
class Redelivery:
    """`files` are entries of the run's manifest; `location` is where each of them lies now."""

    run: str
    feed: str
    destination: str
    redelivered_at: int = 0
    files: list[dict[str, Any]] = field(default_factory=list)


def release(settings: Settings, run: str, *, meter: Meter, now: Clock) -> Account:
    """Deliver a run that is on hold. Where somebody opted out since, it is withdrawn instead: RunHeldBack."""
    state, folder = _find(settings, run)
    with sole(settings, state) as tenure, statusfile.told(settings.reconcile.state_dir):
        shipment = _shipment(settings, state, meter=meter, now=now, tenure=tenure)
        if not folder.is_frozen or not folder.is_on_hold:
            raise UsageError(f"run {run} is not on hold", mend="see python -m reconcile history")
        if shipment.is_outdated(folder):
            withdraw(folder, shipment.ledger, "somebody opted out before its files were released")
            raise RunHeldBack(
                f"run {run} was withdrawn: somebody has opted out, or in again, since its files were made",
                mend=f"make them anew: python -m reconcile run {state.feed}; what it makes is on hold again",
            )
        account = shipment.account(folder)
        folder.release()
        return shipment.deliver(folder, account)


def redeliver(
    settings: Settings,
    run: str,
    *,
    to: str | None = None,
    despite_opt_outs: bool = False,
    meter: Meter,
    now: Clock,
) -> Redelivery:
    """Offer the files of a delivered run once more, under the same names, to where they went or to `to`.

    Raises UsageError for a run that is not there, RunRefused where files are gone or were changed, or where somebody
    has opted out since, unless that is to be no matter.
    """
    state, folder = _find(settings, run)
    with sole(settings, state) as tenure:
        if not folder.is_delivered:
            raise UsageError(f"run {run} was not delivered yet", mend="see python -m reconcile history")
        shipment = _shipment(settings, state, meter=meter, now=now, tenure=tenure)
        account = shipment.account(folder)
        target = resolve_destination(settings, to or _delivered_to(shipment.ledger, account))
        _see_files(folder, account)
        if not despite_opt_outs and not shipment.honours_opt_outs(folder):
            raise RunRefused(
                f"somebody has opted out, or in again, since the files of run {run} were made, and they may hold them",
                mend="leave it at that, or say --despite-opt-outs: the same bytes were delivered once",
            )
        shipment.carry(folder, account, target, mark_offered=False)
        told = Redelivery(run, state.feed, target.name, now(), account.files)
        shipment.ledger.redelivered(run, target.name, told.redelivered_at, told.files)
        return told


def _find(settings: Settings, run: str) -> tuple[FeedState, RunFolder]:
    """A run that is kept. Raises UsageError for one that never was, or whose time is over."""
    feed = run.partition("-")[2]
    state = FeedState(settings.reconcile.state_dir, feed)
    known = {folder.name: folder for folder in state.runs()}
    if run not in known:
        gone = any(row["run"] == run for row in Ledger(settings.reconcile.state_dir / "ledger.db").history(feed))
        problem = "is kept no more: reconcile.keep_runs_days are over, or it failed" if gone else "is not known"
        raise UsageError(f"run {run} {problem}", mend="see python -m reconcile history for the runs that there are")
    return state, known[run]


def _see_files(folder: RunFolder, account: Account) -> None:
    for file in frozen(account):
        path = folder.files / file.name
        with durable.telling(path):
            if not path.exists():
                problem = "is kept no more: reconcile.keep_files_days are over, or somebody in it was erased"
            elif sha256(path) != file.sha256:
                problem = "is not what was frozen: somebody or the disk changed it"
            else:
                continue
        raise RunRefused(f"{path} {problem}", mend="nothing was offered; it can't be made again under this name")


def _delivered_to(ledger: Ledger, account: Account) -> str:
    """By the ledger: the manifest was written before the delivery."""
    rows = (row for row in ledger.history(account.feed) if row["run"] == account.run)
    return str(next(rows, {}).get("destination") or account.destination)


def _shipment(settings: Settings, state: FeedState, *, meter: Meter, now: Clock, tenure: Tenure) -> Shipment:
    if dpids := syncfile.dpids_of(state.feed):
        sources = [source for source in settings.data_sources if source.dpid in dpids]
        return syncfile.Job(settings, sources, state, meter=meter, now=now, tenure=tenure).shipment
    return Job(settings, state.feed, meter, now, tenure=tenure).shipment
