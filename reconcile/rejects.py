"""Records left out, each with its place and its reason: a gzipped CSV beside the run."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from isal import igzip

from idsync import ids
from reconcile import durable, lines
from reconcile.engine.duckdb import Reject

EXPLANATIONS = {
    **ids.EXPLANATIONS,
    "value-unsendable": "a signal's value holds a quote, tab, line break or other control character; no escape exists",
    "trait-not-a-number": "a trait column holds something else than trait IDs",
    "line-too-long": f"one item is too long for a line of {lines.MAX_LINE_BYTES} bytes",
    "too-many-lines": f"the user's items need more than {lines.MAX_LINES_PER_USER} lines",
    "too-few-columns": "the record has fewer columns than the header",
    "too-many-columns": "the record has more columns than the header",
    "not-utf-8": "the record is not UTF-8",
    "not-a-json-object": "the line is not a JSON object",
    "nested-value": "a column holds an object or a list of lists",
    "held-too-long": "its customer ID was not synced within held_days",
}


def by_reason(rejects: Iterable[Reject]) -> dict[str, int]:
    """How many for each reason, most first."""
    return dict(Counter(reject.reason for reject in rejects).most_common())


def write(path: Path, rejects: Iterable[Reject], places: Mapping[int, tuple[str, int]]) -> None:
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["input", "line", "customer_id", "reason", "explanation"])
    for reject in sorted(rejects, key=lambda reject: reject.seq):
        where = places.get(reject.seq, ("", ""))
        table.writerow([*where, reject.customer_id, reject.reason, EXPLANATIONS[reject.reason]])
    durable.write(path, igzip.compress(text.getvalue().encode(errors="replace")))
