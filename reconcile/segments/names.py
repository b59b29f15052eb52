"""The grammar of the names of outbound files. Pure.

    [SYNC_TYPE][_DESTINATION_ID][_MASTER_DPID][_PID_ALIAS][_iter|_full][_TIMESTAMP][SPLIT].sync[.gz]

Every element is optional. The timestamp has 13 digits, UTC milliseconds; the split number is glued to it, with at least
three digits, or, as the page about control files has it, follows a hyphen: both are read. The file before the first
split has none. Source: Audience Manager documentation, "Outbound Data File Name: Syntax and Examples".
"""

import re
from typing import Literal, NamedTuple

Mode = Literal["iter", "full"]

CONTROL = ".info"

_ENDING = re.compile(r"\.sync(?:\.gz)?", re.IGNORECASE)
_TIMED = re.compile(
    r"(?P<root>(?:.*[^0-9])?(?P<timestamp>[0-9]{13}))(?:(?P<glued>[0-9]{3,9})|-(?P<hyphen>[0-9]{1,9}))?", re.ASCII
)
_UNTIMED = re.compile(r"(?P<root>.*?)(?:-(?P<hyphen>[0-9]{1,9}))?", re.ASCII)
_MODE = re.compile(r"(?:^|_)(iter|full)(?=_|-|$|[0-9]{13})")


class OutboundName(NamedTuple):
    """In the order in which files are to be read. `root` is what the files of one export share, and their control file.

    `timestamp` and `split` are 0 where there is none; `mode` is None where the name does not tell.
    """

    timestamp: int
    root: str
    split: int
    mode: Mode | None = None


def parse(name: str) -> OutboundName:
    """Of any name; what is no outbound name is its own root."""
    ending = _ENDING.search(name)
    stem = name[: ending.start()] if ending and ending.end() == len(name) else name
    match = _TIMED.fullmatch(stem) or _UNTIMED.fullmatch(stem)
    part = match.groupdict() if match else {"root": stem}
    modes = _MODE.findall(part["root"])
    split = part.get("glued") or part.get("hyphen") or "0"
    return OutboundName(int(part.get("timestamp") or 0), part["root"], int(split), modes[-1] if modes else None)


def is_outbound(name: str) -> bool:
    """Whether a file with this name may be part of an export."""
    ending = _ENDING.search(name)
    return ending is not None and ending.end() == len(name)


def is_control(name: str) -> bool:
    return name.lower().endswith(CONTROL)


def control_names(name: str) -> list[str]:
    """How the control file of this file may be called: the documented example says iter for full ones."""
    root = parse(name).root
    turned = {"iter": "full", "full": "iter"}
    other = _MODE.sub(lambda match: match[0].replace(match[1], turned[match[1]]), root)
    return list(dict.fromkeys(f"{each}{CONTROL}" for each in (root, other)))
