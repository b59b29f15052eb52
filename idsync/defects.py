"""Logging of our own faults."""

import logging
import traceback

log = logging.getLogger("idsync")


def log_defect(error: BaseException) -> None:
    """What kind of error and where, but neither the request nor the error's own text: both may hold an ID."""
    log.error("%s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
