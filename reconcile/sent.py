"""What was sent by the last delivered run of a feed that sends only changes: one Parquet file a feed.

`engine.changes` says what it holds. The file's metadata tell to whom it was sent, and by what the marks were made.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pyarrow import parquet

from idsync.settings import DataSource, Feed
from reconcile.engine.changes import VERSION
from reconcile.feed import Plan

SEEN = "seen"
_TO, _MARKS = "idsync.to", "idsync.marks"


class Sent(NamedTuple):
    """`path` is None where nothing is known that is of use. `marked`: the marks compare with those made now."""

    path: Path | None
    marked: bool


def metadata(feed: Feed, source: DataSource, plan: Plan) -> dict[str, str]:
    """What another file of the same feed would have to be compared with."""
    users = f"{feed.user_id} of {plan.other.dpid}" if plan.other else feed.user_id
    to = f"{source.dpid} as {users} to {plan.dpid}, {feed.target or 'its own traits'}, by {feed.destination}"
    # a mark is made of what was said, not of what was sent of it
    return {_TO: to, _MARKS: VERSION if plan.policy == "all" else f"{VERSION}, {plan.policy}"}


def look(path: Path, expected: Mapping[str, str]) -> Sent:
    """What went elsewhere, to another data source or under other IDs, says nothing of what is known here."""
    if not path.exists():
        return Sent(None, marked=False)
    found = {key.decode(): value.decode() for key, value in (parquet.read_metadata(path).metadata or {}).items()}
    if found.get(_TO) != expected[_TO]:
        return Sent(None, marked=False)
    return Sent(path, marked=found.get(_MARKS) == expected[_MARKS])
