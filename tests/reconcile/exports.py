"""Outbound exports as Audience Manager writes them, and the customers whom they lead to."""

import csv
import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import Any

from reconcile.progress import Meter
from reconcile.segments.job import Request, SegmentSummary, join
from tests.reconcile.samples import World, uuid

STAMP = 1_486_140_844_000
ITER = f"ftp_1234_45454_iter_{STAMP}"
Row = tuple[str, str, str]


def people(folder: Path) -> World:
    """Customers a, b, c on devices 1, 2, 3; d on 4 and 5; 6 belongs to e and f."""
    world = World(folder)
    world.sync(("a", uuid(1)), ('b,"b"', uuid(2)), ("c", uuid(3)), ("d", uuid(4)), ("d", uuid(5)))
    world.sync(("e", uuid(6)), ("f", uuid(6)))
    return world


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def put(world: World, name: str, *rows: str, ending: str = "\n") -> Path:
    path = world.folder / "out" / name
    path.parent.mkdir(exist_ok=True)
    text = "".join(row + ending for row in rows).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


def info(world: World, root: str, *paths: Path, **changes: Any) -> Path:
    """A control file as the documentation shows it: keys without quotes. `changes` are of the first file."""
    entries: list[dict[str, Any]] = []
    for number, path in enumerate(paths, start=1):
        data = path.read_bytes()
        raw = gzip.decompress(data) if path.suffix == ".gz" else data
        entry = {
            "FileByteSize": len(data),
            "FileLineCount": raw.count(b"\n"),
            "FileName": path.name,
            "FileSequenceNumber": number,
            "md5": md5(data),
        }
        entries.append(entry | changes if number == 1 else entry)
    totals = {
        "FileName": f"{root}.sync",
        "TotalByteSize": sum(entry["FileByteSize"] for entry in entries),
        "TotalNumberFiles": len(entries),
        "TotalNumberLines": sum(entry["FileLineCount"] for entry in entries),
    }
    text = json.dumps({"Files": entries, "Totals": totals}, indent=2)
    for key in {*entries[0], *totals, "Files", "Totals"}:
        text = text.replace(f'"{key}":', f"{key}:")
    path = world.folder / "out" / f"{root}.info"
    path.write_text(text)
    return path


def joined(world: World, *given: Path | str, **options: Any) -> tuple[list[Row], SegmentSummary]:
    """The rows, sorted but for one customer's own, and the figures. Within an export rows come in no order."""
    out = io.BytesIO()
    source = world.settings.data_sources[0]
    request = Request([str(each) for each in given], **options)
    summary = join(world.settings, source, request, lambda: out, meter=Meter(), now=world.now)
    assert summary.read == summary.matched + summary.unmatched + summary.opted_out + summary.rejected
    if not out.getvalue():
        return [], summary
    header, *rows = csv.reader(io.StringIO(out.getvalue().decode(), newline=""))
    assert header == ["customer_id", "segment_id", "action"]
    assert len(rows) == summary.rows
    return sorted(((each[0], each[1], each[2]) for each in rows), key=lambda row: row[0]), summary
