"""What can stop a run. Continues the tree of `idsync.errors`.

IdsyncError
├── InputRefused             1   an input file can't be read as what it claims to be
├── RunRefused               1   the data of a run break a rule: too many rejects, sums that do not agree
├── Undiagnosed              1   the look at unmatched records ran out of room; the run is not concerned
├── StateDamaged             1   a file that the job keeps can't be read as what it is
├── DeliveryConflict         1   the destination already holds other bytes under this name
├── DestinationRefused       2   the destination says no, and will say no again: rights, bucket, path
├── DestinationUnavailable  75   the destination does not answer now
├── InputChanging           75   an input was written to while it was read
├── InputUnavailable        75   the place where inputs lie does not answer now
├── RunHeldBack             75   its files wait for a release, or for an ID-sync file
├── RunLocked               75   another run of this feed is under way, here or on another host
└── StateUnavailable        75   the disk does not take, or give, what the job keeps: full, or no rights
"""

from idsync.errors import IdsyncError


class InputRefused(IdsyncError):
    """An input file as a whole can't be used; nothing of it was."""

    exit_status = 1


class RunRefused(IdsyncError):
    """The run was stopped because of its data; nothing was delivered, its inputs stay new."""

    exit_status = 1


class Undiagnosed(IdsyncError):
    """The look at unmatched records ran out of memory or of room to spill. The run itself is not concerned."""

    exit_status = 1


class DeliveryConflict(IdsyncError):
    """A name is taken by other bytes. Never resolved by overwriting."""

    exit_status = 1


class StateDamaged(IdsyncError):
    """What the job keeps can't be read, and will not be by waiting. Nothing was made of it."""

    exit_status = 1


class DestinationRefused(IdsyncError):
    """Terminal until somebody changes a setting or a right; the frozen files wait."""


class DestinationUnavailable(IdsyncError):
    """Transient: the frozen files wait for the next run."""

    exit_status = 75


class InputChanging(IdsyncError):
    """Somebody is still writing an input."""

    exit_status = 75


class InputUnavailable(IdsyncError):
    """The place where inputs lie does not answer now; nothing was read."""

    exit_status = 75


class RunLocked(IdsyncError):
    """The feed's lock is held by others, or was lost to them."""

    exit_status = 75


class RunHeldBack(IdsyncError):
    """The files are frozen and offered to nobody, until somebody or something else has acted."""

    exit_status = 75


class StateUnavailable(IdsyncError):
    """What the job keeps can't be written or read now. Nothing more was offered; the next run goes on."""

    exit_status = 75
