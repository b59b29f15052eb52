"""What a destination promises."""

from pathlib import Path
from typing import Protocol

from reconcile.files import FrozenFile


class Delivery(Protocol):
    """Offers a name with one byte sequence, for ever.

    `deliver` returns where the file lies once all of its bytes do. If the name is there already it compares: the same
    bytes count as delivered (an earlier try got through), other bytes raise DeliveryConflict and stay untouched.
    Raises DestinationUnavailable when a later try may pass, DestinationRefused when somebody must change something.
    """

    def deliver(self, path: Path, file: FrozenFile, planned_at: int) -> str:
        """`path` holds the bytes that `file` describes; `planned_at` is the run's time in milliseconds."""


def conflict(where: str) -> str:
    return f"{where} exists already with other bytes"


CONFLICT_MEND = (
    "Audience Manager takes a name once, so nothing was overwritten; find out who wrote the other file, "
    "move it away, and run again"
)
