"""Reading inputs as text: exact values, exact places, nothing lost around a bad record."""

import csv
import gzip
import io
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from idsync.errors import ConfigError
from reconcile import inputs
from reconcile.errors import InputChanging, InputRefused
from reconcile.feed import Plan
from reconcile.inputs import delimited
from reconcile.inputs.chunk import BadRecord
from reconcile.inputs.delimited import Dialect

PLAN = Plan("id", ("a", "b"), (), by_uuid=True, every_device=False, emit_unmatched=False)


def read(path: Path, data: bytes | None = None) -> tuple[list[tuple[int, str, str, str]], list[BadRecord]]:
    """(ordinal, id, a, b) of each record, and the bad ones."""
    if data is not None:
        path.write_bytes(data)
    records, bad = [], []
    for chunk in inputs.read(inputs.fingerprint(path), PLAN):
        columns = [column.to_pylist() for column in chunk.columns]
        records += list(zip(chunk.ordinals.tolist(), *columns, strict=True))
        bad += chunk.bad
    return records, sorted(bad, key=lambda record: record.ordinal)


def test_csv_is_read_exactly_and_bad_records_keep_their_place(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    records, bad = read(
        path,
        b"\xef\xbb\xbfid,a,b\r\n"
        b"007,1e5,x\r\n"
        b"\r\n"
        b'2,"q""z","l1\nl2"\n'
        b"3,only\n"
        b"4,a,b,c\n"
        b"5,\xff\xfe,z\n"
        b'6,5" pipe,z\n'
        b" 7 , a ,NULL\n"
        b"12345678901234567890123456789012345678,,nan\n",
    )
    assert records == [
        (0, "007", "1e5", "x"),
        (1, "2", 'q"z', "l1\nl2"),
        (5, "6", '5" pipe', "z"),
        (6, " 7 ", " a ", "NULL"),
        (7, "12345678901234567890123456789012345678", "", "nan"),
    ]
    assert [(record.ordinal, record.reason) for record in bad] == [
        (2, "too-few-columns"),
        (3, "too-many-columns"),
        (4, "not-utf-8"),
    ]
    places = inputs.line_numbers(inputs.fingerprint(path), list(range(8)))
    assert places == {0: 2, 1: 4, 2: 6, 3: 7, 4: 8, 5: 9, 6: 10, 7: 11}


BROKEN = {7: b"secret-\xff,x", 8: b"secret,\xe9,y,z", 1500: b"\xff", 2999: b"secret,\xc3(,x,y"}


@pytest.mark.parametrize("first", [7, 1500])
@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
def test_records_that_are_broken_twice_cost_only_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], ending: str, first: int
) -> None:
    """Another number of columns, and not UTF-8: pyarrow can't tell of them, and would quote them."""
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 1000)
    broken = {number: row for number, row in BROKEN.items() if number >= first}
    rows = [broken.get(number, b'%d,"%s",y' % (number, b"x\n" * (number % 9))) for number in range(3000)]
    rows[20], rows[2000], rows[2001] = b"20,\xff,y", b"2000,\xff,y", b"2001"
    data = b"\n".join([b"id,a,b", *rows])
    path = tmp_path / f"in.{ending}"
    records, bad = read(path, gzip.compress(data) if ending.endswith("gz") else data)
    assert [(record.ordinal, record.reason, record.text) for record in bad] == [
        *[(7, "too-few-columns", "secret-\ufffd"), (8, "too-many-columns", "secret")][: 2 * (first == 7)],
        (20, "not-utf-8", "20"),
        (1500, "too-few-columns", "\ufffd"),
        (2000, "not-utf-8", "2000"),
        (2001, "too-few-columns", "2001"),
        (2999, "too-many-columns", "secret"),
    ]
    assert records == [
        (number, str(number), "x\n" * (number % 9), "y")
        for number in range(3000)
        if number not in {*broken, 20, 2000, 2001}
    ]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        (b'"secret,never\n', "a quote opened after line 2 is never closed"),
        (b'"' + b"secret" * 300 + b'",a,b\n', "a record is longer than 16 MB"),
        (b"secret," * 300 + b"\n", "a record is longer than 16 MB"),
    ],
)
def test_what_is_told_of_a_broken_file_quotes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest: bytes, told: str
) -> None:
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 1000)
    with pytest.raises(InputRefused, match=told) as refused:
        read(tmp_path / "in.csv", b"id,a,b\n1,\xff\n" + rest)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "tsv.gz"])
def test_bad_records_keep_their_place_across_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 1000)
    separator = "\t" if ending.startswith("tsv") else ","
    rows = [[str(number), "x" * (number % 50), "y"] if number % 37 else [str(number), "bad"] for number in range(3000)]
    data = "\n".join(separator.join(row) for row in [["id", "a", "b"], *rows]).encode()
    path = tmp_path / f"in.{ending}"
    records, bad = read(path, gzip.compress(data) if ending.endswith("gz") else data)
    assert [ordinal for ordinal, *_ in records] == [int(id_) for _, id_, _, _ in records]
    assert [record.ordinal for record in bad] == list(range(0, 3000, 37))
    assert len(records) + len(bad) == 3000


field = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(field, field, field), max_size=20), end=st.sampled_from(["\n", "\r\n"]))
def test_what_a_csv_writer_writes_is_read_back(tmp_path: Path, rows: list[tuple[str, str, str]], end: str) -> None:
    text = io.StringIO(newline="")
    # quoted throughout: Python's writer leaves a lone carriage return bare, which then ends a record
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("id", "a", "b"), *rows])
    records, bad = read(tmp_path / "in.csv", text.getvalue().encode())
    assert [record[1:] for record in records] == rows
    assert bad == []


raw = st.text(st.sampled_from(list('a",\r\n é;')), max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=raw)
def test_both_csv_parsers_agree_on_what_a_record_is(tmp_path: Path, body: str) -> None:
    """Places come from Python's csv module, records from pyarrow: they must count alike."""
    try:
        records, bad = read(tmp_path / "in.csv", b"id,a,b\n" + body.encode())
    except InputRefused:
        return
    ordinals = sorted([record[0] for record in records] + [record.ordinal for record in bad])
    assert ordinals == list(range(len(ordinals)))
    found = inputs.line_numbers(inputs.fingerprint(tmp_path / "in.csv"), range(1000))
    assert sorted(found) == ordinals


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.lists(st.sampled_from(["a", ",", "\n", "\r\n", "\r", " ", "é", '"', '""', '"b"', ',"', '",']), max_size=30),
    block=st.integers(1, 40),
)
@example(body=['a"b,"x', "\n", 'y",c"', "\n", "z"], block=40)  # quotes in pairs on each line, and yet one record
def test_the_quick_way_to_line_numbers_agrees_with_the_sure_one(body: list[str], block: int) -> None:
    """Where it gives an answer at all, which it does for what programs write as a rule."""
    data = ("\ufeffid,x\n" + "".join(body)).encode()
    sure = list(delimited._record_lines(lambda: io.BytesIO(data), Dialect(",")))[1:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "BLOCK_BYTES", block)
        quick = delimited._plain_line_numbers(lambda: io.BytesIO(data), Dialect(","), range(100))
    assert quick is None or quick == dict(enumerate(sure))


@pytest.mark.parametrize("text", ["id,x\n1,\n\n2,a\r\n3,b", 'id,x\n"1",""\n\n"2,","a ""b"""\n3,\n'])
def test_ordinary_files_are_quick(text: str) -> None:
    assert delimited._plain_line_numbers(lambda: io.BytesIO(text.encode()), Dialect(","), [2, 0]) == {0: 2, 2: 5}
    assert delimited._plain_line_numbers(lambda: io.BytesIO(b'id,x\n1,"a\nb"\n'), Dialect(","), [0]) is None


def test_a_broken_record_keeps_nothing_but_its_id(tmp_path: Path) -> None:
    """Names and addresses beside it are nobody's business, whatever became of the columns."""
    text = b'name,id,a,b\nBond,007\nMoneypenny\n"Q, R",008,"x\ny",z,more\n'
    _, bad = read(tmp_path / "in.csv", text)
    assert [(record.ordinal, record.text) for record in bad] == [(0, "007"), (1, ""), (2, "008")]


def test_a_file_without_a_header_is_not_quoted(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="names none of the columns id, a, b; is it a header") as caught:
        read(tmp_path / "in.csv", b"secret-4711,f,gold\nc2,m,gold\n")
    assert "secret" not in str(caught.value)


def test_jsonl_keeps_the_spelling_of_numbers(tmp_path: Path) -> None:
    records, bad = read(
        tmp_path / "in.jsonl",
        b'{"id":12345678901234567890123456789012345678,"a":1e5,"b":0.10}\n'
        b"\n"
        b'{"id":"007","a":true,"b":null}\n'
        b'{"id":tru}\n'
        b'{"id":"z","b":[24,"25"],"other":{"deep":1}}\n'
        b'{"id":"\xff"}\n'
        b"[1,2]\n"
        b'{"id":"x","a":{"deep":1}}\n'
        b'{"id":"\\ud800"}\n'
        b'{"id":"last"}',
    )
    assert records == [
        (0, "12345678901234567890123456789012345678", "1e5", "0.10"),
        (2, "007", "true", ""),
        (4, "z", "", "24,25"),
        (9, "last", "", ""),
    ]
    assert [(record.ordinal, record.reason) for record in bad] == [
        (3, "not-a-json-object"),
        (5, "not-utf-8"),
        (6, "not-a-json-object"),
        (7, "nested-value"),
        (8, "not-utf-8"),
    ]
    assert inputs.line_numbers(inputs.fingerprint(tmp_path / "in.jsonl"), [3]) == {3: 4}


def test_parquet_is_read_as_text_without_number_damage(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    ids = pa.array([Decimal("12345678901234567890123456789012345678"), Decimal(7)], pa.decimal128(38))
    table = {"id": ids, "a": pa.array([1.5, None]), "b": pa.array(["x", "y"]).dictionary_encode()}
    parquet.write_table(pa.table(table), path)
    assert read(path) == ([(0, "12345678901234567890123456789012345678", "1.5", "x"), (1, "7", "", "y")], [])
    parquet.write_table(pa.table({"id": pa.array([b"ok", b"\xff"]), "a": [[24, 25], None], "b": [True, False]}), path)
    records, bad = read(path)
    assert records == [(0, "ok", "24,25", "true")]
    assert [(record.ordinal, record.reason) for record in bad] == [(1, "not-utf-8")]


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("in.csv", b"", "empty"),
        ("in.csv", b"id,a\n1,2\n", 'no column "b"; the header has: id, a'),
        ("in.csv", b"id,a,b,a\n1,2,3,4\n", 'the column "a" stands in the header 2 times'),
        ("in.csv", b'id,a,b\n1,a,b\n2,x,"never\n3,a,b\n', "a quote opened after line 2 is never closed"),
        ("in.csv.gz", gzip.compress(b"id,a,b\n1,2,3\n" * 1000, mtime=0)[:-20], "broken or cut off"),
        ("in.csv.gz", b"id,a,b\n1,2,3\n", "broken or cut off"),
        ("in.jsonl.gz", gzip.compress(b'{"id":"1"}\n' * 1000, mtime=0)[:-20], "broken or cut off"),
        ("in.parquet", b"PAR1 not really PAR1", "in.parquet"),
        ("in.xlsx", b"", "can't tell the format"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_as_a_whole(tmp_path: Path, name: str, data: bytes, problem: str) -> None:
    with pytest.raises(InputRefused, match=problem) as caught:
        read(tmp_path / name, data)
    assert str(tmp_path / name) in caught.value.problem
    assert caught.value.mend


def test_an_id_column_of_floating_point_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"id": [1e5], "a": ["x"], "b": ["y"]}), tmp_path / "in.parquet")
    with pytest.raises(InputRefused, match="can't hold IDs exactly"):
        read(tmp_path / "in.parquet")


def test_gzip_of_several_members_is_read_whole(tmp_path: Path) -> None:
    data = gzip.compress(b"id,a,b\n1,2,3\n") + gzip.compress(b"4,5,6\n")
    assert [record[1] for record in read(tmp_path / "in.csv.gz", data)[0]] == ["1", "4"]


def test_a_file_that_is_written_to_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b"id,a,b\n1,2,3\n")
    source = inputs.fingerprint(path)
    inputs.check_unchanged(source)
    with path.open("ab") as file:
        file.write(b"4,5,6\n")
    with pytest.raises(InputChanging, match="was written to"):
        inputs.check_unchanged(source)
    path.unlink()
    with pytest.raises(InputChanging):
        inputs.check_unchanged(source)


def test_the_same_content_under_another_name_is_the_same_input(tmp_path: Path) -> None:
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_bytes(b"id,a,b\n")
    assert inputs.fingerprint(tmp_path / "one.csv").sha256 == inputs.fingerprint(tmp_path / "two.csv").sha256


def test_a_glob_in_a_folder_that_is_not_there_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    assert inputs.discover(str(tmp_path / "*.csv")) == []
    with pytest.raises(ConfigError, match="does not exist"):
        inputs.discover(str(tmp_path / "missing" / "*.csv"))
