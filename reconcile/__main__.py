"""The command line: `python -m reconcile`."""

from idsync.cli import start
from reconcile.commands import cli, files, looks, privacy, runs, watch

__all__ = ["cli", "files", "looks", "privacy", "runs", "watch"]

if __name__ == "__main__":
    start(cli)
