"""What tasks are told, and what they tell.

The driver asks all questions to which the answer may change: the time, the opt-outs, the files and how many records
are held. They come with `Work`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from idsync.errors import IdsyncError
from idsync.settings import DataSource, Feed, Settings
from idsync.store.base import Part
from reconcile.engine.duckdb import Ints, LeftOut, Outcome, Reject
from reconcile.failpoints import Point
from reconcile.feed import Plan
from reconcile.files import FrozenFile
from reconcile.inputs import Input
from reconcile.names import FileName
from reconcile.optouts import OptOuts
from reconcile.spark.traits import TraitCount

# Records of file number n, from 0 on, have numbers from (n + 1) << FILE_BITS on, those on hold the ones below: no task
# needs to know how many records another reads.
FILE_BITS = 40
HELD = -1  # in place of the number of a file

HELD_PART, SENT_PART = "held.parquet", "sent.parquet"


@dataclass(frozen=True)
class Before:
    """What was sent before, of a feed that sends only changes: a file in so many `parts`, or None for nothing.

    `marked` and `oldest`: see `ChangesEngine.load_sent`. `metadata` are those of what is sent now. `users`: the tokens
    of users who opted out. `complete`: who has no record in the inputs has vanished.
    """

    path: Path | None
    parts: int
    marked: bool
    oldest: int
    metadata: Mapping[str, str]
    users: frozenset[str]
    complete: bool = False


@dataclass(frozen=True)
class Work:
    """All that a task has to know. Times are in milliseconds since the epoch.

    `shares`: how many of customers, of users, and, where these have IDs of another data source, of devices. `parts`: of
    the store; `other_parts`: of that other data source. `wanted`: the customers to ask for, None for all. In
    `attempts`, a folder that is shared with the driver, each attempt of a task makes one for its files; None: nothing
    is written. `reached` is what stands in `failpoints` at the driver.
    """

    settings: Settings
    feed: Feed
    source: DataSource
    plan: Plan
    now: int
    shares: int
    sources: tuple[Input, ...]
    held: Path
    held_count: int
    opt_outs: OptOuts
    traits: frozenset[str]
    attempts: Path | None
    name: FileName | None
    reached: Callable[[Point], None]
    parts: tuple[Part | None, ...] = (None,)
    other_parts: tuple[Part, ...] = ()
    hash_opt_outs: OptOuts | None = None
    before: Before | None = None
    wanted: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Failure:
    """An error of a task that trying again would not mend. Spark would hand on no more than its text."""

    kind: type[IdsyncError]
    problem: str
    mend: str

    def error(self) -> IdsyncError:
        error = self.kind.__new__(self.kind)
        IdsyncError.__init__(error, self.problem, mend=self.mend)
        return error


@dataclass(frozen=True)
class Read:
    """Of one input, or of what is held: `count` records, of which some can't be used."""

    number: int
    count: int
    bad: list[Reject]


@dataclass(frozen=True)
class Reached:
    """Of one share of the devices. `left_out`: IDs of the other data source that can't be sent, by reason."""

    mappings: int
    left_out: dict[str, int]


@dataclass(frozen=True)
class Lost:
    """Of one share of the customers: how many rows of what was sent are `known`, and how many of them go. `held`: the
    records on hold, where these go, too.
    """

    known: int
    forgotten: int
    vanished: int
    held: list[Reject]


@dataclass(frozen=True)
class Judged:
    """Of one share of the customers."""

    superseded: int
    opted_out: Ints
    faults: list[Reject]
    items: list[LeftOut]
    staged: int
    mappings: int
    lost: Lost | None


@dataclass(frozen=True)
class Rendered:
    """Of one share of the users. `files` lie in `folder`. `mute` and `changed`: see `ChangesShare`. `held` and `sent`:
    how many rows were written.
    """

    outcome: Outcome
    mute: Ints
    changed: Ints
    unmatched: Ints
    held: int
    sent: int
    ids: pa.Table | None
    folder: Path | None
    files: list[FrozenFile]
    traits: TraitCount | None
