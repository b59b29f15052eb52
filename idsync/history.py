"""What was counted minute by minute, for a day: one small file that all workers of a service share.

    folder/status.ring     a record for each minute: its number since the epoch, then the sums at its beginning
           status.lock     held for writing, shared for reading

Records are of doubles, each at the place that its minute has by its number, so the file can't grow, and what is a day
old is overwritten. It begins with zeros for the minute before the first, since counters begin at zero with the service.
Sums never go down: one that is lower than the one before was read at a bad moment, and counts as that one.
"""

import fcntl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from idsync.metrics import locked

DAY_MINUTES = 1_440
# A day in quarter hours begins up to a quarter before; and the record before its beginning is needed, too.
_PLACES = DAY_MINUTES + 16
_BYTES = 8

Row = tuple[float, ...]


class Sample(NamedTuple):
    """`sums` at the beginning of a minute, which is given as minutes since the epoch."""

    minute: int
    sums: Row


class History:
    """Rows of `width` numbers."""

    def __init__(self, folder: Path, width: int) -> None:
        self._ring, self._lock = folder / "status.ring", folder / "status.lock"
        self._record = (width + 1) * _BYTES
        self._shape = (_PLACES, width + 1)

    def note(self, minute: int, sums: Callable[[], Row]) -> bool:
        """Write down the sums of this minute, unless some worker has; whether it was this one. Raises OSError."""
        with locked(self._lock, fcntl.LOCK_EX):
            held = self._read()
            ahead = bool(held) and held[-1].minute > minute + 1
            if held and held[-1].minute >= minute and not ahead:
                return False
            row = sums()
            if not held or ahead:
                # The clock was set back: what it wrote is of times that never were.
                self._ring.unlink(missing_ok=True)
                self._write(minute - 1, held[-1].sums if held else (0.0,) * len(row))
            self._write(minute, never_down(held, row))
        return True

    def read(self) -> list[Sample]:
        """All there are, oldest first. Raises OSError."""
        with locked(self._lock, fcntl.LOCK_SH):
            return self._read()

    def _read(self) -> list[Sample]:
        table = np.zeros(self._shape)
        if self._ring.exists():
            content = np.fromfile(self._ring)
            whole = len(content) // self._shape[1]  # the disk may have been full in the middle of a record
            table[:whole] = content[: whole * self._shape[1]].reshape(whole, -1)
        newest = int(table[:, 0].max())
        table = table[table[:, 0] > max(newest - _PLACES, 0)]
        table = table[np.argsort(table[:, 0])]
        return [Sample(int(minute), tuple(sums)) for minute, *sums in table.tolist()]

    def _write(self, minute: int, sums: Row) -> None:
        with self._ring.open("r+b" if self._ring.exists() else "w+b") as file:
            file.seek(minute % _PLACES * self._record)
            file.write(np.array([minute, *sums]).tobytes())


def never_down(held: Sequence[Sample], row: Row) -> Row:
    """`row`, but nowhere less than the last that is held."""
    return tuple(map(max, row, held[-1].sums)) if held else row


def increases(samples: Sequence[Sample], start: int, step: int, count: int) -> list[Row | None]:
    """What was counted in each of `count` intervals of `step` minutes from the minute `start` on. None where nothing
    is known: before the first sample, and where none was taken. The interval of the first counts from there on.

    What was counted while no samples were taken is part of the interval in which they begin again.
    """
    found: list[Row | None] = []
    before: Sample | None = None
    left = iter(samples)
    following = next(left, None)
    for begin in range(start, start + count * step, step):
        while following is not None and following.minute <= begin:
            before, following = following, next(left, None)
        last = before
        while following is not None and following.minute <= begin + step:
            before = before or following
            last, following = following, next(left, None)
        if before is None or last is None or last is before:
            found.append(None)
        else:
            found.append(tuple(now - then for now, then in zip(last.sums, before.sums, strict=True)))
        before = last
    return found
