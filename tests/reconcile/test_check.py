"""`check`: a row for each rule, whole sets, files of any packing, the command, and the reconciler's own files."""

import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from idsync.errors import UsageError
from idsync.ids import id_rules
from reconcile.check.findings import RULES, Report
from reconcile.check.job import Limits, Options, check, rules_by_dpid
from reconcile.check.report import findings
from reconcile.lines import MAX_LINE_BYTES
from tests.reconcile.samples import NOW, World, uuid

DATA = "ftp_dpm_12345_1790000000.sync"
OVERWRITE = "ftp_dpm_12345_1790000000.overwrite"
ANDROID = "ftp_dpm_20914_21_1790000000.sync"
APPLE = "ftp_dpm_20915_21_1790000000.sync"
SYNC = "adobe_id_0_12345_1790000000.sync"
HASHES = "c2c_id_12345_54321_1790000000.sync"
GAID = "4a1f0b9c-0d52-4e59-9f6e-0a1b2c3d4e5f"
HASH = "ab" * 32
GOOD = "u1\td_sid=24\n"

Place = tuple[str, int | None, int | None]


def look(*paths: Path, options: Options | None = None) -> Report:
    return check(paths, options or Options(NOW))


def found(report: Report) -> list[Place]:
    return [(finding.rule, finding.line, finding.column) for finding in report.findings]


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- one file, one rule ----------------------------------------------------------------------------------------------

NAMES: list[tuple[str, str, int | None]] = [
    ("data.txt", "name-prefix", 1),
    ("FTP_DPM_12345_1790000000.sync", "name-prefix", 1),
    ("S3_1_2_iter_1790000000000.sync", "name-prefix", 1),
    ("ftp_dpm_x_1790000000.sync", "name-dpid", 9),
    ("ftp_dpm_012_1790000000.sync", "name-dpid", 9),
    ("ftp_dpm_0_1790000000.sync", "name-dpid", 9),
    ("ftp_dpm_12345678901_1790000000.sync", "name-dpid", 9),
    ("ftp_dpm_1_2_3_1790000000.sync", "name-dpid", 9),
    ("ftp_dpm_1790000000.sync", "name-dpid", 9),
    ("ftp_dpm_1__1790000000.sync", "name-dpid", 11),
    ("adobe_id_0_1790000000.sync", "name-dpid", 10),
    ("adobe_id_0_0_1790000000.sync", "name-dpid", 12),
    ("adobe_id_0_7_7_1790000000.sync", "name-dpid", 14),
    ("c2c_id_7_1790000000.sync", "name-dpid", 8),
    ("c2c_id_7_8_9_1790000000.sync", "name-dpid", 8),
    ("c2c_id_7_0_1790000000.sync", "name-dpid", 10),
    ("ftp_dpm_20914_1790000000.sync", "name-target", 15),
    ("ftp_dpm_7_17900000.sync", "name-timestamp", 11),
    ("ftp_dpm_7_1790000000000.sync", "name-timestamp", 11),
    ("ftp_dpm_7_0790000000.sync", "name-timestamp", 11),
    ("ftp_dpm_7_.sync", "name-timestamp", 11),
    ("ftp_dpm_7_today.sync", "name-timestamp", 11),
    ("ftp_dpm_7_1790000000", "name-mode", 21),
    ("ftp_dpm_7_1790000000.SYNC", "name-mode", 22),
    ("ftp_dpm_7_1790000000.1.gz", "name-mode", 22),
    ("adobe_id_0_7_1790000000.overwrite", "name-mode", 25),
    ("ftp_dpm_7_1790000000.sync.0", "name-split", 27),
    ("ftp_dpm_7_1790000000.sync.01", "name-split", 27),
    ("ftp_dpm_7_1790000000.sync.zip", "name-split", 27),
    ("ftp_dpm_7_1790000000.sync.1.zip", "name-suffix", 29),
    ("ftp_dpm_7_1790000000.sync.gz.1", "name-suffix", 30),
    ("ftp_dpm_7_1790000000.sync.gz.gpg", "name-suffix", 30),
    ("ftp_dpm_7_1790000000.sync.gpg.gz", "name-suffix", 31),
    ("ftp_dpm_7_179000000.sync", "name-nine-digits", 11),
    ("ftp_dpm_7_1790090000.sync", "name-time", 11),
    ("ftp_dpm_7_2026112412.sync", "name-time", 11),
    ("ftp_dpm_7_1100000000.sync", "name-time", 11),
    ("adobe_id_0_7_1790000000.sync.gpg", "name-encrypted-sync", 30),
    ("date=2026-09-18/ftp_dpm_7_1790000000.sync", "date-folder", None),
    ("date=2026-9-21/ftp_dpm_7_1790000000.sync", "date-folder", None),
]


@pytest.mark.parametrize(("name", "rule", "column"), NAMES)
def test_names_at_fault(tmp_path: Path, name: str, rule: str, column: int | None) -> None:
    content: str | bytes = f"{GAID}\td_sid=1\n" if "20914" in name else GOOD
    if "adobe_id" in name:
        content = f"{uuid(1)}" + "\tu1" * name.count("_7") + "\n"
    if "c2c_id" in name:
        content = f"u1\t{HASH}\n"
    if name.endswith((".gz", ".gz.1")) and "gpg" not in name:
        content = gzip.compress(GOOD.encode())
    if "gpg" in name:
        content = b"\x85\x02"
    assert found(look(put(tmp_path, name, content))) == [(rule, None, column)]


LINES: list[tuple[str, str | bytes, Place]] = [
    (DATA, GOOD + "u" * MAX_LINE_BYTES + "\n", ("line-too-long", 2, 1)),
    (DATA, "u\t" + "x" * (MAX_LINE_BYTES - 2) + "\n", ("line-too-long", 1, 1)),
    (DATA, GOOD + "\n" + GOOD, ("empty-line", 2, 1)),
    (DATA, GOOD + "u2\td_sid=1\r\n", ("carriage-return", 2, 11)),
    (DATA, "u1\td_sid=24\t\n", ("line-end", 1, 12)),
    (DATA, "u1\td_sid=24 \n", ("line-end", 1, 12)),
    (DATA, 'u1\t"a"="b" \t\n', ("line-end", 1, 11)),
    (SYNC, f"{uuid(1)}\tu1 \n", ("line-end", 1, 42)),
    (DATA, 'u1\t"a"="b\x01"\n', ("control-character", 1, 10)),
    (DATA, 'u1\td_sid=1,"a"="b\x7f"\n', ("control-character", 1, 18)),
    (DATA, 'u1\t"ä"="b\xa0", "c"="d"\n', ("item", 1, 13)),
    (DATA, GOOD + "u2 d_sid=24\n", ("no-tab", 2, 1)),
    (DATA, "u1\td_sid=1\td_sid=2\n", ("second-tab", 1, 11)),
    (DATA, "u1\t\n", ("no-items", 1, 4)),
    (DATA, "u1\td_sid=1,,d_sid=2\n", ("empty-item", 1, 12)),
    (DATA, "u1\td_sid=1,\n", ("empty-item", 1, 12)),
    (DATA, "u1\td_sid=1,a=b=c\n", ("item", 1, 12)),
    (DATA, 'u1\t"a"="b"c\n', ("item", 1, 4)),
    (DATA, 'u1\t"a"=""\n', ("item", 1, 4)),
    (DATA, "u1\t24:1\n", ("item", 1, 4)),
    (DATA, 'u1\td_sid=1,"a"="b\n', ("quote", 1, 16)),
    (DATA, "u1\td_sid=x\n", ("trait-id", 1, 4)),
    (DATA, "u1\tD_UNSID=\u0662\n", ("trait-id", 1, 4)),
    (DATA, "u1\td_sid=1, d_sid=2\n", ("trait-id", 1, 12)),
    (DATA, f"u1\td_unsid={'1' * 19}\n", ("trait-id", 1, 4)),
    (DATA, "u1\td_sid\n", ("trait-id", 1, 4)),
    (DATA, "u1\td_sid=24,d_unsid=24\n", ("add-and-remove", 1, 13)),
    (DATA, "u1\t24:0,d_sid=24\n", ("add-and-remove", 1, 9)),
    (DATA, "u1\td_sid=024,24:-1\n", ("add-and-remove", 1, 14)),
    (DATA, "u1\t24,24:0\n", ("add-and-remove", 1, 7)),
    (OVERWRITE, "u1\td_sid=1,d_unsid=24\n", ("removal-in-overwrite", 1, 12)),
    (OVERWRITE, "u1\td_sid=24,d_unsid=24\n", ("removal-in-overwrite", 1, 13)),
    (OVERWRITE, "u1\t24:-1\n", ("removal-in-overwrite", 1, 4)),
    (DATA, "u1\td_sid=1, a=b\n", ("item-blank", 1, 12)),
    (DATA, b"u1\td_sid=1,\xc3\xa4=\xff\n", ("encoding", 1, 14)),
    (DATA, b"u1\t\xed\xa0\x80=1\n", ("encoding", 1, 4)),
    (DATA, b'u1\t"a"="\xed\xa0\x80"\n', ("encoding", 1, 9)),
    (DATA, b'u1\t"a"="\xe0\x80\x80"\n', ("encoding", 1, 9)),
    (DATA, b'u1\t"a"="b\xf4\x90\x80\x80"\n', ("encoding", 1, 10)),
    (DATA, b'u1\t"a"="\xff"\n', ("encoding", 1, 9)),
    (DATA, "\td_sid=1\n", ("id-empty", 1, 1)),
    (DATA, "  \td_sid=1\n", ("id-empty", 1, 1)),
    (DATA, "u:1\td_sid=1\n", ("id-colon", 1, 1)),
    (DATA, "u%3a1\td_sid=1\n", ("id-colon", 1, 1)),
    (DATA, "u\x001\td_sid=1\n", ("id-control-character", 1, 1)),
    (DATA, "u" * 513 + "\td_sid=1\n", ("id-too-long", 1, 1)),
    (DATA, "null\td_sid=1\n", ("id-sentinel", 1, 1)),
    (DATA, f"{uuid(0)}\td_sid=1\n", ("id-sentinel", 1, 1)),
    (DATA, "${UID}\td_sid=1\n", ("id-macro", 1, 1)),
    (DATA, "jane@example.com\td_sid=1\n", ("id-email", 1, 1)),
    (DATA, "jane%40example.com\td_sid=1\n", ("id-email", 1, 1)),
    (DATA, "+49 30 1234567\td_sid=1\n", ("id-phone", 1, 1)),
    (DATA, "4111111111111111\td_sid=1\n", ("id-card", 1, 1)),
    (DATA, " u1\td_sid=1\n", ("id-blank", 1, 1)),
    (DATA, "u%201\td_sid=1\n", ("id-percent-encoded", 1, 2)),
    (DATA, f"{uuid(1)}\td_sid=1\n{uuid(2)[1:]}\td_sid=1\n", ("uuid-shape", 2, 1)),
    (DATA, f"{uuid(1)}\td_sid=1\n{uuid(2)}\td_sid=1\nu3\td_sid=1\n", ("mixed-id-types", 3, 1)),
    (DATA, f"u1\td_sid=1\n{uuid(2)}\td_sid=1\n", ("mixed-id-types", 2, 1)),
    (DATA, "u1\td_sid=1\nu2\td_sid=1", ("no-final-newline", 2, None)),
    (ANDROID, f"{GAID.upper()}\td_sid=1\n", ("device-id-shape", 1, 1)),
    (ANDROID, f"{GAID}\td_sid=1\n{uuid(1)}\td_sid=1\n", ("device-id-shape", 2, 1)),
    (ANDROID, "00000000-0000-0000-0000-000000000000\td_sid=1\n", ("id-sentinel", 1, 1)),
    (APPLE, f"{GAID}\td_sid=1\n", ("device-id-shape", 1, 1)),
    (SYNC, f"{uuid(1)[1:]}\tu1\n", ("uuid-shape", 1, 1)),
    (SYNC, "1.2E+37\tu1\n", ("uuid-shape", 1, 1)),
    (SYNC, f"{uuid(0)}\tu1\n", ("id-sentinel", 1, 1)),
    (SYNC, f"{uuid(1)}\tu1\tu2\n", ("column-count", 1, 42)),
    (SYNC, f"{uuid(1)}\n", ("column-count", 1, 39)),
    (SYNC, f"{uuid(1)}\ta@example.com\n", ("id-email", 1, 40)),
    (SYNC, f"{uuid(1)}\t{'u' * 513}\n", ("id-too-long", 1, 40)),
    ("adobe_id_0_12345_7_1790000000.sync", f"{uuid(1)}\t\tu1\n", ("empty-column", 1, 40)),
    ("adobe_id_20914_7_1790000000.sync", f"{GAID.upper()}\tu1\n", ("device-id-shape", 1, 1)),
    ("adobe_id_0_20915_1790000000.sync", f"{uuid(1)}\t{GAID}\n", ("device-id-shape", 1, 40)),
    (HASHES, f"u1\t{HASH.upper()}\n", ("hash-shape", 1, 4)),
    (HASHES, f"u1\t{HASH[1:]}\n", ("hash-shape", 1, 4)),
    (HASHES, f"u:1\t{HASH}\n", ("id-colon", 1, 1)),
    (HASHES, "".join(f"u1\t{number:064x}\n" for number in range(11)), ("hashes-of-customer", 11, 1)),
    (DATA, "u1\td_sid=1\n" * 201, ("lines-of-user", 201, 1)),
    (DATA, b"\xef\xbb\xbf" + GOOD.encode(), ("bom", None, None)),
    (DATA, GOOD.encode("utf-16"), ("encoding", None, None)),
    (DATA, "", ("empty-file", None, None)),
    (f"{DATA}.gz", b"", ("empty-file", None, None)),
    (f"{DATA}.gz", gzip.compress(b"", mtime=0), ("empty-file", None, None)),
    (f"{DATA}.gz", GOOD, ("not-gzip", None, None)),
    (DATA, gzip.compress(GOOD.encode(), mtime=0), ("gzip-unnamed", None, None)),
    (f"{DATA}.gpg", gzip.compress(GOOD.encode(), mtime=0), ("gzip-unnamed", None, None)),
    (f"{DATA}.pgp", GOOD, ("not-encrypted", None, None)),
    (f"{DATA}.gz", gzip.compress(GOOD.encode(), mtime=0)[:-6], ("gzip-damaged", None, None)),
]


@pytest.mark.parametrize(("name", "content", "place"), LINES)
def test_content_at_fault(tmp_path: Path, name: str, content: str | bytes, place: Place) -> None:
    assert found(look(put(tmp_path, name, content))) == [place]


def test_every_rule_has_a_row() -> None:
    elsewhere = {"name-twice", "file-too-large", "split-advised", "user-in-splits", "id-national-id"}
    elsewhere |= {"id-not-hashed-email"}
    assert {rule for _, rule, _ in NAMES} | {rule for _, _, (rule, _, _) in LINES} | elsewhere == set(RULES)


# --- what is valid ---------------------------------------------------------------------------------------------------

VALID: list[tuple[str, str]] = [
    (
        DATA,
        f"u1\td_sid=24,d_unsid=28\nu2\t28:0,29:-1\nu3\t24,ic=gold,ic=24,d_unsid=24,24\nu4\t{'d_sid=1,' * 999}d_sid=2\n",
    ),
    (DATA, 'u1\t"gender"="f","a,b"="c,\tx,d"\n'.replace("\t", " ").replace("u1 ", "u1\t")),
    (DATA, 'u1\tgender=f,"k"=v,k="v",-age=30,url=https://example.com/a-b,"d_sid"="x"\n'),
    (DATA, 'u1\t"city"="Köln 1","名"="値","e"="😀","n"="a=b:c"\nUSER1\td_sid=1\n'),
    (DATA, "u\t" + "x" * (MAX_LINE_BYTES - 3) + "\n"),
    (DATA, "".join(f"{uuid(number)}\td_sid=1\n" for number in range(1, 50))),
    (DATA, "12345678901234567890123456789012\td_sid=1\nu2\td_sid=1\n"),
    (DATA, "u1\td_sid=1\n" * 200),
    (OVERWRITE, "u1\td_sid=24,24\n"),
    (ANDROID, f"{GAID}\td_sid=1\n"),
    (APPLE, f"{GAID.upper()}\td_sid=1\n"),
    (SYNC, f"{uuid(1)}\tu1\n{uuid(1)}\tu2\n{'9' * 38}\tUSER-1\n" + f"{uuid(7)}\tu1\n" * 300),
    ("adobe_id_20914_7_8_1790000000.sync", f"{GAID}\tu1\tü2\n"),
    (HASHES, "".join(f"u1\t{number:064x}\n" for number in [*range(1, 11), *range(1, 11)]) + f"u2\t{HASH}\n"),
    (f"{DATA}.gpg", "\x85\x02"),
    (f"{DATA}.1.pgp", "-----BEGIN PGP MESSAGE-----\n"),
    ("date=2026-09-20/ftp_dpm_7_1790000000.sync", GOOD),
    ("any-folder/ftp_dpm_7_1790000000.sync.1", GOOD),
]


@pytest.mark.parametrize(("name", "content"), VALID)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("screened", [False, True])
def test_valid_files(tmp_path: Path, name: str, content: str, packed: bool, screened: bool) -> None:
    encrypted = name.endswith(("gpg", "pgp"))
    data = content.encode("latin-1" if encrypted else "utf-8")
    if packed and not encrypted:
        # two members, as `cat a.gz b.gz` makes them
        name, data = f"{name}.gz", gzip.compress(data[:5]) + gzip.compress(data[5:])
    report = look(put(tmp_path, name, data), options=Options(NOW, screened=screened))
    assert found(report) == []
    assert report.files[0].checked == ("name" if encrypted else "content")
    assert report.files[0].lines == (0 if encrypted else content.count("\n"))


def test_the_reconcilers_own_files_are_valid(tmp_path: Path) -> None:
    rule = 'rules = [ { column = "tier", equals = "gold", trait = 240, otherwise = "remove" } ]\n'
    for number, options in enumerate(("", 'compression = "none"\n', 'devices = "all"\n', 'user_id = "customer-id"\n')):
        world = World(
            tmp_path / str(number), feed='signals = ["gender", "tier"]\ntrait_columns = ["traits"]\n' + rule + options
        )
        world.sync(*((f"c{index % 900}", uuid(index + 1)) for index in range(1000)))
        odd = ["f", "=", ",,", "-", "a b ", "Ö\u2028", "d_sid=1", "24:0", "%3A", ""]
        world.put(
            "a.csv",
            [(f"c{index}", odd[index % 10], "gold" if index % 3 else odd[index % 7], "24|26") for index in range(900)],
        )
        world.run()
        delivered = sorted(path for path in world.delivered.iterdir() if not path.name.startswith("."))
        assert delivered
        report = look(*delivered)
        assert found(report) == []
        raw = [gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes() for path in delivered]
        assert sum(file.lines for file in report.files) == b"".join(raw).count(b"\n") > 500


# --- sets ------------------------------------------------------------------------------------------------------------


def split(number: int) -> str:
    return f"{DATA}.{number}"


def test_a_user_in_two_parts_is_told_at_each_later_part(tmp_path: Path) -> None:
    one = put(tmp_path, split(1), "a\td_sid=1\nb\td_sid=1\na\td_sid=2\n")
    two = put(tmp_path, split(2) + ".gz", gzip.compress(b"c\td_sid=1\nb\td_sid=1\nb\td_sid=2\n"))
    three = put(tmp_path, split(3), "b\td_sid=1\na\td_sid=1\n")
    report = look(one, two, three)
    assert [(Path(found.file).name[-4:], found.line) for found in report.findings] == [
        ("2.gz", 2),
        ("nc.3", 1),
        ("nc.3", 2),
    ]
    assert {found.rule for found in report.findings} == {"user-in-splits"}
    assert report.valid


def test_other_timestamps_are_other_sets(tmp_path: Path) -> None:
    one = put(tmp_path, DATA, GOOD)
    two = put(tmp_path, "ftp_dpm_12345_1790000001.sync", GOOD)
    three = put(tmp_path, "ftp_dpm_12345_1790000000.overwrite", GOOD)
    assert found(look(one, two, three)) == []


def test_the_lines_of_a_user_are_counted_over_all_parts_and_blocks(tmp_path: Path) -> None:
    content = "".join(f"u{number % 7}\td_sid={number + 1}\n" for number in range(700))
    one = put(tmp_path, split(1), content)
    two = put(tmp_path, split(2), content + "u0\td_sid=1\n" + "x\td_sid=1\n")
    report = look(one, two, options=Options(NOW, block=100, limit=3))
    # 100 of each in either part: only u0 has one more, which is line 701 of the second
    assert [(f.rule, f.line) for f in report.findings if f.rule == "lines-of-user"] == [("lines-of-user", 701)]
    assert report.files[1].counts == {"user-in-splits": 7, "lines-of-user": 1}
    assert [f.line for f in report.findings if f.rule == "user-in-splits"] == [1, 2, 3]


def test_the_same_name_twice(tmp_path: Path) -> None:
    one, two = put(tmp_path, f"a/{DATA}", GOOD), put(tmp_path, f"b/{DATA}", GOOD)
    assert found(look(one, two, one)) == [("name-twice", None, None)]


# --- files -----------------------------------------------------------------------------------------------------------

SMALL = Limits(raw=1000, gzipped=100, advised_raw=500, advised_gzipped=50)


@pytest.mark.parametrize(
    ("size", "packed", "rules"),
    [
        (500, False, []),
        (501, False, ["split-advised"]),
        (1000, False, ["split-advised"]),
        (1001, False, ["file-too-large"]),
        (1000, True, []),
        (1001, True, ["file-too-large"]),
    ],
)
def test_sizes(tmp_path: Path, size: int, packed: bool, rules: list[str]) -> None:
    data = (b"u1\t" + b"a" * 96 + b"\n") * (size // 100)
    data = data[:-1] + b"a" * (size - len(data)) + b"\n"
    path = put(tmp_path, f"{DATA}.gz" if packed else DATA, gzip.compress(data) if packed else data)
    if packed:
        assert path.stat().st_size < SMALL.advised_gzipped
    report = look(path, options=Options(NOW, limits=SMALL, block=64))
    assert [rule for rule, _, _ in found(report)] == rules
    assert report.files[0].raw_bytes == size


def test_sizes_of_what_hardly_compresses(tmp_path: Path) -> None:
    data = "".join(f"u{number * 7919}\td_sid={number}\n" for number in range(1, 20)).encode()
    path = put(tmp_path, f"{DATA}.gz", gzip.compress(data))
    size = path.stat().st_size
    for limits, rules in (
        (SMALL._replace(gzipped=size, advised_gzipped=size), []),
        (SMALL._replace(gzipped=size, advised_gzipped=size - 1), ["split-advised"]),
        (SMALL._replace(gzipped=size - 1), ["file-too-large"]),
    ):
        assert [rule for rule, _, _ in found(look(path, options=Options(NOW, limits=limits)))] == rules


def test_an_encrypted_file_of_more_than_the_limit(tmp_path: Path) -> None:
    path = put(tmp_path, f"{DATA}.gpg", b"\x85")
    os.truncate(path, Limits().raw + 1)  # sparse
    assert [rule for rule, _, _ in found(look(path))] == ["file-too-large"]


def test_a_line_without_end_is_one_finding_in_little_memory(tmp_path: Path) -> None:
    path = put(tmp_path, DATA, GOOD.encode() + b"x" * 3_000_000 + b"\n" + GOOD.encode() + b"y\n")
    report = look(path, options=Options(NOW, block=10_000))
    assert found(report) == [("line-too-long", 2, 1), ("no-tab", 4, 1)]
    assert (report.files[0].lines, report.files[0].raw_bytes) == (4, path.stat().st_size)


def test_a_cut_off_gzip_file_is_checked_as_far_as_it_goes(tmp_path: Path) -> None:
    data = b"".join(b"u%d\td_sid=%d\n" % (number, number + 1) for number in range(50_000)) + b"bad\n"
    path = put(tmp_path, f"{DATA}.gz", gzip.compress(b"bad\n" + data)[:-100])
    report = look(path, options=Options(NOW, block=10_000))
    assert [finding.rule for finding in report.findings] == ["gzip-damaged", "no-tab"]
    assert report.files[0].lines > 10_000


def test_findings_past_the_limit_are_counted(tmp_path: Path) -> None:
    path = put(tmp_path, DATA, "bad\n" * 500 + "u1\t\n")
    report = look(path, options=Options(NOW, block=64))
    assert [finding.line for finding in report.findings] == [*range(1, 11), 501]
    assert report.files[0].counts == {"no-tab": 500, "no-items": 1}
    assert report.total("error") == 501
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(findings(report))
    assert "… and 490 more, 500 in all" in console.export_text()


def test_broken_uuids_past_the_limit_are_counted(tmp_path: Path) -> None:
    path = put(tmp_path, DATA, "".join(f"{'1' * 37}\td_sid={n}\n" for n in range(1, 31)) + f"{uuid(1)}\td_sid=1\n")
    report = look(path, options=Options(NOW, block=200))
    assert [finding.line for finding in report.findings] == [*range(1, 11)]
    assert report.files[0].counts == {"uuid-shape": 30}


def test_a_file_of_columns_that_the_name_does_not_tell_is_checked_by_name(tmp_path: Path) -> None:
    report = look(put(tmp_path, "adobe_id_x_7_1790000000.sync", "anything\n"))
    assert (found(report), report.files[0].checked) == ([("name-dpid", None, 10)], "name")


def test_no_finding_quotes_an_id_or_a_value(tmp_path: Path) -> None:
    lines = 'secret@example.com\t"secret"="secret"x,secret=secret=secret,d_sid=secret\nsecret\nsecret:1\t"secret\n'
    report = look(put(tmp_path, DATA, lines), put(tmp_path, SYNC, "secret@example.com\tsecret@example.com\nsecret\n"))
    assert len(report.findings) == 10
    assert "secret" not in json.dumps(report.as_dict())


def test_the_rules_of_configured_data_sources(tmp_path: Path) -> None:
    path = put(tmp_path, DATA, f"1234567\td_sid=1\n{HASH}\td_sid=1\n19900101-0017\td_sid=1\n")
    hashed = rules_by_dpid([(12345, id_rules(12345, "hashed-email"))])
    assert [place[:2] for place in found(look(path, options=Options(NOW, hashed)))] == [
        ("id-not-hashed-email", 1),
        ("id-not-hashed-email", 3),
    ]
    national = rules_by_dpid([(12345, id_rules(12345, national_ids=["se"]))])
    assert found(look(path, options=Options(NOW, national))) == [("id-national-id", 3, 1)]
    other = rules_by_dpid([(7, id_rules(7, "hashed-email"))])
    assert found(look(path, options=Options(NOW, other))) == []


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        look(tmp_path / DATA)


# --- the command -----------------------------------------------------------------------------------------------------


def command(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """In an empty folder, so that no configuration is there unless named."""
    root = Path(__file__).parent.parent.parent
    environ = {name: value for name, value in os.environ.items() if not name.startswith("IDSYNC_")}
    return subprocess.run(
        [sys.executable, "-m", "reconcile", "check", *map(str, arguments)],
        cwd=folder,
        env={**environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_exit_statuses_and_outputs(tmp_path: Path) -> None:
    good, bad = put(tmp_path, DATA, GOOD), put(tmp_path, SYNC, "x\n")
    odd = put(tmp_path, "ftp_dpm_7_179000000.sync", GOOD)
    fine = command(tmp_path, good, odd)
    assert (fine.returncode, fine.stderr) == (0, "")
    assert "2 files: valid, 1 warning" in fine.stdout
    wrong = command(tmp_path, good, bad, "--json")
    assert (wrong.returncode, wrong.stderr) == (1, "")
    told = json.loads(wrong.stdout)
    assert (told["valid"], told["errors"], told["warnings"]) == (False, 1, 0)
    assert [file["file"] for file in told["files"]] == [str(good), str(bad)]
    assert told["findings"] == [
        {
            "file": str(bad),
            "line": 1,
            "column": 2,
            "rule": "column-count",
            "severity": "error",
            "message": "1 columns; the name asks for 2",
            "mend": RULES["column-count"].mend,
        }
    ]
    wrong_usage: list[list[str | Path]] = [[], [tmp_path / "none"], [tmp_path], [good, "--config", tmp_path / "none"]]
    for arguments in wrong_usage:
        assert command(tmp_path, *arguments).returncode == 2


def test_the_configuration_is_used_where_there_is_one(tmp_path: Path) -> None:
    world = World(tmp_path)
    path = world.write_config()
    path.write_text(path.read_text().replace("dpid = 12345", 'dpid = 12345\nformat = "hashed-email"', 1))
    good = put(tmp_path, DATA, GOOD)
    assert command(tmp_path, good).returncode == 1
    (tmp_path / "elsewhere").mkdir()
    assert command(tmp_path / "elsewhere", good).returncode == 0
    assert command(tmp_path / "elsewhere", good, "--config", path).returncode == 1
