"""UUIDs as two numbers, and back."""

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idsync.errors import StoreMisconfigured
from idsync.store.base import EXPORT_SCHEMA
from reconcile.engine import sql
from reconcile.engine.halves import halved

UUIDS = st.text("0123456789", min_size=38, max_size=38)


def export(*uuids: str) -> pa.RecordBatch:
    columns = [["c"] * len(uuids), uuids, range(len(uuids))]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, EXPORT_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=EXPORT_SCHEMA)


@given(st.lists(UUIDS | st.sampled_from(["0" * 38, "9" * 38, "0" * 19 + "9" * 19]), max_size=20), st.integers(0, 3))
def test_each_half_is_the_number_that_it_says_and_comes_back(uuids: list[str], start: int) -> None:
    (found,) = halved([export(*uuids).slice(start)])
    uuids = uuids[start:]
    assert found["high"].to_pylist() == [int(text[:19]) for text in uuids]
    assert found["low"].to_pylist() == [int(text[19:]) for text in uuids]
    assert found["last_seen"].to_pylist() == list(range(start, start + len(uuids)))
    pairs = list(zip(found["high"].to_pylist(), found["low"].to_pylist(), strict=True))
    assert sorted(uuids) == [uuid for _, uuid in sorted(zip(pairs, uuids, strict=True))], "they sort alike"
    with duckdb.connect() as con:
        con.register("found", pa.Table.from_batches([found]))
        assert [row[0] for row in con.sql(f"SELECT {sql.UUID} FROM found ORDER BY last_seen").fetchall()] == uuids


@pytest.mark.parametrize(
    "uuid", ["", "1" * 37, "1" * 39, "1" * 37 + " ", "1" * 37 + ":", "1" * 37 + "/", "\u0661" * 19]
)
def test_what_is_not_38_digits_is_refused(uuid: str) -> None:
    with pytest.raises(StoreMisconfigured, match="not 38 digits"):
        list(halved([export("2" * 38, uuid)]))
