"""Control files, which tell of an export what should have arrived. Pure.

    {Files: [{FileByteSize: 28, FileLineCount: 1, FileName: "….sync.gz", FileSequenceNumber: 1, md5: "…"}, …],
     Totals: {FileName: "….sync", TotalByteSize: 28, TotalNumberFiles: 1, TotalNumberLines: 1}}

JSON but for keys, which may stand unquoted. Sizes and checksums are those of the files as they lie there; lines count
headers and blank ones too. Source: Audience Manager documentation, "Transfer-Control Files for Log File Transfers".
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

MAX_BYTES = 16_000_000

_STRING_KEY_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|([A-Za-z_][A-Za-z0-9_]*)(?=\s*:)|,(?=\s*[\]}])')
_MD5 = re.compile(r"[0-9a-fA-F]{32}")


class Listed(NamedTuple):
    """What the control file says of a file; None where it says nothing."""

    name: str
    bytes: int | None
    lines: int | None
    md5: str | None


class Control(NamedTuple):
    files: tuple[Listed, ...]
    total_files: int | None = None
    total_bytes: int | None = None
    total_lines: int | None = None


class Measured(NamedTuple):
    """What is there. `bytes` and `md5` as it lies there, `lines` unpacked."""

    bytes: int
    lines: int
    md5: str


def parse(content: bytes) -> Control:
    """Raises ValueError for what is no control file."""
    if len(content) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES:,} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    try:
        told = json.loads(_STRING_KEY_COMMA.sub(_as_json, text))
    except (ValueError, RecursionError):
        raise ValueError("neither JSON nor JSON with unquoted keys") from None
    files = told.get("Files") if isinstance(told, dict) else None
    if not isinstance(files, list) or not files or not all(isinstance(entry, dict) for entry in files):
        raise ValueError("it has no list called Files")
    listed = tuple(_listed(entry) for entry in files)
    if len({entry.name for entry in listed}) < len(listed):
        raise ValueError("it names a file twice")
    totals = told.get("Totals") or {}
    if not isinstance(totals, dict):
        raise ValueError("its Totals are no table")
    counts = [_count(totals, key) for key in ("TotalNumberFiles", "TotalByteSize", "TotalNumberLines")]
    return Control(listed, *counts)


def _as_json(match: "re.Match[str]") -> str:
    string, key = match.groups()
    return string or (f'"{key}"' if key else "")


def _listed(entry: Mapping[str, Any]) -> Listed:
    name = entry.get("FileName")
    if not isinstance(name, str) or not name.rpartition("/")[2]:
        raise ValueError("it lists a file without a FileName")
    md5 = entry.get("md5", entry.get("MD5"))
    if md5 is not None and not (isinstance(md5, str) and _MD5.fullmatch(md5)):
        raise ValueError(f"the md5 of {name} is not 32 hex digits")
    base = name.rpartition("/")[2]
    return Listed(base, _count(entry, "FileByteSize"), _count(entry, "FileLineCount"), md5.lower() if md5 else None)


def _count(table: Mapping[str, Any], key: str) -> int | None:
    value = table.get(key)
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
        return int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise ValueError(f"{key} is {str(value)[:40]!r}, which is no whole number")


def sums(control: Control) -> Iterator[str]:
    """How the control file contradicts itself."""
    for word, total, parts in (
        ("files", control.total_files, [1] * len(control.files)),
        ("bytes", control.total_bytes, [entry.bytes for entry in control.files]),
        ("lines", control.total_lines, [entry.lines for entry in control.files]),
    ):
        known = [part for part in parts if part is not None]
        if total is not None and len(known) == len(parts) and sum(known) != total:
            yield f"it lists {sum(known):,} {word} and says {total:,} in all"


def awaited(control: Control, sizes: Mapping[str, int]) -> Iterator[str]:
    """What has not arrived yet, or not wholly; `sizes` of the files that are there, by name."""
    for entry in control.files:
        if entry.name not in sizes:
            yield f"{entry.name} is not there"
        elif entry.bytes is not None and sizes[entry.name] < entry.bytes:
            yield f"{entry.name} has {sizes[entry.name]:,} of {entry.bytes:,} bytes"


def faults(control: Control, found: Mapping[str, Measured]) -> Iterator[str]:
    """How what is there differs from what should be; files that are not there are passed over."""
    for entry in control.files:
        there = found.get(entry.name)
        if there is None:
            continue
        if entry.bytes is not None and there.bytes != entry.bytes:
            yield f"{entry.name} has {there.bytes:,} bytes, not {entry.bytes:,}"
        elif entry.md5 is not None and there.md5 != entry.md5:
            yield f"{entry.name} has the MD5 {there.md5}, not {entry.md5}"
        if entry.lines is not None and there.lines != entry.lines:
            yield f"{entry.name} has {there.lines:,} lines, not {entry.lines:,}"
