"""The commands of `python -m reconcile`, a module for each kind; importing one adds its commands to `cli`."""

from rich.console import Console

from idsync.cli import group

_MODULES = {
    "checks": ("check",),
    "files": ("sync-file",),
    "looks": ("feeds", "history", "report"),
    "privacy": ("erase", "sweep"),
    "receipts": ("receipt",),
    "runs": ("redeliver", "release", "run"),
    "segments": ("segments",),
    "watch": ("health",),
}

cli = group(
    "reconcile",
    "Joins offline records to the synced IDs and delivers files to Audience Manager.",
    {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names},
)


def aside() -> Console:
    """For people, beside what programs read from stdout."""
    return Console(stderr=True, highlight=False, soft_wrap=True)
