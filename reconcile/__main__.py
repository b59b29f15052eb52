"""The command line: `python -m reconcile`."""

from idsync.cli import start
from reconcile.commands import cli

__all__ = ["cli"]

if __name__ == "__main__":
    start(cli)
