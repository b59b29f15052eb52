"""Every place where a run, or an ID-sync job, may die: between two things that last.

`reached` does nothing, and nothing can be set to make it do more. Tests put another function in its place, in a process
of their own, and kill that process at each point in turn; what is started then has to finish the work.
"""

from enum import Enum, auto


class Point(Enum):
    """In the order in which a run comes by."""

    RESERVED = auto()  # the ledger has its ID and time, the disk nothing
    FOLDER_MADE = auto()  # and a folder without a plan
    PLANNED = auto()
    FILE_BEGUN = auto()  # lines are on disk, under a temporary name
    FILE_CLOSED = auto()  # a file is whole
    FILE_NAMED = auto()  # and has its name, others perhaps not yet
    FILES_NAMED = auto()
    CONTROL_WRITTEN = auto()  # what only lacks the manifest
    FROZEN = auto()
    REACHED = auto()  # the destination answers, and was offered nothing
    OFFERED = auto()
    FILE_HALF_THERE = auto()  # some of a file's bytes are there, under a temporary name
    FILE_THERE = auto()  # a file is there, its folder not synced
    ALL_THERE = auto()
    RECORDED = auto()  # the ledger knows; what the feed holds and has sent does not
    STATE_MOVED = auto()  # all that is left is the mark
    ENDED = auto()
    WITHDRAWN = auto()  # the ledger says so, the folder is there still
    SET_ASIDE = auto()  # a folder that goes is out of sight, and not gone
    RELEASED = auto()  # on hold no more, not offered yet
    SENT_KEPT = auto()  # an ID-sync job with nothing to send has noted what there is


def reached(point: Point) -> None:
    """A run has come to this point."""
