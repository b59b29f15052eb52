"""A file's name, read part by part: all that is wrong with it, and what can be known in spite of that.

`names.parse` and `names.parse_id_sync` say yes or no; tests hold the three together.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Literal

from idsync.ids import DEVICE_ID_SHAPES
from reconcile.check.findings import Fault
from reconcile.names import AAM_UUID_DPID, Mode, Suffix

Kind = Literal["inbound", "adobe_id", "c2c_id"]

_KINDS: dict[str, Kind] = {"ftp_dpm_": "inbound", "adobe_id_": "adobe_id", "c2c_id_": "c2c_id"}
_DPID = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_SPLIT = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_TIMESTAMP = re.compile(r"[1-9][0-9]{8,9}", re.ASCII)
_SUFFIXES: tuple[Suffix, ...] = ("gpg", "pgp", "gz")
_DATE_FOLDER = re.compile(r"date=(.*)", re.DOTALL)

_DAY_SECONDS = 86_400
_FIRST_YEAR = 2007  # Audience Manager took its first file no earlier
_TEN_DIGITS = 10
_C2C_DPIDS = 2


@dataclass(slots=True)
class NameParts:
    """What a name tells; None or empty where it does not. `dpids` are those of the columns, in order."""

    kind: Kind | None = None
    dpids: tuple[int, ...] = ()
    target: int | None = None
    timestamp: int | None = None
    mode: Mode | None = None
    split: int | None = None
    suffix: Suffix = ""
    faults: list[Fault] = field(default_factory=list)

    @property
    def encrypted(self) -> bool:
        return self.suffix in {"gpg", "pgp"}

    @property
    def set_of_parts(self) -> tuple[object, ...] | None:
        """What the parts of a split file have in common; None for what can't be told."""
        if self.timestamp is None or not self.dpids:
            return None
        return (self.kind, self.dpids, self.target, self.timestamp, self.mode)


def read(name: str, now: int) -> NameParts:
    """The parts of `name`, and its faults; `now` is in seconds since the epoch."""
    parts = NameParts()
    prefix = next((prefix for prefix in _KINDS if name.startswith(prefix)), None)
    if prefix is None:
        message = "the name starts with none of ftp_dpm_, adobe_id_ and c2c_id_"
        # what can be told all the same: whether the content can be read
        last = name.rpartition(".")[2]
        parts.suffix = next((suffix for suffix in _SUFFIXES if suffix == last), "")
        parts.faults.append(Fault(1, "name-prefix", message))
        return parts
    parts.kind = _KINDS[prefix]
    head, dot, tail = name[len(prefix) :].partition(".")
    parts.faults += _read_numbers(parts, head, len(prefix) + 1)
    parts.faults += _read_endings(parts, tail.split(".") if dot else [], len(prefix) + len(head) + len(dot) + 1)
    if parts.timestamp is not None:
        parts.faults += _time_faults(parts.timestamp, len(prefix) + head.rfind("_") + 2, now)
    return parts


def _read_numbers(parts: NameParts, head: str, column: int) -> Iterator[Fault]:
    """DPIDs and timestamp, with `_` between them."""
    *dpids, timestamp = head.split("_")
    places = [column]
    for text in dpids:
        places.append(places[-1] + len(text) + 1)
    for place, text in zip(places, dpids, strict=False):
        if not _DPID.fullmatch(text):
            yield Fault(place, "name-dpid", "a DPID in the name is not a number of at most 10 digits")
    if all(_DPID.fullmatch(text) for text in dpids):
        yield from _take_dpids(parts, [int(text) for text in dpids], places)
    if not _TIMESTAMP.fullmatch(timestamp):
        yield Fault(places[-1], "name-timestamp", f"the timestamp is {_timestamp_problem(timestamp)}")
        return
    parts.timestamp = int(timestamp)


def _take_dpids(parts: NameParts, dpids: list[int], places: list[int]) -> Iterator[Fault]:
    least, most = {"inbound": (1, 2), "adobe_id": (2, None), "c2c_id": (_C2C_DPIDS, _C2C_DPIDS)}[parts.kind or ""]
    if len(dpids) < least or (most is not None and len(dpids) > most):
        asked = f"{least}" if least == most else f"{least} or {most}" if most else f"{least} or more"
        yield Fault(places[0], "name-dpid", f"{len(dpids)} DPIDs before the timestamp; it should be {asked}")
        return
    zeros = [at for at, dpid in enumerate(dpids) if dpid == AAM_UUID_DPID and (at or parts.kind != "adobe_id")]
    if zeros:
        yield Fault(places[zeros[0]], "name-dpid", "0 stands for AAM UUIDs, as the first DPID of an adobe_id file only")
        return
    if parts.kind == "inbound":
        parts.dpids, parts.target = (dpids[0],), (dpids[1] if len(dpids) > 1 else None)
        if dpids[0] in DEVICE_ID_SHAPES and parts.target is None:
            yield Fault(places[1], "name-target", f"{dpids[0]} is a global device data source: whose traits are these?")
        return
    if len(set(dpids)) < len(dpids):
        again = next(at for at, dpid in enumerate(dpids) if dpid in dpids[:at])
        yield Fault(places[again], "name-dpid", f"the DPID {dpids[again]} stands twice")
    parts.dpids = tuple(dpids)


def _read_endings(parts: NameParts, endings: list[str], column: int) -> Iterator[Fault]:
    """`sync` or `overwrite`, then a split number, then how it is packed."""
    modes = {"sync": "sync", "overwrite": "overwrite"} if parts.kind == "inbound" else {"sync": "sync"}
    if not endings or endings[0] not in modes:
        yield Fault(
            column, "name-mode", f"after the timestamp stands none of {', '.join(f'.{mode}' for mode in modes)}"
        )
        if endings and endings[0] not in {"sync", "overwrite", *_SUFFIXES} and not endings[0].isdecimal():
            endings = ["", *endings[1:]]  # a misspelt mode; what follows may be right
        elif not endings or endings[0] not in {"sync", "overwrite"}:
            endings = ["", *endings]
            column -= 1
    else:
        parts.mode = "overwrite" if endings[0] == "overwrite" else "sync"
    column += len(endings[0]) + 1
    rest = endings[1:]
    packed = [ending for ending in rest if ending in _SUFFIXES]
    # whatever else is wrong, this is what the bytes should be
    parts.suffix = next((suffix for suffix in _SUFFIXES if suffix in packed), "")
    if rest and rest[0] not in _SUFFIXES:
        if _SPLIT.fullmatch(rest[0]):
            parts.split = int(rest[0])
        else:
            yield Fault(
                column, "name-split", "what follows .sync or .overwrite is neither a split number nor an ending"
            )
        column += len(rest[0]) + 1
        rest = rest[1:]
    if len(rest) > 1:
        both = len(packed) > 1 and "gz" in packed
        message = "encrypted and gzipped at once" if both else f"something follows .{rest[0]}"
        yield Fault(column + len(rest[0]) + 1, "name-suffix", message)
    elif rest and rest[0] not in _SUFFIXES:
        yield Fault(column, "name-suffix", "the name ends in none of .gz, .gpg and .pgp")
    elif parts.encrypted and parts.kind != "inbound":
        yield Fault(column, "name-encrypted-sync", "an ID-sync file that is encrypted")


def _timestamp_problem(text: str) -> str:
    if not text:
        return "missing"
    if not (text.isascii() and text.isdecimal()):
        return "not a number"
    if text.startswith("0"):
        return "a number with a zero in front"
    in_milliseconds = "; this looks like milliseconds" if len(text) == _TEN_DIGITS + 3 else ""
    return f"{len(text)} digits long{in_milliseconds}"


def _time_faults(timestamp: int, column: int, now: int) -> Iterator[Fault]:
    text = str(timestamp)
    if len(text) < _TEN_DIGITS:
        yield Fault(column, "name-nine-digits", "the timestamp has nine digits, as in old examples")
        return
    if timestamp > now + _DAY_SECONDS:
        try:
            datetime.strptime(text, "%Y%m%d%H").replace(tzinfo=UTC)
            hint = "; this looks like a date in place of seconds"
        except ValueError:
            hint = ""
        yield Fault(column, "name-time", f"the timestamp lies in the future, on {_day(timestamp)}{hint}")
    elif datetime.fromtimestamp(timestamp, UTC).year < _FIRST_YEAR:
        yield Fault(column, "name-time", f"the timestamp is of {_day(timestamp)}, before Audience Manager was")


def folder_faults(folder: str, timestamp: int | None) -> Iterator[Fault]:
    """What is odd about a `date=yyyy-mm-dd` folder that the file lies in; other folders say nothing."""
    if (match := _DATE_FOLDER.fullmatch(folder)) is None:
        return
    try:
        day = datetime.strptime(match[1], "%Y-%m-%d").replace(tzinfo=UTC)
        well_formed = day.strftime("%Y-%m-%d") == match[1]
    except ValueError:
        well_formed = False
    if not well_formed:
        yield Fault(None, "date-folder", "the folder date=… is not a date")
    elif timestamp is not None and not -1 <= (day.date() - _day(timestamp)).days <= 1:
        yield Fault(None, "date-folder", f"the folder is of {match[1]}, the timestamp of {_day(timestamp)}")


def _day(timestamp: int) -> date:
    return datetime.fromtimestamp(timestamp, UTC).date()
