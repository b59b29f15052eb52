"""What is done once in each of the processes in which Spark runs Python. No Spark here."""

import gc
from functools import cache


@cache
def settle_in() -> None:
    """Spark's Python collects garbage after each use, and would each time look through all that was imported."""
    gc.freeze()
