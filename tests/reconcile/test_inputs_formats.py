"""Files as others write them: delimiters, quotes, encodings, other names of columns, nested fields."""

import codecs
import gzip
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from pydantic import ValidationError

from idsync.settings import Feed
from reconcile import inputs
from reconcile.errors import InputRefused
from reconcile.feed import Plan
from reconcile.inputs import delimited, text
from reconcile.inputs.chunk import BadRecord
from reconcile.inputs.layout import Layout, layout_of

Row = tuple[int, str, str]


def layout(**changes: Any) -> Layout:
    return replace(Layout(asked=("id", "a")), **changes)


def read(path: Path, data: bytes | None = None, how: Layout | None = None) -> tuple[list[Row], list[BadRecord]]:
    """(ordinal, id, a) of each record, and the bad ones."""
    if data is not None:
        path.write_bytes(data)
    plan = Plan("id", ("a",), (), by_uuid=True, every_device=False, emit_unmatched=False)
    records, bad = [], []
    for chunk in inputs.read(source(path, how), plan):
        columns = [column.to_pylist() for column in chunk.columns]
        records += list(zip(chunk.ordinals.tolist(), *columns, strict=True))
        bad += chunk.bad
    return records, sorted(bad, key=lambda record: record.ordinal)


def source(path: Path, how: Layout | None = None) -> inputs.Input:
    return replace(inputs.fingerprint(path), layout=how or layout())


# --- delimiters and quotes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_the_delimiter_is_told_by_the_header(tmp_path: Path, delimiter: str, ending: str, mark: bytes) -> None:
    rows = [["id", "x,y;z|w", "a"], ["1", "", '"q' + delimiter + 'r"'], ["2"], ["3", "", "é"]]
    data = (
        mark
        + ending.join(
            delimiter.join(f'"{row[1]}"' if n == 1 and at == 0 else f for n, f in enumerate(row))
            for at, row in enumerate(rows)
        ).encode()
    )
    records, bad = read(tmp_path / "in.csv", data)
    assert records == [(0, "1", f"q{delimiter}r"), (2, "3", "é")]
    assert [(record.ordinal, record.reason, record.text) for record in bad] == [(1, "too-few-columns", "2")]
    assert inputs.line_numbers(source(tmp_path / "in.csv"), [1, 2]) == {1: 3, 2: 4}


def test_a_header_with_other_signs_in_it_does_not_mislead(tmp_path: Path) -> None:
    assert read(tmp_path / "in.csv", b"id,a;b;c;d;e,a\n1,x;y,z\n")[0] == [(0, "1", "z")]
    assert read(tmp_path / "in.tsv", b"id\ta,b,c\ta\n1\tx\tz\n")[0] == [(0, "1", "z")]
    with pytest.raises(InputRefused, match=r'no column "a"; the header has: id'):
        read(tmp_path / "in.csv", b"id;b\n1;2\n")


@pytest.mark.parametrize("delimiter", ["^", "\x01", " ", ":"])
def test_any_sign_can_be_declared(tmp_path: Path, delimiter: str) -> None:
    data = f"id{delimiter}a\n1{delimiter}x,y\n2\n".encode()
    records, bad = read(tmp_path / "in.csv", data, layout(delimiter=delimiter))
    assert records == [(0, "1", "x,y")]
    assert [record.ordinal for record in bad] == [1]
    assert inputs.line_numbers(source(tmp_path / "in.csv", layout(delimiter=delimiter)), [1]) == {1: 3}


def test_the_quote_can_be_another_or_none(tmp_path: Path) -> None:
    data = b"id;a\n1;'x;''y''\nz'\n2;\"5\n3;w\n"
    assert read(tmp_path / "in.csv", data, layout(quote="'"))[0] == [
        (0, "1", "x;'y'\nz"),
        (1, "2", '"5'),
        (2, "3", "w"),
    ]
    assert inputs.line_numbers(source(tmp_path / "in.csv", layout(quote="'")), [2]) == {2: 5}
    data = b'id;a\n1;"x\n2;y"\n3;"z"\n'
    assert read(tmp_path / "in.csv", data, layout(quote=""))[0] == [(0, "1", '"x'), (1, "2", 'y"'), (2, "3", '"z"')]
    assert inputs.line_numbers(source(tmp_path / "in.csv", layout(quote="")), [2]) == {2: 4}


raw = st.text(st.sampled_from(list("a';\r\n \"é,")), max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=raw, quote=st.sampled_from(["'", '"', ""]))
def test_both_parsers_agree_in_every_dialect(tmp_path: Path, body: str, quote: str) -> None:
    how = layout(delimiter=";", quote=quote)
    try:
        records, bad = read(tmp_path / "in.csv", b"id;a\n" + body.encode(), how)
    except InputRefused:
        return
    ordinals = sorted([record[0] for record in records] + [record.ordinal for record in bad])
    assert ordinals == list(range(len(ordinals)))
    assert sorted(inputs.line_numbers(source(tmp_path / "in.csv", how), range(100))) == ordinals
    sure = list(
        delimited._record_lines(inputs._opener(source(tmp_path / "in.csv", how)), delimited.Dialect(";", quote))
    )
    found = inputs.line_numbers(source(tmp_path / "in.csv", how), range(100))
    assert [found[ordinal] for ordinal in ordinals] == sure[1:]


# --- encodings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "codec"),
    [
        ("auto", "utf-8"), ("auto", "utf-8-sig"), ("auto", "utf-16"), ("auto", "utf-32"), ("utf-8", "utf-16"),
        ("utf-16", "utf-16"), ("utf-16-be", "utf-16-be"), ("cp1252", "cp1252"), ("latin-1", "latin-1"),
        ("cp1252", "utf-8-sig"), ("iso-8859-15", "iso-8859-15"), ("shift_jis", "shift_jis"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["in.csv", "in.csv.gz", "in.jsonl", "in.CSV.GZ"])
def test_every_encoding_comes_out_as_the_same_text(tmp_path: Path, declared: str, codec: str, name: str) -> None:
    word = "東京" if codec == "shift_jis" else "Zoë Müller"
    if name == "in.jsonl":
        body = f'{{"id":"1","a":"{word}"}}\r\n{{"id":"2","a":"b"}}\r\n'
    else:
        body = f'id,a\r\n1,"{word}"\r\n2,b\r\n'
    data = body.encode(codec)
    packed = gzip.compress(data) if name.lower().endswith(".gz") else data
    records, bad = read(tmp_path / name, packed, layout(encoding=declared))
    assert records == [(0, "1", word), (1, "2", "b")]
    assert bad == []


@pytest.mark.parametrize(
    ("encoding", "broken"),
    [("cp1252", b"\x81"), ("utf-16", b"\x00\xd8"), ("ascii", b"\xe9"), ("utf-8", b"\xe9"), ("shift_jis", b"\xff")],
)
@pytest.mark.parametrize("name", ["in.csv", "in.jsonl"])
def test_what_cannot_be_decoded_is_rejected_in_its_place(
    tmp_path: Path, encoding: str, broken: bytes, name: str
) -> None:
    def line(number: int) -> str:
        return f'{{"id":"{number}","a":"@"}}\n' if name == "in.jsonl" else f"{number},@\n"

    head = "" if name == "in.jsonl" else "id,a\n"
    pieces = [piece.encode("utf-16-le" if encoding == "utf-16" else encoding)
              for piece in (head + line(1) + line(2) + line(3)).split("@")]  # fmt: skip
    if encoding == "utf-16":
        pieces[0] = codecs.BOM_UTF16_LE + pieces[0]
    data = pieces[0] + pieces[1] + broken * 2 + pieces[2] + pieces[3]
    records, bad = read(tmp_path / name, data, layout(encoding=encoding))
    assert records == [(0, "1", ""), (2, "3", "")]
    assert [(record.ordinal, record.reason) for record in bad] == [(1, "not-utf-8")]
    assert inputs.line_numbers(source(tmp_path / name, layout(encoding=encoding)), [1]) == {
        1: 2 if name == "in.jsonl" else 3
    }


@pytest.mark.parametrize(("encoding", "half"), [("utf-16", b"x"), ("shift_jis", b"\x93")])
def test_half_a_character_at_the_end_is_not_dropped(tmp_path: Path, encoding: str, half: bytes) -> None:
    records, bad = read(tmp_path / "in.csv", "id,a\n1,b\n2,c".encode(encoding) + half, layout(encoding=encoding))
    assert records == [(0, "1", "b")]
    assert [(record.ordinal, record.reason) for record in bad] == [(1, "not-utf-8")]


def test_undecodable_bytes_that_happen_to_be_utf8_stay_undecodable(tmp_path: Path) -> None:
    """0x81 0x8d are no characters of cp1252; byte by byte they must not join with others into some."""
    data = "id,a\n1,Ã\n".encode("cp1252").replace(b"\xc3", b"\xc3\x81\x8d")
    records, bad = read(tmp_path / "in.csv", data, layout(encoding="cp1252"))
    assert (records, [record.reason for record in bad]) == ([], ["not-utf-8"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.text(st.characters(codec="utf-16"), max_size=60),
    codec=st.sampled_from(["utf-16", "utf-8-sig", "utf-32"]),
    block=st.integers(1, 9),
)
def test_decoding_in_blocks_loses_nothing(body: str, codec: str, block: int) -> None:
    """But for a NUL in front, with which the mark of UTF-16 is that of UTF-32; no header begins so."""
    assume(codec != "utf-16" or not body.startswith("\0"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "BLOCK_BYTES", block)
        stream = text.as_utf8(io.BytesIO(body.encode(codec)), "auto")
        # the first character of the text may be a mark itself: only that of the file is dropped
        assert stream.read().decode().removeprefix("\ufeff" if codec == "utf-8-sig" else "") == body


# --- columns ---------------------------------------------------------------------------------------------------------


def test_files_with_other_headers_are_one_feed(tmp_path: Path) -> None:
    how = layout(columns={"id": ("KUNDENNR", "client"), "a": ("Geschlecht", "a")})
    assert read(tmp_path / "de.csv", b"KUNDENNR;Geschlecht;id\n1;f;row 1\n", how)[0] == [(0, "1", "f")]
    assert read(tmp_path / "fr.csv", b"a,client\nm,2\n", how)[0] == [(0, "2", "m")]
    assert read(tmp_path / "nl.jsonl", b'{"client":3,"Geschlecht":null,"a":"x"}\n', how)[0] == [(0, "3", "x")]
    parquet.write_table(pa.table({"a": ["y"], "client": [4], "id": [9]}), tmp_path / "it.parquet")
    assert read(tmp_path / "it.parquet", how=how)[0] == [(0, "4", "y")]
    with pytest.raises(InputRefused, match=r'no column "KUNDENNR" or "client"; the header has: id, a'):
        read(tmp_path / "en.csv", b"id,a\n1,f\n", how)


def test_two_columns_may_come_of_one(tmp_path: Path) -> None:
    how = layout(columns={"a": ("id",)})
    assert read(tmp_path / "in.csv", b"id,x\n1,2\n", how)[0] == [(0, "1", "1")]
    parquet.write_table(pa.table({"id": ["1"]}), tmp_path / "in.parquet")
    assert read(tmp_path / "in.parquet", how=how)[0] == [(0, "1", "1")]


def test_nested_fields_have_paths(tmp_path: Path) -> None:
    how = layout(columns={"id": ("user.id",), "a": ("items.1.sku",)})
    data = (
        b'{"user":{"id":1e5},"items":[{"sku":1},{"sku":"x"}]}\n'
        b'{"user":{"id":"2"},"items":[]}\n'
        b'{"user":{"id":"3"},"items":null}\n'
        b'{"user":"4","items":{"1":{"sku":"y"}}}\n'
        b'{"user.id":"5","user":{"id":"6"},"items":[0,{"sku":{"deep":1}}]}\n'
        b'{"user.id":"7","items":[0,{"sku":[1,null,2]}]}\n'
    )
    records, bad = read(tmp_path / "in.jsonl", data, how)
    assert records == [(0, "1e5", "x"), (1, "2", ""), (2, "3", ""), (3, "", "y"), (5, "7", "1,2")]
    assert [(record.ordinal, record.reason) for record in bad] == [(4, "nested-value")]


def test_fields_of_structs_have_paths(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    users = [{"id": 2**53 + 1, "at": {"a.b": "x"}}, None, {"id": None, "at": None}]
    parquet.write_table(pa.table({"user": users}), path)
    how = layout(columns={"id": ("user.id",), "a": ("user.at.a.b",)})
    assert read(path, how=how)[0] == [(0, "9007199254740993", "x"), (1, "", ""), (2, "", "")]
    parquet.write_table(pa.table({"user": users[:1], "user.id": ["top"], "user.at.a.b": ["y"]}), path)
    assert read(path, how=how)[0] == [(0, "top", "y")]
    with pytest.raises(InputRefused, match=r'no column "user.name"; the file has: user, user.at, user.id, user.at.a.b'):
        read(path, how=layout(columns={"id": ("user.name",)}))
    with pytest.raises(InputRefused, match=r'"user" is struct.*no plain text form'):
        read(path, how=layout(columns={"id": ("user.id",), "a": ("user",)}))


# --- settings --------------------------------------------------------------------------------------------------------


def feed(**changes: object) -> Feed:
    given: Mapping[str, Any] = {
        "name": "daily", "data_source": "crm", "inputs": "inbox/*", "id_column": "id", "signals": ["a"],
        "destination": "local", **changes,
    }  # fmt: skip
    return Feed.model_validate(given)


def test_a_feed_says_how_its_files_are_written() -> None:
    columns = {"id": "KUNDENNR", "t": ["T1", "T2"]}
    made = layout_of(
        feed(columns=columns, delimiter=";", quote="", encoding="cp1252", trait_columns=["t"], rules=[
            {"column": "tier", "equals": "gold", "trait": 24}, {"column": "a", "equals": "x", "trait": 25}])
    )  # fmt: skip
    named = {"id": ("KUNDENNR",), "t": ("T1", "T2")}
    assert made == Layout(";", "", "cp1252", named, ("id", "a", "t", "tier"))
    assert layout_of(feed()) == Layout(asked=("id", "a"))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"delimiter": ";;"}, "one ASCII character"),
        ({"delimiter": '"'}, "neither a quote nor a line break"),
        ({"delimiter": ""}, "one ASCII character"),
        ({"delimiter": "\n"}, "line break"),
        ({"delimiter": ";", "quote": ";"}, "other than the delimiter"),
        ({"quote": "''"}, "other than the delimiter"),
        ({"encoding": "cp-1252-x"}, "name of an encoding"),
        *[
            ({"encoding": name}, "name of an encoding of files")
            for name in ("rot13", "idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape", "hex")
        ],
        ({"columns": {"idd": "X"}}, "nothing in this feed asks for idd"),
        ({"columns": {"id": []}}, "at least 1"),
        ({"columns": {"id": ""}}, "at least 1"),
        ({"inputs": "https://example.com/x.csv"}, "s3://bucket/prefix"),
        ({"inputs": "s3://bucket"}, "s3://bucket/prefix"),
        ({"settle_seconds": -1}, "greater than or equal to 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        feed(**changes)
