"""The command line: `python -m reconcile`."""

import gc
import os

# Python would look for garbage each time that 700 objects were made: a fifth of what it takes to load the modules,
# which are none.
gc.set_threshold(100_000)
# NumPy would start threads for products of matrices, which wait by working.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from idsync.cli import start  # noqa: E402
from reconcile.commands import cli  # noqa: E402

__all__ = ["cli"]

if __name__ == "__main__":
    start(cli)
