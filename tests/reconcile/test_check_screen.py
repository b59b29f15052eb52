"""`check`: bulk look and exact look agree on any bytes; valid lines pass, a mutation is found as what it is."""

import gzip
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from idsync.ids import customer_id_fault, id_rules
from reconcile import lines, names
from reconcile.check import naming
from reconcile.check.block import Block
from reconcile.check.content import data_line
from reconcile.check.findings import RULES, Fault, FileReport, Report
from reconcile.check.job import Options, check
from reconcile.check.screen import DataScreen
from reconcile.check.users import Users
from tests.reconcile.samples import NOW, uuid

NOW_SECONDS = NOW // 1000


def look(name: str, content: bytes, *, screened: bool = True, block: int = 4_000_000) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        return check([path], Options(NOW, screened=screened, block=block))


def told(report: Report) -> list[tuple[object, ...]]:
    """All that a report says, but for where the file lay."""
    figures = [(file.lines, file.raw_bytes, sorted(file.counts.items())) for file in report.files]
    return [*figures, *(finding[1:] for finding in report.findings)]


# --- the bulk look against the exact one -----------------------------------------------------------------------------

LONG = b"<long>"  # stands for nearly all bytes that a line may have
PIECES = [
    *(b"\t", b"\n", b",", b'"', b"=", b":", b"-", b" ", b"\r", b"\x00", b"\x7f", b"\xff", b"\xc3", b"\xed\xa0\x80"),
    *("é".encode(), "\u2028".encode(), b"\tu1", b"u1\t", b"u2", b"d_sid=24", b"d_sid=", b"d_unsid=24", b"D_SID=1"),
    *(b"24", b"24:0", b"24:-1", b"ic=x", b"ic=", b'"a"="b"', b"a=b", b"-a=b", b"d", b"d_x=1", b"null", b"a@b.example"),
    *(b"%3A", b"%20", b"0" * 38, b"1" * 38, b"1" * 37, b"ab" * 32, b"AB" * 32, b"\n", b"\n", b"\t", b"\t", b","),
    *(b"4a1f0b9c-0d52-4e59-9f6e-0a1b2c3d4e5f", b"4111111111111111", b"x" * 520, b"9" * 20, b"u1\td_sid=24\n"),
    *(b"u1\td_sid=24,d_unsid=24\n", uuid(7).encode() + b"\tu1\n", b"u1\t" + b"0f" * 32 + b"\n", LONG),
]
NAMES = [
    "ftp_dpm_12345_1790000000.sync",
    "ftp_dpm_12345_1790000000.overwrite",
    "ftp_dpm_20914_21_1790000000.sync",
    "ftp_dpm_389146_21_1790000000.sync",
    "adobe_id_0_12345_1790000000.sync",
    "adobe_id_20914_12345_7_1790000000.sync",
    "c2c_id_12345_54321_1790000000.sync",
    "unknown",
]
content = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join),
    st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=3)), max_size=30).map(b"".join),
)


@given(st.sampled_from(NAMES), content, st.integers(1, 60))
@settings(max_examples=400, deadline=None)
@example(NAMES[0], b"\xff\xfe\n", 4)
@example(NAMES[0], b"0" * 38 + LONG + b"\tu1\n" + uuid(7).encode() + b"\tu1\n", 4)
def test_the_bulk_look_agrees_with_the_exact_one_on_any_bytes(name: str, data: bytes, block: int) -> None:
    data = data.replace(LONG, b"x" * 102_390)
    exact = look(name, data, screened=False)
    assert told(look(name, data)) == told(exact)
    if len(data) > 3:  # a byte order mark is only looked for in one piece
        assert told(look(name, data, block=max(block, 4))) == told(exact)
    if data.startswith(b"\x1f\x8b"):
        return
    packed = look(f"{name}.gz", gzip.compress(data))
    assert [finding[1:] for finding in packed.findings] == [finding[1:] for finding in exact.findings]


item_texts = st.sampled_from(
    [
        "d_sid=1",
        "d_sid=2",
        "d_unsid=1",
        "d_unsid=2",
        "1",
        "2",
        "1:0",
        "2:-1",
        "ic=1",
        '"a"="d_sid=1,2:0"',
        "a=1:0",
        "12",
    ]
)


@given(st.lists(st.lists(item_texts, min_size=1, max_size=4).map(",".join), min_size=1, max_size=6))
@settings(max_examples=500, deadline=None)
def test_contradictions_are_never_cleared_and_other_lines_mostly_are(content: list[str]) -> None:
    data = [f"u{number}\t{items}".encode() for number, items in enumerate(content)]
    rules = id_rules(12345)
    suspects = DataScreen(rules, overwrite=False).suspects(Block(b"\n".join(data) + b"\n")).tolist()
    for line, suspect in zip(data, suspects, strict=True):
        faults = list(data_line(line, rules, overwrite=False))
        assert suspect or not faults
        if suspect and not faults:  # only where a quoted text, or a bare code, looks like a contradiction
            assert b'"' in line or {item[:1] for item in line.partition(b"\t")[2].split(b",")} & {b"1", b"2"}


@given(st.lists(st.binary(max_size=30).filter(lambda text: not {9, 10} & set(text)), min_size=1, max_size=20))
def test_equal_users_and_only_they_have_equal_hashes(users: list[bytes]) -> None:
    hashes = Block(b"".join(user + b"\tx\n" for user in users)).user_hashes().tolist()
    for user, mark in zip(users, hashes, strict=True):
        assert (mark == 0) == (not user)
        assert [other == user for other in users] == [other == mark for other in hashes]


def test_ids_that_differ_in_one_digit_never_share_a_hash() -> None:
    data = "".join(f"{number:038d}\tx\n" for number in range(200_000)).encode()
    hashes = Block(data).user_hashes()
    assert len(np.unique(hashes)) == 200_000
    assert np.bincount((hashes >> np.uint64(60)).astype(np.int64)).min() > 12_000  # of 12,500


# --- users, against counting ------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 5), max_size=20), min_size=1, max_size=3), st.integers(1, 50), st.data())
@settings(max_examples=200, deadline=None)
def test_users_are_counted_as_a_dictionary_would(files: list[list[int]], piece: int, data: st.DataObject) -> None:
    hashes = data.draw(st.booleans())
    parts = [[f"u{user}\t{user * 31 + index % 13}" for index, user in enumerate(users)] for users in files]
    reports = [FileReport(str(number), 1000) for number in range(len(parts))]
    expected: dict[str, set[tuple[str, int]]] = {"hashes-of-customer": set(), "user-in-splits": set()}
    seen: dict[str, list[tuple[int, str]]] = {}
    with Users(pairs=hashes, piece=piece) as users:
        for number, part in enumerate(parts):
            users.begin(reports[number])
            for index, line in enumerate(part):
                users.add(Block(line.encode() + b"\n"))
                user = line.partition("\t")[0]
                before = seen.setdefault(user, [])
                if hashes:
                    different = {text for _, text in before}
                    if len(different) == lines.MAX_HASHES_PER_CUSTOMER and line not in different:
                        expected["hashes-of-customer"].add((str(number), index + 1))
                elif before and all(file != number for file, _ in before):
                    expected["user-in-splits"].add((str(number), index + 1))
                before.append((number, line))
        users.settle()
    for rule, places in expected.items():
        assert {(f.file, f.line) for report in reports for f in report.findings if f.rule == rule} == places


# --- valid lines, and one mutation -----------------------------------------------------------------------------------

words = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=12)
quotable = st.text(
    st.characters(exclude_characters='"\x7f', exclude_categories=("Cs", "Cc"), codec="utf-8"), min_size=1, max_size=12
)
bare = words.filter(lambda text: not text.isdecimal())
added, removed = st.integers(1, 10**9), st.integers(10**9 + 1, 10**18 - 1)  # never the same trait
rendered = st.one_of(
    added.map("d_sid={}".format),
    added.map(str),
    removed.map("d_unsid={}".format),
    removed.map("{}:0".format),
    removed.map("{}:-1".format),
    words.map("ic={}".format),
    bare,
    st.builds('"{}"="{}"'.format, quotable, quotable),
    st.builds("{}={}".format, bare, words),
    st.builds("-{}={}".format, bare, words),
    st.builds('"{}"={}'.format, quotable, words),
    st.builds('{}="{}"'.format, bare, quotable),
)
customers = words.filter(lambda text: customer_id_fault(text) is None)
customer_lines = st.builds("{}\t{}".format, customers, st.lists(rendered, min_size=1, max_size=5).map(",".join))
uuid_lines = st.builds(
    "{}\t{}".format, st.integers(1, 10**38 - 1).map(uuid), st.lists(rendered, min_size=1, max_size=5).map(",".join)
)
valid = st.one_of(st.lists(customer_lines, min_size=1, max_size=8), st.lists(uuid_lines, min_size=1, max_size=8))


@given(valid)
@settings(max_examples=400, deadline=None)
def test_lines_of_the_grammar_have_no_finding(content: list[str]) -> None:
    report = look("ftp_dpm_12345_1790000000.sync", "".join(f"{line}\n" for line in content).encode())
    assert report.findings == []


@given(customer_lines)
def test_what_has_no_finding_parses(line: str) -> None:
    lines.parse(line)


class Mutation(NamedTuple):
    rule: str
    apply: Callable[[str], str]


MUTATIONS = [
    Mutation("line-end", lambda line: line + "\t"),
    Mutation("line-end", lambda line: line + " "),
    Mutation("second-tab", lambda line: line + "\td_sid=1"),
    Mutation("no-tab", lambda line: line.replace("\t", " ")),
    Mutation("no-items", lambda line: line.partition("\t")[0] + "\t"),
    Mutation("empty-item", lambda line: line + ","),
    Mutation("empty-item", lambda line: line.replace("\t", "\t,")),
    Mutation("quote", lambda line: line + ',"'),
    Mutation("quote", lambda line: line.replace("\t", '\t"a"="b"",')),
    Mutation("item", lambda line: line + ",a=b=c"),
    Mutation("item", lambda line: line + ',""=x'),
    Mutation("trait-id", lambda line: line + ",d_sid=one"),
    Mutation("control-character", lambda line: line + ",a\x02=b"),
    Mutation("carriage-return", lambda line: line + "\r"),
    Mutation("add-and-remove", lambda line: line + ",d_sid=7777777777,7777777777:0"),
    Mutation("item-blank", lambda line: line + ", a=b"),
    Mutation("id-empty", lambda line: "\t" + line.partition("\t")[2]),
    Mutation("id-colon", lambda line: "a:" + line),
    Mutation("id-email", lambda line: "jane@example.com" + line[line.index("\t") :]),
    Mutation("id-blank", lambda line: " " + line),
    Mutation("line-too-long", lambda line: line + "," + "x" * lines.MAX_LINE_BYTES),
    Mutation("empty-line", lambda line: ""),
    Mutation("encoding", lambda line: line + ",\udcff"),
]


@given(st.lists(customer_lines, min_size=1, max_size=8), st.sampled_from(MUTATIONS), st.data())
@settings(max_examples=500, deadline=None)
def test_one_mutation_is_one_finding_where_it_is(content: list[str], mutation: Mutation, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = mutation.apply(content[at])
    text = "".join(f"{line}\n" for line in content).encode(errors="surrogateescape")
    (finding,) = look("ftp_dpm_12345_1790000000.sync", text, block=200).findings
    assert (finding.rule, finding.line) == (mutation.rule, at + 1)


# --- names -----------------------------------------------------------------------------------------------------------

numbers = st.sampled_from(["0", "7", "12345", "20914", "012", "x", "", "12345678901", "1790000000", "179000000", "4 "])
heads = st.builds(
    "{}{}".format, st.sampled_from(["ftp_dpm_", "adobe_id_", "c2c_id_", "s3_"]), st.lists(numbers).map("_".join)
)
tails = st.lists(st.sampled_from(["sync", "overwrite", "1", "0", "01", "12", "gz", "gpg", "pgp", "SYNC", "", "zip"]))


@given(st.builds("{}.{}".format, heads, tails.map(".".join)) | st.text(max_size=20) | heads)
@settings(max_examples=1000)
def test_a_name_has_no_error_where_it_parses(name: str) -> None:
    faults = [fault for fault in naming.read(name, NOW_SECONDS).faults if fault.rule != "name-target"]
    errors = [fault.rule for fault in faults if RULES[fault.rule].severity == "error"]
    assert all(1 <= (fault.column or 0) <= len(name) + 1 for fault in faults)
    if not name.startswith("ftp_dpm_") and any(fault.rule == "name-encrypted-sync" for fault in faults):
        name = name[: -len(".gpg")]
    assert (errors == []) == _parses(name)


def _parses(name: str) -> bool:
    try:
        names.parse(name) if name.startswith("ftp_dpm_") else names.parse_id_sync(name)
    except ValueError:
        return False
    return True


@given(
    st.builds(
        names.IdSyncName,
        kind=st.just("adobe_id"),
        dpids=st.lists(st.integers(1, 9_999_999_999), min_size=1, max_size=4, unique=True).map(lambda some: (0, *some)),
        timestamp=st.integers(1_000_000_000, 9_999_999_999),
        split=st.none() | st.integers(1, 999_999_999),
        suffix=st.sampled_from(["", "gz"]),
    )
)
def test_names_of_id_sync_files_parse_back(name: names.IdSyncName) -> None:
    assert names.parse_id_sync(name.render()) == name
    read = naming.read(name.render(), names.MAX_TIMESTAMP)
    assert (read.kind, read.dpids, read.timestamp, read.split, read.suffix) == (
        *(name.kind, name.dpids, name.timestamp, name.split, name.suffix),
    )


@pytest.mark.parametrize("folder", ["date=2026-09-21", "date=2026-09-20", "date=", "in", "date=2026-13-01"])
def test_only_folders_of_days_are_read(folder: str) -> None:
    faults: list[Fault] = list(naming.folder_faults(folder, NOW_SECONDS))
    assert bool(faults) == (folder in {"date=", "date=2026-13-01"})
