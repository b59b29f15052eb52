"""The inputs of a run as one numbered sequence of records, and the way back from a number to a place."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from reconcile import inputs
from reconcile.engine.duckdb import Reject
from reconcile.feed import Plan, SignalItem, TraitsItem
from reconcile.inputs import Input
from reconcile.inputs.chunk import first
from reconcile.screen import is_clean


@dataclass(slots=True)
class _Span:
    """The numbers from `start` on belong to the records of `source`."""

    source: Input
    start: int


class Records:
    """Numbers run through all files in order: a file's first record follows the last of the file before.

    While `batches` is read, `read` counts the records (`counts`: for each input), `bad` collects those that can't be
    read, and `suspects` the ranges of numbers among which a record may break a rule. No more than `limit` records are
    read, unless that is 0.
    """

    def __init__(
        self, sources: Sequence[Input], plan: Plan, schema: pa.Schema, *, start: int = 0, limit: int = 0
    ) -> None:
        self._sources, self._plan, self._schema, self._limit = sources, plan, schema, limit
        self.first = self._next = start
        self._spans: list[_Span] = []
        self.read = 0
        self.bad: list[Reject] = []
        self.suspects: list[tuple[int, int]] = []
        self.counts: dict[str, int] = {}
        self._bytes = sum(source.state[1] for source in sources)
        self._bytes_read, self._position = 0, inputs.Position()
        self._signals, self._traits = plan.positions(SignalItem), plan.positions(TraitsItem)

    def batches(self) -> Iterator[pa.RecordBatch]:
        for source in self._sources:
            start = self._next
            self._spans.append(_Span(source, start))
            before = self.read
            for whole in inputs.read(source, self._plan, self._position):
                chunk = first(whole, self._limit - self.read) if self._limit else whole
                self.bad += [Reject(start + bad.ordinal, bad.text, bad.reason) for bad in chunk.bad]
                self.read += len(chunk.ordinals) + len(chunk.bad)
                last = [bad.ordinal for bad in chunk.bad] + chunk.ordinals[-1:].tolist()
                self._next = max(self._next, start + 1 + max(last, default=-1))
                seqs = chunk.ordinals + start
                signals, traits = ([chunk.columns[1 + at] for at in kind] for kind in (self._signals, self._traits))
                if len(seqs) and not is_clean(chunk.columns[0], self._plan.id_rules, signals, traits):
                    self.suspects.append((int(seqs[0]), int(seqs[-1])))
                yield pa.RecordBatch.from_arrays([pa.array(seqs), *chunk.columns], schema=self._schema)
                if self._limit and self.read >= self._limit:
                    self.counts[source.sha256] = self.read - before
                    return
            inputs.check_unchanged(source)
            self._bytes_read += source.state[1]
            self.counts[source.sha256] = self.read - before

    @property
    def share(self) -> float:
        """How much of all files was read, 0 to 1."""
        return (self._bytes_read + self._position.bytes()) / self._bytes if self._bytes else 1.0

    @property
    def seen(self) -> int:
        """The number after that of the last record read."""
        return self._next

    @property
    def starts(self) -> list[int]:
        """The number from which on each file's records are counted."""
        return [span.start for span in self._spans]

    def places(self, seqs: Sequence[int]) -> dict[int, tuple[str, int]]:
        """The file and line of each record; files are read again as far as needed."""
        found: dict[int, tuple[str, int]] = {}
        owner = np.searchsorted(self.starts, np.array(seqs, dtype=np.int64), side="right") - 1
        for index, span in enumerate(self._spans):
            ordinals = [int(seq) - span.start for seq, of in zip(seqs, owner, strict=True) if of == index]
            if ordinals:
                lines = inputs.line_numbers(span.source, ordinals)
                found |= {span.start + ordinal: (span.source.name, line) for ordinal, line in lines.items()}
        return found
