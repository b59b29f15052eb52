"""Every error that a user can meet, as one tree.

    IdsyncError
    ├── ConfigError              2   the configuration file or an override is wrong
    ├── UsageError               2   a command names something that does not exist
    ├── MappingsMissing          1   a store lacks what was copied into it
    ├── StoreMisconfigured       2   the store answers, but is not the one that the settings describe
    └── StoreUnavailable        75   the store does not answer, or refuses writes: try again

The number is the exit status of the command line. `reconcile.errors` continues the tree.
"""

from collections.abc import Sequence


class IdsyncError(Exception):
    """What was tried, on what, why it failed, and how to mend it.

    `exit_status` follows sysexits: 1 refused data, 2 usage or configuration, 75 try again later.
    """

    exit_status = 2

    def __init__(self, problem: str, *, mend: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.problem}\n  → {self.mend}" if self.mend else self.problem


class ConfigError(IdsyncError):
    """All faults of a configuration at once; `faults` holds one line for each."""

    def __init__(self, source: str, faults: Sequence[str]) -> None:
        count = f"{len(faults)} fault{'s' if len(faults) != 1 else ''}"
        super().__init__(f"{source}: {count}\n" + "\n".join(f"  {fault}" for fault in faults))
        self.faults = tuple(faults)


class UsageError(IdsyncError):
    """A command names a data source, feed or file that does not exist."""


class MappingsMissing(IdsyncError):
    """A copy of a store is not whole."""

    exit_status = 1


class StoreMisconfigured(IdsyncError):
    """The store answers but can't be used with these settings."""


class StoreUnavailable(IdsyncError):
    """The store does not answer or refuses a write; nothing was stored, the same call may pass later."""

    exit_status = 75
