"""Outbound exports: their control files, where they lie, where rows go, and the command."""

import csv
import gzip
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner
from pyarrow import parquet

from idsync.errors import UsageError
from reconcile.__main__ import cli
from reconcile.errors import DestinationRefused, InputRefused, InputUnavailable
from reconcile.segments import control
from tests.reconcile.exports import ITER, info, joined, md5, people, put
from tests.reconcile.samples import World, uuid
from tests.s3 import moto_s3
from tests.sftp import Sftp, sftp_server


@pytest.fixture
def world(tmp_path: Path) -> World:
    return people(tmp_path)


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


def test_a_temporary_folder_that_is_called_like_a_column(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = world.folder / "day=1"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    joined(world, put(world, f"{ITER}-1.sync.gz", f"{uuid(1)} 1"), output=world.folder / "rows.parquet")
    with parquet.ParquetFile(world.folder / "rows.parquet") as file:
        assert file.schema_arrow.names == ["customer_id", "segment_id", "action"]


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
