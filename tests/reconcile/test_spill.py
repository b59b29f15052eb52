"""Joins far larger than their memory: what spills must come back, all of it.

DuckDB was seen to drop rows in joins that spill (its issue 25702). The engine's own sums would refuse such a run; these
tests look at the lines themselves, by a way that has no join in it.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest

from idsync.store.base import EXPORT_SCHEMA
from reconcile.engine.changes import ChangesEngine
from reconcile.engine.duckdb import DuckEngine
from reconcile.feed import Plan, SignalItem

RECORDS = 1_200_000
BATCH = 100_000


class Digests:
    """A sink that keeps no lines: how many there were, and the sum of their digests, which no order changes."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self.lines = self.total = self.spilled = 0

    def write(self, text: memoryview, count: int) -> None:
        self.lines += count
        self.total += sum(map(digest, bytes(text).splitlines()))
        with suppress(FileNotFoundError):  # gone since it was listed
            self.spilled = max([self.spilled, *(path.stat().st_size for path in self._scratch.iterdir())])


def digest(line: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(line, digest_size=8).digest())


def customer(number: int) -> str:
    """In no order, so that neighbours in the one table are far apart in the other."""
    return f"customer-{number * 7_368_787 % 99_999_989:08}"


def uuid(number: int) -> str:
    return f"{number * 61_680_670_010_987_651 % 10**38:038}"


def is_mapped(number: int) -> bool:
    return number % 10 < 7


def records(schema: pa.Schema, people: int) -> Iterator[pa.RecordBatch]:
    """Those of one of the people are far apart."""
    for first in range(0, RECORDS, BATCH):
        numbers = range(first, first + BATCH)
        columns = [numbers, [customer(number % people) for number in numbers], [f"gold-{number}" for number in numbers]]
        yield pa.RecordBatch.from_arrays(
            [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
        )


def mappings() -> Iterator[pa.RecordBatch]:
    """In another order than the records; as many belong to nobody here."""
    for first in range(RECORDS * 2, 0, -BATCH):
        numbers = [number for number in range(first - BATCH, first) if is_mapped(number)]
        columns = {
            "customer_id": [customer(number) for number in numbers],
            "uuid": [uuid(number) for number in numbers],
            "last_seen": [1_790_000_000_000] * len(numbers),
        }
        yield pa.RecordBatch.from_arrays(
            [pa.array(columns[field.name], field.type) for field in EXPORT_SCHEMA], schema=EXPORT_SCHEMA
        )


def expected(people: int) -> tuple[int, int]:
    mapped = list(filter(is_mapped, range(people)))
    return len(mapped), sum(digest(f"{uuid(one)}\t{','.join(said_of(one, people))}".encode()) for one in mapped)


def said_of(one: int, people: int) -> Iterator[str]:
    return (f'"tier"="gold-{number}"' for number in range(one, RECORDS, people))


@pytest.mark.parametrize("kind", [DuckEngine, ChangesEngine])
@pytest.mark.parametrize(("times", "memory"), [(1, "90MB"), (3, "150MB")])  # of some 250 MB that all takes
def test_a_join_that_spills_loses_nothing(tmp_path: Path, kind: type[DuckEngine], times: int, memory: str) -> None:
    plan = Plan("id", ("tier",), (SignalItem(0, "tier"),), by_uuid=True, every_device=False, emit_unmatched=False)
    sink, people = Digests(tmp_path), RECORDS // times
    with kind(plan, tmp_path, memory) as engine:
        engine.stage(records(engine.schema, people))
        if isinstance(engine, ChangesEngine):
            engine.load_sent(None, 1_790_000_000_000, oldest=0, marked=False)
        engine.load_mappings(mappings())
        outcome = engine.render(sink)
    assert sink.spilled > 0
    users, total = expected(people)
    assert (outcome.records, outcome.matched) == (RECORDS, users * times)
    assert sorted(seq for part in outcome.unmatched for seq in part.tolist()) == [
        number for number in range(RECORDS) if not is_mapped(number % people)
    ]
    assert (sink.lines, sink.total) == (users, total)
