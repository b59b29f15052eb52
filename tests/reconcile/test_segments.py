"""Outbound exports, led back to customers: names, control files, lines, the join, and where exports lie."""

import csv
import gzip
import hashlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from idsync.errors import UsageError
from idsync.store import open_store
from idsync.store.base import EXPORT_SCHEMA
from idsync.store.optouts import OptOut
from reconcile.__main__ import cli
from reconcile.errors import DestinationRefused, InputRefused, InputUnavailable
from reconcile.progress import Meter
from reconcile.segments import control, engine, lines, names, reading
from reconcile.segments.job import Request, SegmentSummary, join
from reconcile.segments.names import OutboundName
from tests.reconcile.samples import NOW, World, uuid
from tests.s3 import moto_s3
from tests.sftp import Sftp, sftp_server

STAMP = 1_486_140_844_000
ITER = f"ftp_1234_45454_iter_{STAMP}"
Row = tuple[str, str, str]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Customers a, b, c on devices 1, 2, 3; d on 4 and 5; 6 belongs to e and f."""
    world = World(tmp_path)
    world.sync(("a", uuid(1)), ('b,"b"', uuid(2)), ("c", uuid(3)), ("d", uuid(4)), ("d", uuid(5)))
    world.sync(("e", uuid(6)), ("f", uuid(6)))
    return world


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def put(world: World, name: str, *rows: str, ending: str = "\n") -> Path:
    path = world.folder / "out" / name
    path.parent.mkdir(exist_ok=True)
    text = "".join(row + ending for row in rows).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


def info(world: World, root: str, *paths: Path, **changes: Any) -> Path:
    """A control file as the documentation shows it: keys without quotes. `changes` are of the first file."""
    entries: list[dict[str, Any]] = []
    for number, path in enumerate(paths, start=1):
        data = path.read_bytes()
        raw = gzip.decompress(data) if path.suffix == ".gz" else data
        entry = {
            "FileByteSize": len(data),
            "FileLineCount": raw.count(b"\n"),
            "FileName": path.name,
            "FileSequenceNumber": number,
            "md5": md5(data),
        }
        entries.append(entry | changes if number == 1 else entry)
    totals = {
        "FileName": f"{root}.sync",
        "TotalByteSize": sum(entry["FileByteSize"] for entry in entries),
        "TotalNumberFiles": len(entries),
        "TotalNumberLines": sum(entry["FileLineCount"] for entry in entries),
    }
    text = json.dumps({"Files": entries, "Totals": totals}, indent=2)
    for key in {*entries[0], *totals, "Files", "Totals"}:
        text = text.replace(f'"{key}":', f"{key}:")
    path = world.folder / "out" / f"{root}.info"
    path.write_text(text)
    return path


def joined(world: World, *given: Path | str, **options: Any) -> tuple[list[Row], SegmentSummary]:
    """The rows, sorted but for one customer's own, and the figures. Within an export rows come in no order."""
    out = io.BytesIO()
    source = world.settings.data_sources[0]
    request = Request([str(each) for each in given], **options)
    summary = join(world.settings, source, request, lambda: out, meter=Meter(), now=world.now)
    assert summary.read == summary.matched + summary.unmatched + summary.opted_out + summary.rejected
    if not out.getvalue():
        return [], summary
    header, *rows = csv.reader(io.StringIO(out.getvalue().decode(), newline=""))
    assert header == ["customer_id", "segment_id", "action"]
    assert len(rows) == summary.rows
    return sorted(((each[0], each[1], each[2]) for each in rows), key=lambda row: row[0]), summary


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        (f"{ITER}.sync.gz", OutboundName(STAMP, ITER, 0, "iter")),
        (f"{ITER}001.sync.gz", OutboundName(STAMP, ITER, 1, "iter")),
        (f"{ITER}1234.sync", OutboundName(STAMP, ITER, 1234, "iter")),
        (f"{ITER}-1.sync", OutboundName(STAMP, ITER, 1, "iter")),
        (f"S3_1_20914_XYZ_full_{STAMP}-12.sync.gz", OutboundName(STAMP, f"S3_1_20914_XYZ_full_{STAMP}", 12, "full")),
        (f"S3_1_2_full_alias_iter_{STAMP}.sync", OutboundName(STAMP, f"S3_1_2_full_alias_iter_{STAMP}", 0, "iter")),
        ("S3_1_2_full.sync", OutboundName(0, "S3_1_2_full", 0, "full")),
        ("S3_1_2_full-2.sync", OutboundName(0, "S3_1_2_full", 2, "full")),
        ("ftp_fuller_1.sync", OutboundName(0, "ftp_fuller_1", 0, None)),
        (f"{STAMP}.sync", OutboundName(STAMP, str(STAMP), 0, None)),
        ("full.sync", OutboundName(0, "full", 0, "full")),
        (".sync", OutboundName(0, "", 0, None)),
        ("export.txt", OutboundName(0, "export.txt", 0, None)),
    ],
)
def test_names(name: str, parsed: OutboundName) -> None:
    assert names.parse(name) == parsed


def test_files_are_read_in_the_order_of_their_time() -> None:
    later = f"a_iter_{STAMP + 1}.sync"
    shuffled = [later, f"{ITER}010.sync", f"{ITER}002.sync", f"{ITER}.sync"]
    assert sorted(shuffled, key=names.parse) == shuffled[::-1]


def test_the_control_file_of_a_full_export_may_be_called_iter() -> None:
    assert names.control_names("ftp_1_2_full_1500727351632-1.sync.gz") == [
        "ftp_1_2_full_1500727351632.info",
        "ftp_1_2_iter_1500727351632.info",
    ]


# --- lines -----------------------------------------------------------------------------------------------------------

U = uuid(1)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        *(("", "blank"), ("   ", "blank"), (f"{U[1:]} 24", "not-a-uuid"), (f"{U}0 24", "not-a-uuid")),
        *((f" {U} 24", "not-a-uuid"), ("userid segments", "not-a-uuid"), (f"{U}\t24", "not-a-uuid")),
        *((U, "no-segments"), (f"{U} ", "no-segments"), (f"{U}  ", "no-segments")),
        *((f"{U} 24,", "bad-segments"), (f"{U} ,24", "bad-segments"), (f"{U} 24,,25", "bad-segments")),
        *((f"{U} 24;25", "bad-segments"), (f"{U} 24 x", "bad-segments"), (f"{U} 24\t25", "bad-segments")),
        *((f"{U}  24", "two-spaces"), (f"{U}  24 ", "two-spaces"), (f"{U} 1 2 3", "too-many-lists")),
        *((f"{U} 1  2", "too-many-lists"), (f"{U} 24\r25", "bad-segments"), (f"{U} 24 \x00", "bad-segments")),
        *((f"{U} ٢٤", "bad-segments"), (f"{U} 24\u00a0", "bad-segments"), (f"\ufeff{U} 24", "not-a-uuid")),
    ],
)
def test_lines_that_are_refused_with_their_reason(world: World, line: str, reason: str) -> None:
    path = put(world, f"{ITER}.sync", f"{uuid(3)} 7", line, f"{uuid(1)} 8")
    rows, summary = joined(world, path)
    assert rows == [("a", "8", "add"), ("c", "7", "add")]
    assert (summary.read, summary.matched, summary.reasons) == (3, 2, {reason: 1})
    assert summary.samples == [f"{path}, line 2: {reason}"]
    assert reason in lines.EXPLANATIONS


@pytest.mark.parametrize(
    ("line", "rows"),
    [
        (f"{U} 24", [("24", "add")]),
        (f"{U} 24,26", [("24", "add"), ("26", "add")]),
        (f"{U} 24,26 25,28", [("24", "add"), ("26", "add"), ("25", "remove"), ("28", "remove")]),
        (f"{U}  24,26  25", [("24", "add"), ("26", "add"), ("25", "remove")]),  # the documentation's own sample
        (f"{U} 007,1e5".replace("1e5", "38"), [("007", "add"), ("38", "add")]),
        (f"{U} 24 ", [("24", "add")]),
        (f"{U} 24\r", [("24", "add")]),
    ],
)
def test_lines_that_are_taken(world: World, line: str, rows: list[tuple[str, str]]) -> None:
    found, _ = joined(world, put(world, f"{ITER}.sync", line))
    assert found == [("a", *row) for row in rows]


def test_invalid_bytes_and_a_missing_last_newline(world: World) -> None:
    path = world.folder / "x.sync"
    path.write_bytes(f"{U} 1\n".encode() + b"\xff\xfe \x80\n" + f"{uuid(3)} 2".encode())
    rows, summary = joined(world, path)
    assert rows == [("a", "1", "add"), ("c", "2", "add")]
    assert (summary.read, summary.reasons) == (3, {"not-a-uuid": 1})


def test_a_file_of_something_else_is_refused(world: World) -> None:
    path = put(world, "S3_1_20914_iter_1486140844000.sync", "38400000-8cf0-11bd-b23e-10b96e40000d 24")
    with pytest.raises(InputRefused, match="none of the 1 lines"):
        joined(world, path)


def test_blocks_of_any_size_give_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"{uuid(1 + number % 3)} {number},{number + 1}" for number in range(200)]
    path = put(world, f"{ITER}.sync.gz", *rows)
    whole = sorted(joined(world, path)[0])
    assert len(whole) == 400
    for size in (1, 7, 45, 4096):
        monkeypatch.setattr(reading, "BLOCK_BYTES", size)
        assert sorted(joined(world, path)[0]) == whole


# --- the join --------------------------------------------------------------------------------------------------------


def test_removals_of_a_full_export_say_nothing(world: World) -> None:
    line = f"{uuid(1)} 24 25"
    assert joined(world, put(world, f"x_iter_{STAMP}.sync", line))[0] == [("a", "24", "add"), ("a", "25", "remove")]
    assert joined(world, put(world, f"x_full_{STAMP}.sync", line))[0] == [("a", "24", "add")]
    assert joined(world, put(world, "x.sync", line))[0] == [("a", "24", "add"), ("a", "25", "remove")]


def test_customer_ids_are_quoted_where_they_must(world: World) -> None:
    assert joined(world, put(world, f"{ITER}.sync", f"{uuid(2)} 1,2"))[0] == [
        ('b,"b"', "1", "add"),
        ('b,"b"', "2", "add"),
    ]


def test_all_customers_of_a_device(world: World) -> None:
    rows, summary = joined(world, put(world, f"{ITER}.sync", f"{uuid(6)} 1"))
    assert rows == [("e", "1", "add"), ("f", "1", "add")]
    assert (summary.read, summary.matched) == (1, 1)


def test_what_the_devices_of_a_customer_say_is_put_together(world: World) -> None:
    """In a segment with one of the devices is in the segment."""
    path = put(world, f"{ITER}.sync", f"{uuid(4)} 1,2 3", f"{uuid(5)} 2,3 1,4")
    assert joined(world, path)[0] == [("d", "1", "add"), ("d", "2", "add"), ("d", "3", "add"), ("d", "4", "remove")]


def test_exports_keep_their_order(world: World) -> None:
    """Also for customers with several devices: the rows of the later one come last, however the files are named."""
    first = put(world, f"z_iter_{STAMP}.sync", f"{uuid(4)} 1", f"{uuid(1)} 1")
    second = put(world, f"a_iter_{STAMP + 1}.sync", f"{uuid(5)} 2 1", f"{uuid(1)} 2 1")
    rows, _ = joined(world, second, first)
    assert [row for row in rows if row[0] == "a"] == [("a", "1", "add"), ("a", "2", "add"), ("a", "1", "remove")]
    assert [row for row in rows if row[0] == "d"] == [("d", "1", "add"), ("d", "1", "remove"), ("d", "2", "add")]


def test_splits_of_one_export(world: World) -> None:
    for form in ("{}.sync.gz", "{}001.sync.gz", "{}002.sync.gz"):
        put(world, form.format(ITER), f"{uuid(4)} {len(form)}")
    rows, summary = joined(world, world.folder / "out")
    assert rows == [("d", str(len("{}.sync.gz")), "add"), ("d", str(len("{}001.sync.gz")), "add")]  # each once
    assert summary.read == 3


def test_opted_out_people(world: World) -> None:
    """A device that opted out, a customer with the device last linked to him, a customer alone."""
    path = put(world, f"{ITER}.sync", *(f"{uuid(number)} 1" for number in range(1, 8)))
    with_store = open_store(world.settings.store)
    with_store.opt_out(OptOut((), (uuid(1),), NOW, takes_devices=False))
    with_store.opt_out(OptOut(((12345, "c"),), (), NOW, takes_devices=True))
    with_store.opt_out(OptOut(((12345, "e"),), (), NOW, takes_devices=False))
    with_store.close()
    rows, summary = joined(world, path)
    assert rows == [('b,"b"', "1", "add"), ("d", "1", "add"), ("f", "1", "add")]
    assert (summary.matched, summary.opted_out, summary.unmatched) == (4, 2, 1)


def test_expired_devices_are_unmatched(world: World) -> None:
    world.now += 121 * 86_400_000
    rows, summary = joined(world, put(world, f"{ITER}.sync", f"{uuid(1)} 1"))
    assert (rows, summary.unmatched) == ([], 1)


IDS = st.sampled_from(["a", "b", "c,1", 'd"', "é", " x", "007"])
LINES = st.one_of(
    st.builds(
        lambda device, added, removed: f"{uuid(device)} {','.join(added)} {','.join(removed)}".rstrip(" "),
        st.integers(0, 9),
        st.lists(st.sampled_from("12345"), min_size=1, unique=True),
        st.lists(st.sampled_from("678"), unique=True),
    ),
    st.sampled_from(["", "nonsense", f"{uuid(1)}", f"{uuid(1)} x", f"{uuid(2)}  4"]),
)


@settings(max_examples=25, deadline=None)
@given(
    pairs=st.lists(st.tuples(IDS, st.integers(0, 9)), max_size=12),
    opted_out=st.lists(st.integers(0, 9), max_size=2),
    files=st.lists(st.tuples(st.sampled_from(["iter", "full"]), st.lists(LINES, max_size=8)), min_size=1, max_size=3),
)
def test_rows_are_what_the_definition_says(
    tmp_path_factory: pytest.TempPathFactory,
    pairs: list[tuple[str, int]],
    opted_out: list[int],
    files: list[tuple[str, list[str]]],
) -> None:
    world = World(tmp_path_factory.mktemp("world"))
    world.sync(*((customer, uuid(device)) for customer, device in pairs))
    world.opt_out(devices=[uuid(device) for device in opted_out])
    paths = [
        put(world, f"x_{mode}_{STAMP + at}.sync", *of_file) for at, (mode, of_file) in enumerate(files) if any(of_file)
    ]
    good = [line for _, of_file in files for line in of_file if lines.reason(line) == "too-many-lists"]
    if not paths or not good:
        return
    rows, summary = joined(world, *paths)
    assert rows_in_sets(rows) == rows_in_sets(defined(pairs, opted_out, files))
    assert summary.rejected == sum(len(of_file) for _, of_file in files if any(of_file)) - len(good)
    assert summary.opted_out == sum(line.split()[0] in {uuid(device) for device in opted_out} for line in good)


def rows_in_sets(rows: Sequence[Row]) -> Mapping[Row, int]:
    return {row: rows.count(row) for row in rows}


def defined(pairs: list[tuple[str, int]], opted_out: list[int], files: list[tuple[str, list[str]]]) -> list[Row]:
    """In plain Python: who has one device says what each line says, who has several what the export says in all."""
    known = {(customer, device) for customer, device in pairs if device not in opted_out}
    rows: list[Row] = []
    for mode, of_file in files:
        together: dict[tuple[str, str], str] = {}
        for line in of_file:
            if not any(of_file) or lines.reason(line) != "too-many-lists":
                continue
            device, added, removed = [*line.split(" "), ""][:3]
            said = [(segment, "add") for segment in added.split(",")]
            said += [(segment, "remove") for segment in removed.split(",") if segment and mode == "iter"]
            for customer, number in known:
                if uuid(number) != device:
                    continue
                several = sum(other == customer for other, _ in known) > 1
                for segment, action in said:
                    if several:
                        before = together.get((customer, segment))
                        together[customer, segment] = "add" if "add" in {before, action} else "remove"
                    else:
                        rows.append((customer, segment, action))
        rows += [(*key, action) for key, action in together.items()]
    return rows


def test_several_devices_are_seen_across_batches() -> None:
    ids = list("abbccccdefff")
    table = pa.table([ids, [uuid(at) for at in range(len(ids))], list(range(len(ids)))], schema=EXPORT_SCHEMA)
    expected = [ids.count(each) > 1 for each in ids]
    for size in range(1, len(ids) + 1):
        marked = engine._marked(iter(table.to_batches(max_chunksize=size)))
        assert [flag for batch in marked for flag in batch.column("several").to_pylist()] == expected


# --- control files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def export(world: World) -> tuple[Path, Path]:
    return (
        put(world, f"{ITER}-1.sync.gz", f"{uuid(1)} 1", f"{uuid(9)} 1"),
        put(world, f"{ITER}-2.sync.gz", f"{uuid(3)} 2"),
    )


def test_the_documented_control_file() -> None:
    """But for its checksums, which are none."""
    text = """{
      Files: [
        { FileByteSize: 293029329, FileLineCount: 36893908,
          FileName: "ftp_12345_67890_full_1500727351632-1.sync.gz", FileSequenceNumber: 1,
          md5: "983c634be2ad5263c6a6c4958bf61d9f" },
        { FileByteSize: 293039238, FileLineCount: 36895184,
          FileName: "ftp_12345_67890_full_1500727351632-2.sync.gz", FileSequenceNumber: 2,
          md5: "60c9907c8e78cfd78409622e7b55a984" },
      ],
      Totals: { FileName: "ftp_12345_67890_full_1500727351632.sync", TotalByteSize: 586068567, TotalNumberFiles: 2,
        TotalNumberLines: 73789092 }
    }"""
    found = control.parse(text.encode())
    assert (found.files[1].bytes, found.total_lines, len(found.files)) == (293039238, 73789092, 2)
    assert list(control.sums(found)) == []
    assert control.parse(json.dumps({"Files": [{"FileName": 'a: "b", c'}]}).encode()).files[0].name == 'a: "b", c'


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\xff", b"[]", b"null", b"{", b'{"Files": []}', b"{Files: 3}", b"{Files: [3]}", b"{Files: [{}]}"),
        *(b'{Files: [{FileName: "a", md5: "98g"}]}', b'{Files: [{FileName: "a", FileByteSize: -1}]}'),
        *(b'{Files: [{FileName: "a", FileLineCount: 1.5}]}', b'{Files: [{FileName: "a"}, {FileName: "a"}]}'),
        *(b'{Files: [{FileName: "a", FileLineCount: true}]}', b'{Files: [{FileName: "a"}], Totals: [1]}'),
        *(b"[" * 100_000, b'{Files: [{FileName: "x/"}]}', b" " * (control.MAX_BYTES + 1)),
    ],
)
def test_what_is_no_control_file(world: World, export: tuple[Path, Path], content: bytes) -> None:
    (world.folder / "out" / f"{ITER}.info").write_bytes(content)
    with pytest.raises(InputRefused, match="no control file"):
        joined(world, *export)


def test_an_export_that_is_whole(world: World, export: tuple[Path, Path]) -> None:
    path = info(world, ITER, *export)
    rows, summary = joined(world, world.folder / "out")
    assert rows == [("a", "1", "add"), ("c", "2", "add")]
    assert (summary.controls, summary.notes) == ([str(path)], [])
    assert joined(world, *export)[1].controls == [str(path)]  # it need not be named
    assert summary.files[0]["md5"] == md5(export[0].read_bytes())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"md5": "0" * 32}, "has the MD5"),
        ({"FileLineCount": 3}, "has 2 lines, not 3"),
        ({"FileByteSize": 3}, "bytes, not 3"),
    ],
)
def test_an_export_that_is_not_what_it_should_be(
    world: World, export: tuple[Path, Path], changes: dict[str, Any], told: str
) -> None:
    info(world, ITER, *export, **changes)
    output = world.folder / "rows.csv"
    for options in ({}, {"output": output}):
        with pytest.raises(InputRefused, match=told):
            joined(world, *export, **options)
    assert not [path for path in world.folder.iterdir() if "rows.csv" in path.name]
    rows, summary = joined(world, *export, unverified=True)
    assert (len(rows), len(summary.notes)) == (2, 1)


def test_totals_that_do_not_add_up(world: World, export: tuple[Path, Path]) -> None:
    path = info(world, ITER, *export)
    path.write_text(path.read_text().replace("TotalNumberLines: 3", "TotalNumberLines: 4"))
    with pytest.raises(InputRefused, match="lists 3 lines and says 4 in all"):
        joined(world, *export)


def test_a_control_file_that_is_ahead_of_its_files(world: World, export: tuple[Path, Path]) -> None:
    path = info(world, ITER, *export)
    content = export[1].read_bytes()
    export[1].write_bytes(content[:-5])  # still growing
    with pytest.raises(InputUnavailable, match=f"has {len(content) - 5} of {len(content)} bytes") as caught:
        joined(world, world.folder / "out")
    assert caught.value.exit_status == 75
    export[1].unlink()
    for asked in ([world.folder / "out"], [export[0]]):
        with pytest.raises(InputUnavailable, match="is not there"):
            joined(world, *asked)
    assert joined(world, export[0], unverified=True)[0] == [("a", "1", "add")]
    export[0].unlink()
    with pytest.raises(InputUnavailable, match="is not there"):
        joined(world, path)
    with pytest.raises(UsageError, match="no file of an export"):
        joined(world, path, unverified=True)


def test_gzip_that_is_cut_off(world: World) -> None:
    path = put(world, f"{ITER}.sync.gz", *(f"{uuid(number)} 1" for number in range(1000)))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputRefused, match="broken or cut off"):
        joined(world, path)


# --- where exports lie, and where rows go ----------------------------------------------------------------------------


def test_files_globs_and_folders(world: World, export: tuple[Path, Path]) -> None:
    info(world, ITER, *export)
    put(world, f".{ITER}-3.sync.gz", f"{uuid(3)} 9")
    put(world, "readme.txt", "not one of them")
    folder = world.folder / "out"
    expected = joined(world, *export)[0]
    for asked in ([folder], [folder / "*.sync.gz"], [folder, *export], [f"{folder}/*-[12].sync.gz"]):
        assert joined(world, *asked)[0] == expected
    for asked in (
        [folder / "none.sync"],
        [folder / "none*"],
        [folder / "readme.txt", put(world, "../readme.txt", "x")],
    ):
        with pytest.raises(UsageError):
            joined(world, *asked)
    (world.folder / "empty").mkdir()
    with pytest.raises(UsageError, match="no file of an export"):
        joined(world, world.folder / "empty")


def test_output_files(world: World, export: tuple[Path, Path]) -> None:
    rows = joined(world, *export)[0]
    for name in ("rows.csv", "rows.csv.gz", "rows.parquet"):
        path = world.folder / name
        path.write_text("what was there before")
        nothing, summary = joined(world, *export, output=path)
        assert (nothing, summary.rows, summary.output) == ([], 2, str(path))
        if name == "rows.parquet":
            table = parquet.read_table(path)
            assert sorted(tuple(row.values()) for row in table.to_pylist()) == rows
            assert {str(kind) for kind in table.schema.types} == {"string"}
        else:
            text = (gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()).decode()
            assert sorted(csv.reader(text.splitlines()[1:])) == [list(row) for row in rows]
    quoted = world.folder / "quoted.parquet"
    joined(world, put(world, "q_full_1486140844000.sync", f"{uuid(2)} 007"), output=quoted)
    assert parquet.read_table(quoted).to_pylist() == [{"customer_id": 'b,"b"', "segment_id": "007", "action": "add"}]
    with pytest.raises(UsageError, match="does not exist"):
        joined(world, *export, output=world.folder / "none" / "rows.csv")


def test_rejects_are_written_without_the_line(world: World) -> None:
    path = put(world, f"{ITER}.sync", f"{uuid(1)} 1", "someone@example.com 2", f"{uuid(3)} x")
    _, summary = joined(world, path, rejects=world.folder / "rejects.csv")
    written = (world.folder / "rejects.csv").read_text()
    assert [row[:3] for row in csv.reader(written.splitlines())] == [
        ["input", "line", "reason"],
        [str(path), "2", "not-a-uuid"],
        [str(path), "3", "bad-segments"],
    ]
    assert "someone" not in written + "".join(summary.samples)


@pytest.fixture(scope="module")
def bucket_url() -> Iterator[str]:
    with moto_s3() as url:
        yield url


def test_a_bucket(world: World, export: tuple[Path, Path], bucket_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "testing"),
        ("AWS_SECRET_ACCESS_KEY", "testing"),
        ("AWS_ENDPOINT_URL", bucket_url),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="outbound")
    for path in (*export, info(world, ITER, *export)):
        client.put_object(Bucket="outbound", Key=f"day/{path.name}", Body=path.read_bytes())
    client.put_object(Bucket="outbound", Key="day/readme.txt", Body=b"")
    expected = joined(world, *export)[0]
    for url in ("s3://outbound/day", "s3://outbound/day/", "s3://outbound/day/ftp_*", "s3://outbound/*"):
        rows, summary = joined(world, url)
        assert rows == expected
        assert summary.controls == [f"s3://outbound/day/{ITER}.info"]
    assert joined(world, f"s3://outbound/day/{export[1].name}")[0] == [("c", "2", "add")]
    with pytest.raises(UsageError, match="no outbound file"):
        joined(world, "s3://outbound/none/")
    with pytest.raises(Exception, match="NoSuchBucket"):
        joined(world, "s3://nowhere/day/")


def test_an_sftp_server(world: World, export: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> None:
    with sftp_server(tmp_path_factory.mktemp("sftp")) as server:
        for path in (*export, info(world, ITER, *export)):
            (server.folder / path.name).write_bytes(path.read_bytes())
        (server.folder / "readme.txt").write_text("not one of them")
        expected = joined(world, *export)[0]
        there = with_destination(world, server)
        for asked in (
            "outbound",
            f"sftp://127.0.0.1:{server.port}{server.folder}/*.sync.gz",
            f"sftp://outbound{server.folder}",
            f"sftp://somebody@127.0.0.1{server.folder}/{ITER}-*",
        ):
            rows, summary = joined(there, asked)
            assert (rows, summary.files[0]["file"].startswith("sftp://127.0.0.1")) == (expected, True), asked
        with pytest.raises(UsageError, match="no outbound file"):
            joined(there, f"sftp://outbound{server.folder}/none*")
        with pytest.raises(UsageError, match="no destination of kind sftp"):
            joined(there, "sftp://other.example.com/out/*")
        with pytest.raises(DestinationRefused):
            joined(there, "sftp://outbound/no/such/folder/*")


def with_destination(world: World, server: Sftp) -> World:
    destination = f"""
[[destinations]]
name = "outbound"
kind = "sftp"
host = "127.0.0.1"
port = {server.port}
user = "{server.user}"
key_file = "{server.key}"
known_hosts_file = "{server.known_hosts}"
folder = "{server.folder}"
"""
    return World(world.folder, feed=world.feed + destination)


def test_the_command(tmp_path: Path) -> None:
    """On its own clock, so on mappings of now."""
    world = World(tmp_path, now=int(time.time() * 1000))
    world.sync(("a", uuid(1)))
    config = ["--config", str(world.write_config())]
    path = put(world, f"{ITER}.sync", f"{uuid(1)} 1,2", "nonsense")
    command = [sys.executable, "-m", "reconcile", "segments", str(path), "--data-source", "crm", *config]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "customer_id,segment_id,action\na,1,add\na,2,add\n")
    assert f"rejected: {path}, line 2: not-a-uuid" in done.stderr
    rows = tmp_path / "rows.csv"
    shown = CliRunner().invoke(cli, ["segments", str(path), "--data-source", "crm", "-o", str(rows), *config])
    assert (shown.exit_code, json.loads(shown.stdout)["rows"]) == (0, 2)
    assert rows.read_text() == done.stdout
    for arguments, status, told in (
        ([path, "--data-source", "crn"], 2, "crm"),
        ([path, "--data-source", "crm", "-o", tmp_path / "rows.xlsx"], 2, "can't tell the format"),
        ([path, "--data-source", "crm", "--json"], 2, "needs -o"),
        ([path], 2, "--data-source"),
        (["none.sync", "--data-source", "crm"], 2, "there is no such file"),
    ):
        failed = CliRunner().invoke(cli, ["segments", *map(str, arguments), *config])
        assert (failed.exit_code, failed.stdout) == (status, "")
        assert told in failed.stderr
