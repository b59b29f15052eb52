"""A limit on the bytes a second that all transfers to a destination take together."""

import time
from collections.abc import Callable
from threading import Lock

MEGABYTE = 1_000_000


class Bandwidth:
    """`take` returns once so many bytes may go. `megabytes_per_second` None: at once. For any number of threads."""

    def __init__(
        self,
        megabytes_per_second: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = megabytes_per_second * MEGABYTE if megabytes_per_second else None
        self._clock, self._sleep = clock, sleep
        self._lock = Lock()
        self._free_at = 0.0

    def take(self, count: int) -> None:
        if self._rate is None:
            return
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now) + count / self._rate
            wait = self._free_at - now
        self._sleep(wait)
