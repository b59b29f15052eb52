"""Delivery by the executors: a task for each file, each time that it is tried.

Which files, when to try again, and when to stop is told by the driver's `Courier`, as on one machine; a task makes one
try, with the code that makes it there. It may be done twice, or live on after Spark has given it up: of one frozen file
only one at a time is at work (`InTurn`), and whoever comes later finds under its name the bytes that it has to bring.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from idsync.errors import IdsyncError
from idsync.settings import AnyDestination, DirectoryDestination, Settings, Store
from reconcile import failpoints
from reconcile.delivery import Opener, connect
from reconcile.delivery.courier import Courier, Patience
from reconcile.delivery.turns import InTurn
from reconcile.errors import DestinationRefused, StateUnavailable
from reconcile.failpoints import Point
from reconcile.files import FrozenFile
from reconcile.lock import Claim, Tenure
from reconcile.spark.session import ClusterFailed, Hands
from reconcile.spark.work import Failure

T = TypeVar("T")

_DIRECTORIES_PARALLEL = 16  # as many as `parallel` may be of the others
_SHARED = "in a file system that the driver and all executors share"


def opener(tenure: Tenure | None) -> Opener:
    """In place of `delivery.open_delivery`."""
    return partial(_open, tenure)


def _open(tenure: Tenure | None, destination: AnyDestination, settings: Settings) -> Courier:
    if isinstance(destination, DirectoryDestination):
        return Courier(_Directory(destination, settings, tenure), Patience(0), parallel=_DIRECTORIES_PARALLEL)
    rate, parallel = destination.max_megabytes_per_second, destination.parallel
    if rate:  # each task has a limit of its own, and together they keep to the destination's
        destination = destination.model_copy(update={"max_megabytes_per_second": rate / parallel})
    return Courier(_Remote(destination, settings, tenure), Patience(destination.retry_seconds), parallel=parallel)


# --- the driver's side -----------------------------------------------------------------------------------------------


class _Remote:
    """A Delivery whose every step is a task, and raises here what was raised there. The driver sends nothing."""

    def __init__(self, destination: AnyDestination, settings: Settings, tenure: Tenure | None) -> None:
        self._there = There(destination, settings.partner or "", settings.store, tenure.claim if tenure else None)
        self._tenure, self._hands = tenure, Hands()
        if tenure:
            tenure.at_loss = self._hands.drop

    def reach(self) -> None:
        self._done(self._there.reach)

    def deliver(self, path: Path, file: FrozenFile, planned_at: int) -> str:
        return self._done(partial(self._there.deliver, path, file, planned_at))

    def _done(self, do: Callable[[], T]) -> T:
        try:
            told = self._hands.do(partial(_told, do, failpoints.reached))
        except ClusterFailed:
            if self._tenure:
                self._tenure.check()  # that may be why
            raise
        if isinstance(told, Failure):
            raise told.error()
        return told


class _Directory(_Remote):
    """The driver makes it. What arrives has to be seen here: an executor's own disk may have such a folder, too."""

    def __init__(self, destination: DirectoryDestination, settings: Settings, tenure: Tenure | None) -> None:
        super().__init__(destination, settings, tenure)
        self._here = connect(destination, "")

    def reach(self) -> None:
        self._here.reach()

    def deliver(self, path: Path, file: FrozenFile, planned_at: int) -> str:
        where = super().deliver(path, file, planned_at)
        arrived = Path(where)
        if not arrived.exists() or arrived.stat().st_size != file.bytes:
            raise DestinationRefused(
                f"{where}: an executor has put it there, and the driver does not see it",
                mend=f"let the destination's path lie {_SHARED}, and run again",
            )
        return where


# --- the executors' side ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class There:
    """A Delivery, as an executor does it: once, with what it has of credentials."""

    destination: AnyDestination
    partner: str
    store: Store
    claim: Claim | None

    def reach(self) -> None:
        connect(self.destination, self.partner).reach()

    def deliver(self, path: Path, file: FrozenFile, planned_at: int) -> str:
        if not path.exists():
            raise StateUnavailable(f"{path}: no executor can see it", mend=f"let reconcile.state_dir lie {_SHARED}")
        if isinstance(self.destination, DirectoryDestination) and not self.destination.path.exists():
            raise DestinationRefused(
                f"{self.destination.path}: no executor can see it",
                mend=f"let the destination's path lie {_SHARED}, and run again",
            )
        return InTurn(connect(self.destination, self.partner), self._see_lease).deliver(path, file, planned_at)

    def _see_lease(self) -> None:
        """The driver has looked at it, too, but a task may have waited since, or be done for the second time."""
        if self.claim:
            self.claim.check(self.store)


def _told(do: Callable[[], T], reached: Callable[[Point], None]) -> T | Failure:
    """A task. The errors that a user can meet travel; of all others Spark takes care. `reached`: see `work.Work`."""
    failpoints.reached = reached  # type: ignore[assignment]
    try:
        return do()
    except IdsyncError as error:
        return Failure(type(error), error.problem, error.mend)
