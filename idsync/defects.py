"""Logging of our own faults."""

import logging
import traceback

log = logging.getLogger("idsync")


def told(error: BaseException) -> str:
    """What kind of error and where, but neither the request nor the error's own text: both may hold an ID."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"


def log_defect(error: BaseException) -> None:
    log.error("%s", told(error))
