"""The commands of `python -m reconcile`, a module for each kind; importing one adds its commands to `cli`."""

from rich.console import Console

from idsync.cli import group

cli = group("reconcile", "Joins offline records to the synced IDs and delivers files to Audience Manager.")


def aside() -> Console:
    """For people, beside what programs read from stdout."""
    return Console(stderr=True, highlight=False, soft_wrap=True)
