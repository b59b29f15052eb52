"""What the status page is about: facts of the moment and of the last day. Pure.

No fact is about a person: there is no ID, address or query among them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from idsync.feedruns import Told
from idsync.metrics import Tally
from idsync.outcomes import Outcome
from idsync.store.spool import Waiting

HOUR, QUARTERS, QUARTER_MINUTES = 60, 96, 15


class Kind(NamedTuple):
    """Outcomes that are drawn as one. `word` names the colour in the style sheet."""

    word: str
    name: str
    outcomes: frozenset[Outcome]


_KEPT = frozenset({Outcome.STORED, Outcome.SPOOLED})
FAILED = frozenset(outcome for outcome in Outcome if outcome.status >= 500)  # noqa: PLR2004
REFUSED = frozenset(outcome for outcome in Outcome if 400 <= outcome.status < 500)  # noqa: PLR2004
KINDS = (
    Kind("kept", "stored or spooled", _KEPT),
    Kind("answered", "answered, nothing to store", frozenset(Outcome) - _KEPT - FAILED - REFUSED),
    Kind("refused", "refused (4xx)", REFUSED),
    Kind("failed", "failed (5xx)", FAILED),
)


class Counted(NamedTuple):
    """The latest look at the whole store, at `at` milliseconds. `rows`: customers, mappings and opt-outs by DPID;
    `devices`: those opted out. `problem` in place of them: why there are none.
    """

    at: int
    rows: Mapping[int, tuple[int, int, int]] = {}
    devices: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Facts:
    """`now` in milliseconds; `not_ready`: why, "" when ready; `spool`: what waits there, or why nobody knows.

    `minutes`: what was counted in each of the last 60, the last of which still runs and ends at `now`; `quarters`: in
    each of the last 96 quarter hours, likewise. None where nothing is known. `since`: the first minute known, as
    milliseconds, None where there is no history. `sources`: names by DPID. `counted` None: not yet.
    """

    now: int
    not_ready: str
    spool: Waiting | str
    queue: int
    since: int | None
    minutes: tuple[Tally | None, ...]
    quarters: tuple[Tally | None, ...]
    sources: Mapping[int, str]
    feeds: tuple[str, ...]
    counted: Counted | None = None
    told: Told = field(default_factory=Told)
    history_problem: str = ""


def add(tallies: Sequence[Tally | None]) -> Tally | None:
    """All that is known of them; None where nothing is."""
    known = [tally for tally in tallies if tally is not None]
    if not known:
        return None
    return Tally(
        _sums([tally.calls for tally in known]),
        _sums([tally.denied for tally in known]),
        _sums([tally.within for tally in known]),
        sum(tally.store_failures for tally in known),
        sum(tally.spooled for tally in known),
    )


def _sums(rows: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(math.fsum(column) for column in zip(*rows, strict=True))


def of(tally: Tally, outcomes: frozenset[Outcome]) -> float:
    """How many calls had one of these outcomes."""
    return sum(count for outcome, count in zip(Outcome, tally.calls, strict=True) if outcome in outcomes)
