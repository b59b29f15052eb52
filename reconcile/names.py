"""The grammar of the names of inbound and ID-sync files, in both directions.

    ftp_dpm_DPID[_DPID_TARGET_DATA_OWNER]_TIMESTAMP(.sync|.overwrite)[.SPLIT_NUMBER][.gz|.gpg|.pgp]
    adobe_id_MASTERDPID_DPID[_DPID…]_TIMESTAMP.sync[.SPLIT_NUMBER][.gz]
    c2c_id_DPID_DPID_TIMESTAMP.sync[.SPLIT_NUMBER][.gz]

Source: Audience Manager documentation, "Amazon S3 name requirements for inbound data files" and "Name and content
requirements for ID synchronization files". Audience Manager ignores a name that it has processed before, so a name
stands for one byte sequence, for ever.
"""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, cast

Mode = Literal["sync", "overwrite"]
Suffix = Literal["", "gz", "gpg", "pgp"]
IdSyncKind = Literal["adobe_id", "c2c_id"]

AAM_UUID_DPID = 0  # what stands for AAM UUIDs in the name of an ID-sync file

MAX_TIMESTAMP = 9_999_999_999  # ten digits: the year 2286
_MIN_TIMESTAMP = 1_000_000_000  # ten digits since September 2001

_NAME = re.compile(
    r"ftp_dpm_(?P<dpid>[0-9]{1,10})(?:_(?P<target>[0-9]{1,10}))?_(?P<timestamp>[0-9]{9,10})"
    r"\.(?P<mode>sync|overwrite)(?:\.(?P<split>[0-9]{1,9}))?(?:\.(?P<suffix>gz|gpg|pgp))?",
    re.ASCII,
)
_ID_SYNC_NAME = re.compile(
    r"(?P<kind>adobe_id_(?=(?:[0-9]+_){2})|c2c_id_(?=(?:[0-9]+_){2}[0-9]+\.))(?P<dpids>(?:(?:0|[1-9][0-9]{0,9})_)+)"
    r"(?P<timestamp>[1-9][0-9]{8,9})\.sync(?:\.(?P<split>[1-9][0-9]{0,8}))?(?:\.(?P<suffix>gz))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class InboundName:
    """`timestamp` is in UTC seconds and renders as ten digits; `split` counts from 1, None for a file not split."""

    dpid: int
    timestamp: int
    mode: Mode
    target: int | None = None
    split: int | None = None
    suffix: Suffix = ""

    @property
    def warnings(self) -> list[str]:
        """What is odd about a name that was read, though Audience Manager may take it."""
        if self.timestamp < _MIN_TIMESTAMP:
            return [f"the timestamp {self.timestamp} has nine digits; current names have ten"]
        return []

    def render(self) -> str:
        """The file name. Raises ValueError unless the timestamp has ten digits: nine are read, never written."""
        if not _MIN_TIMESTAMP <= self.timestamp <= MAX_TIMESTAMP:
            raise ValueError(f"timestamp {self.timestamp} has not ten digits")
        target = f"_{self.target}" if self.target is not None else ""
        split = f".{self.split}" if self.split is not None else ""
        suffix = f".{self.suffix}" if self.suffix else ""
        return f"ftp_dpm_{self.dpid}{target}_{self.timestamp}.{self.mode}{split}{suffix}"

    def part(self, split: int | None) -> "InboundName":
        return replace(self, split=split)


def parse(name: str) -> InboundName:
    """The parts of a file name. Raises ValueError, saying which part is wrong, for what is not an inbound name.

    Nine digits of time, seen in old examples, are read; `warnings` of the result tells of them.
    """
    if (match := _NAME.fullmatch(name)) is None:
        raise ValueError(f"{name!r} is not ftp_dpm_DPID[_TARGET]_TIMESTAMP.(sync|overwrite)[.SPLIT][.gz|.gpg|.pgp]")
    part = match.groupdict()
    for field in ("dpid", "target", "timestamp", "split"):
        if part[field] is not None and part[field].startswith("0"):
            raise ValueError(f"{name!r}: {field} {part[field]!r} starts with 0")
    return InboundName(
        dpid=int(part["dpid"]),
        timestamp=int(part["timestamp"]),
        mode=cast(Mode, part["mode"]),
        target=int(part["target"]) if part["target"] else None,
        split=int(part["split"]) if part["split"] else None,
        suffix=cast(Suffix, part["suffix"] or ""),
    )


@dataclass(frozen=True, slots=True)
class IdSyncName:
    """`dpids` are in the order of the columns: two or more in an `adobe_id` file, the first that of the device IDs, and
    two in a `c2c_id` file. `timestamp` and `split` are as in an InboundName."""

    kind: IdSyncKind
    dpids: tuple[int, ...]
    timestamp: int
    split: int | None = None
    suffix: Literal["", "gz"] = ""

    def render(self) -> str:
        """The file name. Raises ValueError unless the timestamp has ten digits: nine are read, never written."""
        if not _MIN_TIMESTAMP <= self.timestamp <= MAX_TIMESTAMP:
            raise ValueError(f"timestamp {self.timestamp} has not ten digits")
        split = f".{self.split}" if self.split is not None else ""
        suffix = f".{self.suffix}" if self.suffix else ""
        return f"{self.kind}_{'_'.join(map(str, self.dpids))}_{self.timestamp}.sync{split}{suffix}"

    def part(self, split: int | None) -> "IdSyncName":
        return replace(self, split=split)


FileName = InboundName | IdSyncName


def parse_id_sync(name: str) -> IdSyncName:
    """The parts of the name of an ID-sync file. Raises ValueError for what is none, or names a DPID twice."""
    if (match := _ID_SYNC_NAME.fullmatch(name)) is None:
        raise ValueError(f"{name!r} is not adobe_id_MASTERDPID_DPID[_DPID…]_TIMESTAMP.sync[.SPLIT][.gz], nor c2c_id_…")
    part = match.groupdict()
    dpids = tuple(int(dpid) for dpid in part["dpids"].rstrip("_").split("_"))
    if len(set(dpids)) < len(dpids):
        raise ValueError(f"{name!r} names a DPID twice")
    kind = cast(IdSyncKind, part["kind"].rstrip("_"))
    if AAM_UUID_DPID in (dpids if kind == "c2c_id" else dpids[1:]):
        raise ValueError(f"{name!r}: only the first DPID of an adobe_id file can be 0")
    return IdSyncName(
        kind=kind,
        dpids=dpids,
        timestamp=int(part["timestamp"]),
        split=int(part["split"]) if part["split"] else None,
        suffix="gz" if part["suffix"] else "",
    )


def s3_key(partner: str, prefix: str, planned_at: int, name: str) -> str:
    """`<prefix><partner>/date=yyyy-mm-dd/<name>`; the day is that of `planned_at` (milliseconds) in UTC."""
    day = datetime.fromtimestamp(planned_at / 1000, UTC).strftime("%Y-%m-%d")
    return f"{prefix}{partner}/date={day}/{name}"
