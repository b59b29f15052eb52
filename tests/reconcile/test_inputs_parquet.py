"""Parquet of any type: what text a value has, and which columns have none."""

import datetime
import re
import uuid
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from idsync import ids
from reconcile.errors import InputRefused
from reconcile.lines import UNSENDABLE
from tests.reconcile.test_inputs_formats import layout, read

NOON = datetime.datetime.fromisoformat("2026-01-31T12:00:05.6")
INF = float("inf")
BERLIN = datetime.timezone(datetime.timedelta(hours=1))


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pa.array([2**63 - 1, -7, None]), ["9223372036854775807", "-7", ""]),
        (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
        (pa.array([5], pa.int8()), ["5"]),
        (pa.array([1.0, 1.5, -0.25, None, float("nan")]), ["1", "1.5", "-0.25", "", ""]),
        (pa.array([1e15, 2.0**53, 1e20, 1e-7]), ["1000000000000000", "9007199254740992", "1" + "0" * 20, "0.0000001"]),
        (pa.array([0.1, 16777216.0], pa.float32()), ["0.1", "16777216"]),
        (pa.array([1e30, INF, -INF, None, 1.5]), ["1" + "0" * 30, "inf", "-inf", "", "1.5"]),
        (pa.array([2.0, 0.1, -0.3, 6e-8, 2047, 8208, 65504, INF, None, float("nan")], pa.float16()),
         ["2", "0.1", "-0.3", "0.00000006", "2047", "8208", "65504", "inf", "", ""]),
        (pa.array([Decimal(7)], pa.decimal128(38)), ["7"]),
        (pa.array([Decimal("7"), Decimal("1E-10")], pa.decimal128(38, 10)), ["7.0000000000", "0.0000000001"]),
        (pa.array([Decimal("9" * 70 + ".05")], pa.decimal256(72, 2)), ["9" * 70 + ".05"]),
        (pa.array([True, False, None]), ["true", "false", ""]),
        (pa.array([NOON.date()]), ["2026-01-31"]),
        (pa.array([NOON.date()], pa.date64()), ["2026-01-31"]),
        (pa.array([NOON.time(), datetime.time(1, 2, 3)]), ["12:00:05.6", "01:02:03"]),
        (pa.array([NOON, NOON.replace(microsecond=0)]), ["2026-01-31T12:00:05.6", "2026-01-31T12:00:05"]),
        (pa.array([NOON.replace(second=20, microsecond=100)], pa.timestamp("ns")), ["2026-01-31T12:00:20.0001"]),
        (pa.array([NOON.replace(tzinfo=BERLIN)], pa.timestamp("ms", "Europe/Berlin")), ["2026-01-31T11:00:05.6Z"]),
        (pa.array([NOON.replace(microsecond=0)], pa.timestamp("ms", "UTC")), ["2026-01-31T12:00:05Z"]),
        (pa.array(["x", None]).dictionary_encode(), ["x", ""]),
        (pa.array(["x"], pa.large_string()), ["x"]),
        (pa.array([b"xy"], pa.binary(2)), ["xy"]),
        (pa.array([uuid.UUID(int=10).bytes], pa.uuid()), ["00000000-0000-0000-0000-00000000000a"]),
        (pa.nulls(1), [""]),
        (pa.array([[24, 25], None, [], [None, 26]]), ["24,25", "", "", "26"]),
        (pa.array([[1.0, 0.5], [0.0]], pa.list_(pa.float64())), ["1,0.5", "0"]),
        (pa.array([[INF, 1e16], [-INF, float("nan")]]), ["inf,1" + "0" * 16, "-inf"]),
        (pa.array([["a", "b"], None], pa.list_(pa.string(), 2)), ["a,b", ""]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else None,
)  # fmt: skip
def test_parquet_types_have_the_text_that_one_expects(tmp_path: Path, values: pa.Array, texts: Sequence[str]) -> None:
    path = tmp_path / "in.parquet"
    parquet.write_table(pa.table({"id": [str(number) for number in range(len(values))], "a": values}), path)
    assert [record[2] for record in read(path)[0]] == texts


@pytest.mark.parametrize(
    ("number", "neighbours"),
    [(INF, [1.5, 1e30, 1e-7]), (-INF, [0.0, 1e300]), (float("nan"), [1.0, 1e17]), (1e21, [INF, 2.0]), (-0.0, [1e30])],
)
def test_a_number_is_spelled_alike_whatever_stands_beside_it(
    tmp_path: Path, number: float, neighbours: Sequence[float]
) -> None:
    path, spellings = tmp_path / "in.parquet", set()
    for other in neighbours:
        for values in (pa.array([number, other]), pa.array([[number], [other]])):
            parquet.write_table(pa.table({"id": ["1", "2"], "a": values}), path)
            spellings.add(read(path)[0][0][2])
    assert len(spellings) == 1


FAR = 2**62


@pytest.mark.parametrize(
    "values",
    [
        pa.array([FAR // 1000, 0], pa.timestamp("s")),
        pa.array([-FAR, 0], pa.timestamp("us")),
        pa.array([FAR, 0], pa.timestamp("ms", "Europe/Berlin")),
        pa.array([2**31 - 1, 0], pa.int32()).cast(pa.date32()),
        pa.array([FAR, 0]).cast(pa.time64("us")),
        pa.array([[0, FAR], [0]], pa.list_(pa.timestamp("us"))),
    ],
    ids=lambda values: str(values.type),
)
@pytest.mark.parametrize("column", ["id", "a"])
@pytest.mark.parametrize("within", ["", "user."])
def test_a_time_out_of_range_is_never_sent(tmp_path: Path, values: pa.Array, column: str, within: str) -> None:
    path = tmp_path / "in.parquet"
    given = pa.StructArray.from_arrays([values], ["at"]) if within else values
    parquet.write_table(
        pa.table({"id": ["1", "2"], "x": given}).rename_columns({"x": "user" if within else "at"}), path
    )
    how = layout(columns={column: (f"{within}at",), "a" if column == "id" else "id": ("id",)})
    told, fine = [id_ if column == "id" else a for _, id_, a in read(path, how=how)[0]]
    assert told.endswith("\x1aout of range")
    assert re.search(UNSENDABLE, told)
    assert ids.customer_id_fault(told) == "id-control-character"
    assert "out of range" not in fine


def test_a_text_that_reads_like_a_time_out_of_range_is_a_text(tmp_path: Path) -> None:
    text = "<value out of range: 1>"
    parquet.write_table(pa.table({"id": ["1"], "a": [text]}), tmp_path / "in.parquet")
    assert read(tmp_path / "in.parquet")[0] == [(0, "1", text)]


@pytest.mark.parametrize(
    "kind",
    [
        pa.float16(),
        pa.float32(),
        pa.list_(pa.float64()),
        pa.large_list(pa.float64()),
        pa.list_(pa.float32(), 1),
        pa.list_(pa.list_(pa.float64())),
    ],
    ids=str,
)
def test_an_id_of_floating_point_is_refused_in_lists_too(tmp_path: Path, kind: pa.DataType) -> None:
    parquet.write_table(pa.table({"id": pa.nulls(1, kind), "a": ["x"]}), tmp_path / "in.parquet")
    with pytest.raises(InputRefused, match=r'the column "id" is .*(float|double).*, which can\'t hold IDs exactly'):
        read(tmp_path / "in.parquet")


def test_columns_and_fields_of_one_name_are_counted(tmp_path: Path) -> None:
    path, text = tmp_path / "in.parquet", pa.array(["x"])
    parquet.write_table(pa.table([text, text, text], ["id", "a", "a"]), path)
    with pytest.raises(InputRefused, match='the column "a" stands in the file 2 times'):
        read(path)
    twice = pa.StructArray.from_arrays([text, text], ["a", "a"])
    parquet.write_table(pa.table([text, twice], ["id", "user"]), path)
    with pytest.raises(InputRefused, match=r'the column "user.a" stands in the file 2 times'):
        read(path, how=layout(columns={"a": ("user.a",)}))


@pytest.mark.parametrize(
    "values",
    [
        pa.array([{"x": 1}]),
        pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        pa.array([[{"x": 1}]]),
        pa.array([datetime.timedelta(1)]),
    ],
    ids=lambda values: str(values.type),
)
def test_types_without_a_text_are_refused(tmp_path: Path, values: pa.Array) -> None:
    parquet.write_table(pa.table({"id": ["1"], "a": values}), tmp_path / "in.parquet")
    with pytest.raises(InputRefused, match=r'the column "a" is .* which has no plain text form'):
        read(tmp_path / "in.parquet")
