"""Records left out, each with its place and its reason: a gzipped CSV beside the run."""

import csv
import gzip
import io
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from isal import igzip

from idsync import ids
from reconcile import durable, lines
from reconcile.engine.duckdb import Reject
from reconcile.feed import BYTE_ORDER_MARK

_HEADER = ("input", "line", "customer_id", "reason", "explanation")
_ID = _HEADER.index("customer_id")
_MAX_FIELD = 1 << 30  # an ID too long to be one is kept as it stood

EXPLANATIONS = {
    **ids.EXPLANATIONS,
    "value-unsendable": "a signal's value holds a quote, tab, line break or other control character; no escape exists",
    "trait-not-a-number": "a trait column holds something else than trait IDs (24; 24:0 to remove) and ic=code",
    "line-too-long": f"one item is too long for a line of {lines.MAX_LINE_BYTES} bytes",
    "too-many-lines": f"the user's items need more than {lines.MAX_LINES_PER_USER} lines",
    "email-invalid": "its e-mail column holds no e-mail address",
    "too-many-emails": f"its customer has {lines.MAX_HASHES_PER_CUSTOMER} other e-mail addresses in earlier records",
    BYTE_ORDER_MARK: "the customer ID begins with a byte order mark, which no file may",
    "id-ends-in-space": "the customer ID ends in a space, which Audience Manager may cut off",
    "too-few-columns": "the record has fewer columns than the header",
    "too-many-columns": "the record has more columns than the header",
    "not-utf-8": "the record is not UTF-8, or not in the encoding that the feed names",
    "not-a-json-object": "the line is not a JSON object",
    "nested-value": "a column holds an object or a list of lists",
    "held-too-long": "its customer ID was not synced within held_days",
    "held-without-column": "was held before the feed asked for a column that decides on traits; put it in again",
    "vanished": "a later full export no longer has its customer",
    "opted-out": "the customer has opted out; of the record nothing is kept but its place",
}


def by_reason(rejects: Iterable[Reject]) -> dict[str, int]:
    """How many for each reason, most first."""
    return dict(Counter(reject.reason for reject in rejects).most_common())


def write(path: Path, rejects: Iterable[Reject], places: Mapping[int, tuple[str, int]]) -> None:
    rows = []
    for reject in sorted(rejects, key=lambda reject: reject.seq):
        where = places.get(reject.seq, ("", ""))
        rows.append([*map(str, where), reject.customer_id, reject.reason, EXPLANATIONS[reject.reason]])
    _write(path, rows)


def count(path: Path, customer_ids: Collection[str]) -> int:
    """How many records of these customers the file holds."""
    return sum(row[_ID] in customer_ids for row in _read(path)) if customer_ids else 0


def samples(path: Path, counts: Mapping[str, int], most: int) -> dict[str, list[tuple[str, int, str]]]:
    """The first `most` records of each reason: input, line (0: unknown), customer ID. `counts` says how many there are:
    no more is read than it takes.
    """
    found: dict[str, list[tuple[str, int, str]]] = {reason: [] for reason in counts}
    missing = sum(min(count, most) for count in counts.values())
    csv.field_size_limit(_MAX_FIELD)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in islice(csv.reader(file), 1, None):
            if not missing:
                break
            name, line, customer_id, reason, _ = row
            if len(kept := found.setdefault(reason, [])) < most:
                kept.append((name, int(line or 0), customer_id))
                missing -= 1
    return found


def remove(path: Path, customer_ids: Collection[str]) -> None:
    """Remove the records of these customers, and the file once it is empty. All or nothing."""
    kept = [row for row in _read(path) if row[_ID] not in customer_ids]
    if kept:
        _write(path, kept)
    else:
        path.unlink()
        durable.sync_folder(path.parent)


def _read(path: Path) -> list[list[str]]:
    """The rows below the header."""
    csv.field_size_limit(_MAX_FIELD)
    text = gzip.decompress(path.read_bytes()).decode()
    return list(csv.reader(io.StringIO(text, newline="")))[1:]


def _write(path: Path, rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_HEADER)
    table.writerows(rows)
    durable.write(path, igzip.compress(text.getvalue().encode(errors="replace")))
