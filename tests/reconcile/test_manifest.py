"""What is written down beside frozen files, and the limits that they keep, through real runs of every kind of feed."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reconcile import files, lines, syncfile
from reconcile.errors import RunRefused
from reconcile.files import FrozenFile, check_limits
from reconcile.manifest import control_files
from reconcile.progress import Meter
from tests.reconcile.samples import NOW_SECONDS, SIGNALS, World, content, uuid

PAIRS = [(f"c{number}", uuid(number)) for number in range(60)]
TINY = 500  # bytes of text a file


@pytest.fixture
def tiny_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SPLIT_RAW_BYTES", TINY)


def run_folder(world: World) -> Path:
    (folder,) = world.state.glob("runs/*")
    return folder


@pytest.mark.usefixtures("tiny_files")
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_the_control_file_says_what_lies_there(tmp_path: Path, compression: str) -> None:
    world = World(tmp_path, SIGNALS + f'compression = "{compression}"\n')
    world.sync(*PAIRS)
    world.put("a.csv", [(name, "f", "gold", "24") for name, _ in PAIRS])
    world.run()
    told = json.loads((run_folder(world) / f"ftp_dpm_12345_{NOW_SECONDS}.info").read_text())
    there = {path.name: path for path in world.delivered.iterdir()}
    assert len(there) > 3
    assert {entry["FileName"] for entry in told["Files"]} == set(there)
    for number, entry in enumerate(told["Files"], start=1):
        path = there[entry["FileName"]]
        assert entry["FileSequenceNumber"] == number == int(path.name.split(".")[2])
        assert entry["FileByteSize"] == path.stat().st_size
        assert entry["FileLineCount"] == content(path).count("\n")
        assert entry["md5"] == hashlib.md5(path.read_bytes()).hexdigest()  # noqa: S324
    assert told["Totals"] == {
        "FileName": f"ftp_dpm_12345_{NOW_SECONDS}.sync",
        "TotalByteSize": sum(path.stat().st_size for path in there.values()),
        "TotalNumberFiles": len(there),
        "TotalNumberLines": len(PAIRS),
    }
    manifest = json.loads((run_folder(world) / "manifest.json").read_text())
    for entry in manifest["files"]:
        data = there[entry["name"]].read_bytes()
        digests = hashlib.sha256(data).hexdigest(), hashlib.md5(data).hexdigest()  # noqa: S324
        assert (entry["bytes"], entry["sha256"], entry["md5"]) == (len(data), *digests)


def test_each_kind_of_id_sync_file_has_its_own(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.sync(*PAIRS)
    syncfile.sync_file(world.settings, ["crm"], destination="local", meter=Meter(), now=lambda: world.now)
    told = json.loads((run_folder(world) / f"adobe_id_0_12345_{NOW_SECONDS}.info").read_text())
    assert told["Totals"]["TotalNumberLines"] == len(PAIRS)


def test_files_of_several_names_are_told_apart() -> None:
    made = [FrozenFile(name, 10, 20, 3, "a", "b") for name in ("adobe_id_0_1_2_17.sync.gz", "adobe_id_0_1_17.sync.gz")]
    assert set(control_files(made)) == {"adobe_id_0_1_2_17.info", "adobe_id_0_1_17.info"}
    assert control_files([]) == {}


# --- limits ----------------------------------------------------------------------------------------------------------


def many_records_of_few(world: World) -> None:
    """Users whose lines are many: each has more than fit one."""
    world.sync(*PAIRS)
    big = "x" * 60_000
    world.put(
        "a.csv",
        [(name, f"{turn}{big}") for turn in range(4) for name, _ in PAIRS[:6]] + [(name, "s") for name, _ in PAIRS],
        header=("id", "big"),
    )


@pytest.mark.parametrize("changes", [None, {}], ids=["all", "changes"])
@pytest.mark.parametrize("user_id", ["uuid", "customer-id"])
@pytest.mark.parametrize("limit", [1, 1000, 150_000])
def test_a_users_lines_stay_in_one_file(
    tmp_path: Path, changes: dict[str, Any] | None, user_id: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Audience Manager promises no order between files, and takes 200 lines of a user."""
    monkeypatch.setattr(files, "SPLIT_RAW_BYTES", limit)
    feed = f'signals = ["big"]\nuser_id = "{user_id}"\ndiagnose = false\n'
    world = World(tmp_path, feed, changes=changes)
    many_records_of_few(world)
    summary = world.run()
    places: dict[str, set[str]] = defaultdict(set)
    count: dict[str, int] = defaultdict(int)
    for path in world.delivered.iterdir():
        for line in content(path).splitlines():
            user = line.partition("\t")[0]
            places[user].add(path.name)
            count[user] += 1
    assert len(places) == len(PAIRS)
    assert max(count.values()) > 1
    assert max(count.values()) <= lines.MAX_LINES_PER_USER
    assert {user: found for user, found in places.items() if len(found) > 1} == {}
    assert len(summary.files) > 1
    assert summary.lines == sum(count.values()) == sum(file["lines"] for file in summary.files)


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        (FrozenFile("a.sync", 10, 10, 0, ""), "is empty"),
        (FrozenFile("a.sync", 0, 0, 0, ""), "is empty"),
        (FrozenFile("a.sync", 5_000_000_001, 5_000_000_001, 1, ""), "has 5,000,000,001 bytes of text"),
        (FrozenFile("a.sync.gpg", 10, 5_000_000_001, 1, ""), "has 5,000,000,001 bytes of text"),
        (FrozenFile("a.sync.gz", 1_000_000_001, 4_000_000_000, 1, ""), "has 1,000,000,001 bytes, more"),
    ],
)
def test_what_would_not_be_taken_is_not_offered(file: FrozenFile, problem: str) -> None:
    with pytest.raises(RunRefused, match=problem):
        check_limits([FrozenFile("fine", 1, 1, 1, ""), file])


def test_what_just_fits_is_taken() -> None:
    check_limits([FrozenFile("a.sync.gz", 1_000_000_000, 5_000_000_000, 1, "")])
    check_limits([FrozenFile("a.sync", 5_000_000_000, 5_000_000_000, 1, "")])


def sync_mappings(world: World) -> object:
    return syncfile.sync_file(world.settings, ["crm"], destination="local", meter=Meter(), now=lambda: world.now)


def test_a_run_beyond_the_limits_ends_before_it_offers_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offers_only_what_fits(tmp_path, monkeypatch, lambda world: world.run())


def test_an_id_sync_file_beyond_the_limits_is_not_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offers_only_what_fits(tmp_path, monkeypatch, sync_mappings)


def offers_only_what_fits(folder: Path, monkeypatch: pytest.MonkeyPatch, send: Callable[[World], object]) -> None:
    world = World(folder)
    world.sync(*PAIRS)
    world.put("a.csv", [("c1", "f", "", "")])
    with monkeypatch.context() as smaller:
        smaller.setattr(files, "MAX_GZIP_BYTES", 10)
        with pytest.raises(RunRefused, match="Audience Manager would not take it"):
            send(world)
    assert not world.delivered.exists()
    world.now += 1000
    send(world)
    assert len(list(world.delivered.iterdir())) == 1
