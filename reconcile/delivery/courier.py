"""Carrying the files of a run to a destination: several side by side, and again where a later try may pass.

This is the only place that tries again: the clients below try once and say what kind of failure it was.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TypeVar

from idsync.errors import IdsyncError
from reconcile.delivery.base import Delivery
from reconcile.errors import DeliveryConflict, DestinationRefused, DestinationUnavailable, RunLocked
from reconcile.files import FrozenFile

T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0
# Of several failures the one is told that needs somebody most.
_GRAVITY = (RunLocked, DeliveryConflict, DestinationRefused, DestinationUnavailable)


@dataclass(frozen=True, slots=True)
class Patience:
    """Try again for `seconds` after the first failure, with pauses that grow, each shortened by chance (full jitter).

    `chance` gives a share from 0 to 1.
    """

    seconds: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep
    chance: Callable[[], float] = random.random

    def persist(self, operation: Callable[[], T], *, unless: Callable[[], bool] = lambda: False) -> T:
        """What `operation` returns. Its last DestinationUnavailable once the time is up, or `unless` says so."""
        end: float | None = None
        longest = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return operation()
            except DestinationUnavailable:
                now = self.clock()
                end = now + self.seconds if end is None else end
                pause = longest * self.chance()
                if now + pause >= end or unless():
                    raise
            self.sleep(pause)
            longest = min(2 * longest, _LONGEST_PAUSE_SECONDS)


class Courier:
    """A Delivery that is patient, and takes the files of a run all at once."""

    def __init__(self, delivery: Delivery, patience: Patience, *, parallel: int = 1) -> None:
        self._delivery, self._patience, self._parallel = delivery, patience, parallel

    def reach(self) -> None:
        self._patience.persist(self._delivery.reach)

    def deliver(self, path: Path, file: FrozenFile, planned_at: int) -> str:
        return self._patience.persist(lambda: self._delivery.deliver(path, file, planned_at))

    def deliver_all(
        self,
        folder: Path,
        files: Sequence[FrozenFile],
        planned_at: int,
        *,
        permit: Callable[[], object] = lambda: None,
    ) -> Iterator[tuple[FrozenFile, str]]:
        """Each file of `folder` with where it lies, as they arrive. `permit` raises where none may be begun any more.

        After a failure nothing new is begun or tried again, what is under way ends, and the gravest failure is raised.
        """
        stopped = Event()

        def carry(file: FrozenFile) -> str | None:
            if stopped.is_set():
                return None
            try:
                permit()
                return self._patience.persist(
                    lambda: self._delivery.deliver(folder / file.name, file, planned_at), unless=stopped.is_set
                )
            except IdsyncError:
                stopped.set()
                raise

        failures: list[IdsyncError] = []
        with ThreadPoolExecutor(max_workers=self._parallel, thread_name_prefix="delivery") as pool:
            under_way = {pool.submit(carry, file): file for file in files}
            try:
                for future in as_completed(under_way):
                    try:
                        where = future.result()
                    except IdsyncError as error:
                        failures.append(error)
                        continue
                    if where is not None:
                        yield under_way[future], where
            finally:  # also where whoever asks for the files has had enough
                stopped.set()
        if failures:
            raise min(failures, key=_gravity)


def _gravity(failure: IdsyncError) -> int:
    return next((rank for rank, kind in enumerate(_GRAVITY) if isinstance(failure, kind)), -1)
