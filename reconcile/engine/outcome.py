"""What became of the records, and the lines on their way out."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa

from reconcile import lines
from reconcile.screen import text_buffer

SAMPLES = 3  # of records of which something is told

Ints = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Reject:
    """A record left out: its sequence number in the run, its ID or what was made out of it, the reason."""

    seq: int
    customer_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Items of a column that can't be sent, left out of records that are: how many, and the first such records."""

    column: str
    reason: str
    items: int
    seqs: tuple[int, ...]


class Sink(Protocol):
    """Takes whole lines as bytes, with their number."""

    def write(self, text: memoryview, count: int) -> None: ...


@dataclass(slots=True)
class Outcome:
    """What became of the staged records. `records` = `matched` + the unmatched; `silent` matched but had no items,
    `unchanged` had all of theirs sent before. `conflicts`: items dropped for others that contradict them;
    `conflict_seqs`: the first records of users who had such, no more than SAMPLES.
    """

    records: int = 0
    matched: int = 0
    silent: int = 0
    unchanged: int = 0
    lines: int = 0
    conflicts: int = 0
    conflict_seqs: list[int] = field(default_factory=list)
    unmatched: list[Ints] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)

    def drop(self, items: int, *seqs: int) -> None:
        """Count items of users that were dropped for others; `seqs`: the first records of the first such users."""
        self.conflicts += items
        self.conflict_seqs = sorted([*self.conflict_seqs, *seqs])[:SAMPLES]


def count_records(batch: pa.RecordBatch, outcome: Outcome) -> None:
    matched, counted = (batch.column(name).to_numpy(zero_copy_only=False) for name in ("matched", "counted"))
    outcome.records += int(np.count_nonzero(counted))
    outcome.matched += int(np.count_nonzero(matched & counted))
    if not matched.all():
        outcome.unmatched.append(batch.column("seq").to_numpy()[~matched])


def account(batch: pa.RecordBatch, sink: Sink, outcome: Outcome) -> None:
    count_records(batch, outcome)
    lengths, _ = text_buffer(batch.column("line"))
    counted, due = (batch.column(name).to_numpy(zero_copy_only=False) for name in ("counted", "sent"))
    outcome.silent += int(np.count_nonzero(counted & due & (lengths == 0)))
    outcome.lines += write_lines(batch, sink)


def write_lines(batch: pa.RecordBatch, sink: Sink) -> int:
    """Hand the column `line`, with nulls where there is none, to the sink; how many lines that makes."""
    lengths, text = text_buffer(batch.column("line"))
    sent = int(np.count_nonzero(lengths))
    if len(lengths) and int(lengths.max()) > lines.MAX_LINE_BYTES:
        sent, text = _repack(batch, lengths)
    if sent:
        sink.write(text, sent)
    return sent


def _repack(batch: pa.RecordBatch, lengths: Ints) -> tuple[int, memoryview]:
    """The batch's lines, each that is too long as several, and their number."""
    short = pa.array(lengths <= lines.MAX_LINE_BYTES)
    pieces = [text for text in batch.column("line").filter(short).to_pylist() if text]
    for row in batch.filter(pa.array(lengths > lines.MAX_LINE_BYTES)).to_pylist():
        pieces += _packed(row["line"])
    return len(pieces), memoryview("".join(pieces).encode())


def _packed(line: str) -> list[str]:
    """A line as few that fit. No item is too long for one: such records have been rejected."""
    user, _, rest = line.rstrip("\n").partition("\t")
    return lines.pack(user, list(dict.fromkeys(lines.split_items(rest))))
