"""What a destination promises, and the words that all of them use."""

import hashlib
from pathlib import Path
from typing import Protocol

from reconcile.errors import DestinationRefused
from reconcile.files import FrozenFile


class Delivery(Protocol):
    """Offers a name with one byte sequence, for ever.

    `deliver` returns where the file lies once all of its bytes do. If the name is there already it compares: the same
    bytes count as delivered (an earlier try got through), other bytes raise DeliveryConflict and stay untouched.
    Raises DestinationUnavailable when a later try may pass, DestinationRefused when somebody must change something.
    It tries once: `courier` tries again. It may be called by several threads, for different files.
    """

    def reach(self) -> None:
        """Offer nothing; raise where `deliver` could not offer anything now, as far as that can be told."""

    def deliver(self, path: Path, file: FrozenFile, planned_at: int) -> str:
        """`path` holds the bytes that `file` describes; `planned_at` is the run's time in milliseconds."""


def conflict(where: str) -> str:
    return f"{where} exists already with other bytes"


CONFLICT_MEND = (
    "Audience Manager takes a name once, so nothing was overwritten; find out who wrote the other file, "
    "move it away, and run again"
)
LATER = "the frozen files wait; run again later"
INCOMPARABLE = "exists already, and these credentials may not read it to see whether its bytes are the same"


def temporary_name(name: str) -> str:
    """Under which a file grows. Audience Manager picks up nothing that does not begin with ftp_dpm_ and the like."""
    return f".{name}.part"


def damaged(path: Path) -> DestinationRefused:
    return DestinationRefused(
        f"{path}: not the bytes that were frozen",
        mend="somebody or the disk changed it; put it back from a backup and run again; nothing of it was delivered",
    )


def see_whole(path: Path, file: FrozenFile) -> None:
    """Raise where the file on disk is not what was frozen."""
    if sha256(path) != file.sha256:
        raise damaged(path)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
