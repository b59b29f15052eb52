"""Records brought together by user: as grouping them one by one would, however they come in batches."""

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.engine import users
from reconcile.engine.users import by_user

Row = tuple[str, int, int, str]  # two columns that tell users apart, seq, text
NAMES = ["name", "number", "seq", "text"]
USER = NAMES[:2]

_ROWS = st.lists(
    st.tuples(st.sampled_from(["", "a", "ä"]), st.integers(0, 2), st.integers(0, 99), st.sampled_from(["", "x", "ÿ€"]))
)


def table_of(rows: Sequence[Row]) -> pa.RecordBatch:
    types = [pa.string(), pa.uint64(), pa.int64(), pa.string()]
    columns = [pa.array([row[at] for row in rows], kind) for at, kind in enumerate(types)]
    return pa.RecordBatch.from_arrays(columns, NAMES)


def batches_of(rows: Sequence[Row], cuts: Sequence[int]) -> Iterator[pa.RecordBatch]:
    """Slices of one batch, as an engine may hand them out, with an empty one where two cuts are the same."""
    whole = table_of(rows)
    places = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    for first, end in pairwise(places):
        yield whole.slice(first, end - first)


def grouped(rows: Sequence[Row]) -> list[dict[str, object]]:
    found = []
    for (name, number), of_user in groupby(rows, lambda row: row[:2]):
        told = list(of_user)
        seqs, text = [row[2] for row in told], "".join(row[3] for row in told)
        found.append({"name": name, "number": number, "seqs": seqs, "text": text})
    return found


@given(_ROWS, st.lists(st.integers(0, 30), max_size=6), st.sampled_from([0, 100, users._TABLE_BYTES]))
def test_each_user_once_with_all_that_was_said_in_order(rows: list[Row], cuts: list[int], most: int) -> None:
    rows = sorted(rows)
    with patch.object(users, "_TABLE_BYTES", most):
        tables = list(by_user(batches_of(rows, cuts), USER))
    assert [row for table in tables for row in table.to_pylist()] == grouped(rows)


def test_a_table_ends_where_a_user_ends_once_it_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "_TABLE_BYTES", 1000)
    rows = [(f"{at:04}", 0, 3 * at + record, "x" * 20) for at in range(100) for record in range(3)]
    tables = list(by_user(batches_of(rows, range(10, 300, 10)), USER))
    assert [row for table in tables for row in table.to_pylist()] == grouped(rows)
    assert len(tables) > 10
    assert all(len(table) < 20 for table in tables)


def test_pieces_for_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "_PIECE_ROWS", 40)
    rows = [(f"{at:04}", 0, at, "x") for at in range(100)]
    (table,) = by_user(batches_of(rows, []), USER)
    assert [len(piece) for piece in table.to_batches()] == [40, 40, 20]
