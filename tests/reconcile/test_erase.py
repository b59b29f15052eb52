"""An erased ID is in no byte of what the job keeps, packed or not; what is out of its hands is named."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from idsync.errors import UsageError
from reconcile import erasure
from reconcile.errors import DestinationRefused, RunRefused
from reconcile.lock import exclusive
from reconcile.progress import Meter
from reconcile.run import run
from reconcile.state import FeedState
from reconcile.strike import strike
from tests.reconcile.samples import DPID, SIGNALS, World, content, uuid
from tests.reconcile.test_optouts import Killed, die

GONE, GONE_UUID = "gone-4711", uuid(4711)
SECOND = (
    '[[feeds]]\nname = "second"\ndata_source = "other"\ninputs = "second/*"\nid_column = "id"\nsignals = ["tier"]\n'
    'destination = "local"\nuser_id = "customer-id"\nmax_rejected = 1\n'
    '[[data_sources]]\nname = "other"\ndpid = 999\n'
)


def named(customer_id: str, dpid: int = DPID) -> dict[str, Any]:
    return {"dpid": dpid, "customer_id": customer_id}


LINES = [named(GONE), {"uuid": GONE_UUID}]


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path, SIGNALS + "max_rejected = 1\n")
    world.sync(("c1", uuid(1)), (GONE, GONE_UUID), (f"{GONE}-2", uuid(2)))
    return world


def sought(*lines: dict[str, Any]) -> erasure.Sought:
    return erasure.parse(json.dumps(line).encode() for line in lines or LINES)


def erase(world: World, *lines: dict[str, Any], patience_seconds: float = 0) -> dict[str, Any]:
    return erasure.erase(world.settings, sought(*lines), patience_seconds).as_dict()


def find(world: World, *lines: dict[str, Any]) -> dict[str, Any]:
    return erasure.find(world.settings, sought(*lines)).as_dict()


def holding(world: World, *texts: str) -> set[str]:
    return {
        str(path.relative_to(world.state))
        for path, data in world.everything()
        for text in texts
        if text.encode() in data.replace(f"{GONE}-2".encode(), b"")
    }


def delivered_and_kept(world: World) -> None:
    """The customer among the files, the rejects and the held records, next to others that look alike."""
    late = [("late", "m", "", ""), (f"{GONE}-2", "m", "", "")]
    world.put("a.csv", [("c1", "f", "", ""), (GONE, "m", "gold", "24"), (GONE, "", "", "x"), (GONE, "m"), *late])
    world.run()
    world.put("b.csv", [("c1", "g", "", "")])
    world.run()


def test_what_was_delivered_to_a_folder_is_removed_here_and_there(world: World) -> None:
    delivered_and_kept(world)
    (there,) = [path for path in world.delivered.iterdir() if GONE_UUID in content(path)]
    there.chmod(0o640)
    before = content(there).splitlines()
    (here,) = world.state.glob(f"runs/*/files/{there.name}")
    (rejects,) = world.state.glob("runs/*/rejects.csv.gz")
    seen = find(world)
    assert holding(world, GONE, GONE_UUID) == {str(path.relative_to(world.state)) for path in (here, rejects)}
    account = erase(world)
    assert account == seen
    assert account["frozen"] == {"lines": 1, "files": [str(here)]}
    assert account["directories"] == {"lines": 1, "files": [str(there)]}
    assert account["delivered"] == {"lines": 0, "files": []}
    assert account["rejects"] == {"records": 2, "files": [str(rejects)]}
    assert holding(world, GONE, GONE_UUID) == set()
    assert not rejects.exists()  # there were no others in it
    assert len(list(world.state.glob("runs/*/files/*"))) == 1
    again = erase(world)
    assert again["frozen"] == again["directories"] == {"lines": 0, "files": []}
    assert content(there).splitlines() == [line for line in before if GONE_UUID not in line]
    assert there.stat().st_mode & 0o777 == 0o640
    assert erase(world, {"uuid": uuid(1)}, {"uuid": uuid(2)})["directories"]["lines"] == 3
    assert list(world.delivered.iterdir()) == []  # an empty file is none


def test_what_was_delivered_elsewhere_is_named(world: World) -> None:
    """As is a file in a folder that we may not write to."""
    delivered_and_kept(world)
    (there,) = [path for path in world.delivered.iterdir() if GONE_UUID in content(path)]
    data = there.read_bytes()
    there.with_name(f".{there.name}.part").mkdir()  # no file can be written beside it
    for _ in range(2):
        account = erase(world)
        assert account["delivered"] == {"lines": 1, "files": [str(there)]}
        assert account["directories"]["lines"] == 0
    assert there.read_bytes() == data


@pytest.mark.parametrize("name", ["a.sync", "a.sync.gz"])
def test_lines_are_told_by_whole_ids_in_the_columns_of_ids(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    pack: Callable[[bytes], bytes] = gzip.compress if name.endswith(".gz") else bytes
    lines = [b"gone\tother\tx\n", b"gone-2\tgone2\tgone\n", b"other\tgone\ta\n", b"o\to\to\n" * 30_000, b"last\tgone"]
    path.write_bytes(pack(b"".join(lines)))
    assert strike(path, {b"gone", b"nobody"}, 2) == 3
    unpack: Callable[[bytes], bytes] = gzip.decompress if name.endswith(".gz") else bytes
    assert unpack(path.read_bytes()) == b"".join([lines[1], lines[3]])
    assert strike(path, {b"gone", b"nobody"}, 2) == 0
    assert strike(path, {b"gone-2", b"o"}, 1) == 30_001
    assert list(tmp_path.iterdir()) == []


def test_held_records_go_and_others_stay(world: World) -> None:
    world.put("a.csv", [("held-1", "f", "", ""), (GONE, "f", "", ""), ("held-10", "f", "", "")])
    world.run()
    assert find(world, named("held-1"))["held"]["records"] == 1
    account = erase(world, named("held-1"))
    assert account["held"] == {"records": 1, "files": [str(world.state / "held" / "daily.parquet")]}
    assert [path for path, data in world.everything() if b"held-1'" in data] == []
    world.sync(("held-10", uuid(10)), ("held-1", uuid(11)))
    assert world.run().matched == 1
    erase(world, named("held-10"))
    assert world.lines()[-1].startswith(uuid(10))


def test_the_last_held_record_takes_the_file_with_it(world: World) -> None:
    world.put("a.csv", [("held-1", "f", "", "")])
    world.run()
    erase(world, named("held-1"))
    assert not (world.state / "held" / "daily.parquet").exists()
    assert world.run().held == 0


def test_an_id_of_another_data_source_is_another_id(world: World) -> None:
    world.feed += SECOND
    (world.folder / "second").mkdir()
    (world.folder / "second" / "a.csv").write_text(f"id,tier\n{GONE},gold\nc1,\n")
    world.sync((GONE, uuid(5)), dpid=999)
    run_second(world)
    world.put("a.csv", [(GONE, "f", "", "")])
    world.run()
    account = erase(world, named(GONE))
    assert account["frozen"]["lines"] == 0  # the file of this data source has UUIDs
    account = erase(world, named(GONE, 999))
    assert account["frozen"]["lines"] == account["directories"]["lines"] == 1
    account = erase(world, {"uuid": GONE_UUID})
    assert account["frozen"]["lines"] == 1
    assert holding(world, GONE, GONE_UUID) == set()


def run_second(world: World) -> None:
    assert run(world.settings, "second", dry_run=False, meter=Meter(), now=lambda: world.now).status == "delivered"


def test_what_is_left_of_a_feed_that_is_no_more_is_searched_too(world: World) -> None:
    delivered_and_kept(world)
    world.put("c.csv", [("waits", "f", "", "")])
    world.run()
    for path in [world.state / "held" / "daily.parquet", *world.state.glob("runs/*-daily")]:
        path.rename(path.with_name(path.name.replace("daily", "former")))
    account = erase(world, *LINES, named("waits", 1))
    assert (account["held"]["records"], account["frozen"]["lines"], account["rejects"]["records"]) == (1, 1, 2)
    assert holding(world, GONE, GONE_UUID, "waits") == set()


def test_a_frozen_run_that_was_not_offered_is_withdrawn(world: World) -> None:
    world.put("a.csv", [("c1", "f", "", ""), (GONE, "f", "", ""), ("late", "f", "", "")])
    world.delivered.write_text("a file where the folder should be")
    with pytest.raises(DestinationRefused):
        world.run()
    (folder,) = world.state.glob("runs/*")
    assert find(world)["withdrawn"] == [folder.name]
    assert folder.exists()
    assert erase(world)["withdrawn"] == [folder.name]
    assert holding(world, GONE, GONE_UUID) == set()
    world.delivered.unlink()
    (world.inbox / "a.csv").unlink()
    world.put("a.csv", [("c1", "f", "", ""), ("late", "f", "", "")])
    assert world.run().read == 2


def test_frozen_files_that_may_have_been_offered_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put("a.csv", [("early", "f", "", "")])
    world.run()
    world.sync(("early", uuid(3)))
    world.put("b.csv", [(GONE, "f", "", ""), ("c1", "f", "", ""), ("late-1", "f", "", ""), ("late-1:", "f", "", "")])
    with monkeypatch.context() as patch:
        patch.setattr("reconcile.delivery.directory.DirectoryDelivery.deliver", die)
        with pytest.raises(Killed):
            world.run()
    (path,) = world.state.glob("runs/*/files/*")
    data = path.read_bytes()
    account = erase(world, *LINES, named("late-1"), named("late-1:"))
    assert account["waiting"] == {"lines": 1, "files": [str(path)]}
    assert (account["held"]["records"], account["rejects"]["records"]) == (1, 1)
    assert holding(world, "late-1") == set()
    summary = world.run()
    assert (len(summary.settled), summary.status) == (1, "nothing-to-do")
    assert [path.read_bytes() for path in world.delivered.iterdir()] == [data]
    assert not (world.state / "held" / "daily.parquet").exists()
    assert erase(world)["frozen"]["lines"] == 1
    assert holding(world, GONE, GONE_UUID) == set()


def test_what_killed_processes_left_goes_without_a_look(world: World) -> None:
    delivered_and_kept(world)
    (world.state / "held").mkdir(exist_ok=True)
    (world.state / "held" / ".daily.parquet.part").write_text(GONE)
    folder = world.state / "runs" / "1700000000-daily"
    (folder / "files").mkdir(parents=True)
    (folder / "files" / ".part.1").write_text(GONE)
    (world.state / "runs" / ".removed-1700000001-daily").mkdir()
    (world.state / "runs" / ".removed-1700000001-daily" / "rejects").write_text(GONE)
    other = world.state / "runs" / ".removed-1700000001-other-daily"
    other.mkdir()
    with exclusive(FeedState(world.state, "other-daily").lock, "other-daily"):
        account = erase(world)
    assert (account["leftovers"], account["busy"]) == (3, ["other-daily"])
    assert holding(world, GONE, GONE_UUID) == set()
    assert other.exists()
    assert erase(world)["leftovers"] == 1
    assert not other.exists()


@pytest.mark.parametrize("when", ["scratch", "files"])
def test_a_refused_run_leaves_neither_files_nor_scratch(
    world: World, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before its files were begun, or after."""
    world.feed = world.feed.replace("max_rejected = 1", "max_rejected = 0.1")
    rows = [(GONE, "f", "", ""), ("", "f", "", "")] if when == "scratch" else [(GONE, "f", "", "")]
    if when == "files":
        monkeypatch.setattr("reconcile.join.settle_counts", lambda outcome, _: outcome.unmatched)
    world.put("a.csv", rows)
    with pytest.raises(RunRefused):
        world.run()
    assert holding(world, GONE, GONE_UUID) == set()


def test_raw_values_among_the_rejects_go_as_well(world: World) -> None:
    raw = ["b@example.com", "two\nlines", 'with "quotes", and commas', "  ", "x" * 200_000]
    world.put("a.csv", [(text, "f", "", "") for text in [*raw, "bb@example.com"]])
    world.run()
    (path,) = world.state.glob("runs/*/rejects.csv.gz")
    account = erase(world, *map(named, raw))
    assert account["rejects"] == {"records": 4, "files": [str(path)]}  # one of them is a good ID, if nobody's
    assert [row["customer_id"] for row in world.rejects()] == ["bb@example.com"]
    assert holding(world, *raw[1:3]) == set()


def test_a_feed_at_work_is_passed_over_and_told(world: World) -> None:
    delivered_and_kept(world)
    with exclusive(FeedState(world.state, "daily").lock, "daily"):
        account = erase(world)
        assert (account["busy"], account["frozen"]["lines"]) == (["daily"], 0)
        assert find(world)["frozen"]["lines"] == 1
    assert erase(world)["busy"] == []


def test_finding_changes_nothing(world: World) -> None:
    delivered_and_kept(world)
    before = world.traces()
    find(world)
    assert world.traces() == before


def test_no_state_at_all(world: World) -> None:
    assert find(world)["held"] == {"records": 0, "files": []}
    assert erase(world)["delivered"] == {"lines": 0, "files": []}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "x",
        "[]",
        '{"uuid": "12"}',
        '{"uuid": 12}',
        '{"dpid": "12345", "customer_id": "secret"}',
        '{"dpid": 12345, "customer_id": "secret", "more": 1}',
        '{"dpid": 12345}',
    ],
)
def test_a_wrong_line_is_told_by_its_number_alone(line: str) -> None:
    with pytest.raises(UsageError) as caught:
        erasure.parse([b'{"dpid": 12345, "customer_id": "x"}', line.encode()])
    assert "line 2" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_command(world: World) -> None:
    delivered_and_kept(world)
    config = world.write_config()

    def call(*arguments: str, text: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "reconcile", "erase", "--config", str(config), *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)

    text = "\n".join(map(json.dumps, LINES)) + "\n"
    looked = call("--find", text=text)
    assert (looked.returncode, looked.stderr) == (0, "")
    done = call(text=text)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == json.loads(looked.stdout)
    assert json.loads(done.stdout)["frozen"]["lines"] == 1
    assert GONE not in done.stdout + done.stderr
    assert holding(world, GONE, GONE_UUID) == set()
    assert call(text="{}\n").returncode == 2
    with exclusive(FeedState(world.state, "daily").lock, "daily"):
        busy = call("--wait", "0", text=text)
    assert busy.returncode == 75
    assert json.loads(busy.stdout)["busy"] == ["daily"]
    assert "daily" in busy.stderr
