"""What the job keeps, cut off or broken: the file is named, with what can be done, and nothing is made of it."""

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from reconcile import erasure, redeliver, retention, syncfile, tables
from reconcile.errors import DestinationRefused, RunHeldBack, StateDamaged
from reconcile.ledger import Ledger
from reconcile.progress import Meter
from tests.reconcile.samples import SIGNALS, World, uuid
from tests.reconcile.test_erase import named, sought
from tests.reconcile.test_optouts import Killed, die

DAY = 86_400_000
REMOVED_HELD = "or remove it: the records in it are lost then"
REMOVED_SENT = "or remove it: all is sent again then"


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def broken(path: Path) -> None:
    """Its end is whole, its pages are not."""
    data = bytearray(path.read_bytes())
    data[4:24] = bytes(20)
    path.write_bytes(data)
    assert parquet.read_metadata(path).num_rows


DAMAGES = [empty, cut, broken]
Damage = Callable[[Path], None]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A feed that holds a record and knows what it has sent, and an input that is new."""
    world = World(tmp_path, SIGNALS + "max_rejected = 1\n", changes={})
    world.sync(("c1", uuid(1)), ("c2", uuid(2)), seen=world.now + 300 * DAY)
    world.put("a.csv", [("c1", "f", "", "24"), ("c2", "m", "", ""), ("late", "m", "", ""), ("", "m", "", "")])
    world.run()
    world.put("b.csv", [("c1", "f", "", "26")])
    world.now += 1000
    return world


def kept(world: World, kind: str) -> Path:
    return world.state / kind / "daily.parquet"


def undelivered(world: World) -> Path:
    """The folder of a run that is frozen, and of which nothing was offered. No file lies at the destination."""
    shutil.rmtree(world.delivered)
    world.delivered.write_text("a file where the folder should be")
    with pytest.raises(DestinationRefused):
        world.run()
    world.delivered.unlink()
    return last(world)


def last(world: World) -> Path:
    return max(world.state.glob("runs/*"))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("kind", "mend"), [("held", REMOVED_HELD), ("sent", REMOVED_SENT)])
def test_a_run_names_the_table_of_the_feed_and_so_does_a_dry_run(
    world: World, kind: str, mend: str, damage: Damage
) -> None:
    damage(kept(world, kind))
    before = set(world.state.glob("*/*"))
    for dry_run in (True, False):
        with pytest.raises(StateDamaged) as caught:
            world.run(dry_run=dry_run)
        assert caught.value.exit_status == 1
        assert caught.value.problem == f"{kept(world, kind)}: damaged, or cut off"
        assert caught.value.mend.startswith("restore the file from a backup; ")
        assert mend in caught.value.mend
        assert set(world.state.glob("*/*")) == before
    kept(world, kind).unlink()
    assert world.run().read == (2 if kind == "sent" else 1)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_was_sent_of_ids_is_named_by_the_run_that_waits_for_it(world: World, damage: Damage) -> None:
    world.feed = "after_sync_file = true\n" + world.feed
    now: Callable[[], int] = lambda: world.now  # noqa: E731
    syncfile.sync_file(world.settings, ["crm"], destination="local", meter=Meter(), now=now)
    world.now += 1000
    (told,) = world.state.glob("sent/id-sync*")
    damage(told)
    with pytest.raises(StateDamaged) as caught:
        world.run()
    assert (caught.value.problem, REMOVED_SENT in caught.value.mend) == (f"{told}: damaged, or cut off", True)
    with pytest.raises(StateDamaged):
        syncfile.sync_file(world.settings, ["crm"], destination="local", meter=Meter(), now=now)
    told.unlink()
    syncfile.sync_file(world.settings, ["crm"], destination="local", meter=Meter(), now=now)
    assert len(world.run().settled) == 1


def test_no_other_fault_is_taken_for_damage(tmp_path: Path) -> None:
    path = tmp_path / "held" / "daily.parquet"
    path.parent.mkdir()
    parquet.write_table(pa.table({"id": ["c1"]}), path)
    with pytest.raises(KeyError), tables.telling_damage(path, tmp_path / "none"):
        raise KeyError
    empty(path)
    with pytest.raises(RunHeldBack), tables.telling_damage(path):
        raise RunHeldBack("says what it is")
    with pytest.raises(StateDamaged), tables.telling_damage(path):
        raise KeyError
    with pytest.raises(StateDamaged):
        tables.rows(path)
    for error in (PermissionError(13, "Permission denied"), pa.ArrowMemoryError()):
        with pytest.raises(type(error)), tables.reading(path):
            raise error


def test_what_was_sent_goes_unread_where_it_is_not_asked_for(world: World) -> None:
    world.changes = None
    empty(kept(world, "sent"))
    assert world.run().status == "delivered"
    assert not kept(world, "sent").exists()


# --- what removes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_keeps_nobody_from_erasing_elsewhere(world: World, damage: Damage) -> None:
    (rejected,) = world.state.glob("runs/*/rejects.csv.gz")
    rejected.write_bytes(rejected.read_bytes()[:-9])
    damage(kept(world, "held"))
    found = erasure.find(world.settings, sought(named("c1"))).as_dict()
    account = erasure.erase(world.settings, sought(named("c1")), 0).as_dict()
    assert account == found
    assert account["unreadable"] == [str(kept(world, "held")), str(rejected)]
    assert account["sent"]["users"] == 1
    assert parquet.read_table(kept(world, "sent")).column("customer_id").to_pylist() == ["c2"]
    damage(kept(world, "sent"))
    account = erasure.erase(world.settings, sought(named("c2"), {"uuid": uuid(2)}), 0).as_dict()
    assert account["unreadable"] == [str(path) for path in (kept(world, "held"), kept(world, "sent"), rejected)]
    assert account["frozen"]["lines"] == 1


def test_the_commands_go_on_and_name_the_file(world: World) -> None:
    config = world.write_config()
    empty(kept(world, "sent"))

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", *arguments, "--config", str(config)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    for command in ("lookup", "erase"):
        done = call("idsync", command, "crm", "c1")
        assert (done.returncode, json.loads(done.stdout)["job"]["unreadable"]) == (0, [str(kept(world, "sent"))])
    swept = call("reconcile", "sweep")
    assert (swept.returncode, "Traceback" in swept.stderr) == (1, False)
    assert f"{kept(world, 'sent')}: damaged, or cut off" in swept.stderr


@pytest.mark.parametrize("damage", [empty, cut])
def test_a_sweep_purges_the_other_feeds_first(world: World, damage: Damage) -> None:
    other = kept(world, "held").with_name("zz.parquet")
    shutil.copy(kept(world, "held"), other)
    damage(kept(world, "held"))
    with pytest.raises(StateDamaged, match=str(kept(world, "held"))):
        retention.sweep(world.settings, world.now + 400 * DAY)
    assert not other.exists()
    assert kept(world, "held").exists()


# --- runs that are not delivered yet ---------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b'{"feed": "daily', b"[]", b"\xff"])
def test_a_manifest_is_named_and_the_run_can_be_given_up(world: World, content: bytes) -> None:
    folder = undelivered(world)
    whole = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(content)
    for _ in range(2):
        with pytest.raises(StateDamaged) as caught:
            world.run()
        assert caught.value.problem == f"{folder / 'manifest.json'}: damaged, or cut off"
        assert caught.value.mend == (
            f"restore the file from a backup; or give the run up, and remove the folder {folder}: what it has read is "
            "new again then"
        )
    assert not world.delivered.exists()
    (folder / "manifest.json").write_bytes(whole)
    assert world.run().settled == [folder.name]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["held.parquet", "sent.parquet"])
def test_a_table_of_a_run_is_named_before_anything_is_offered(world: World, name: str, damage: Damage) -> None:
    folder = undelivered(world)
    whole = kept(world, name.partition(".")[0]).read_bytes()
    damage(folder / name)
    for _ in range(2):
        with pytest.raises(StateDamaged, match="what it has read is new again then") as caught:
            world.run()
        assert caught.value.problem == f"{folder / name}: damaged, or cut off"
    assert not world.delivered.exists()
    assert kept(world, name.partition(".")[0]).read_bytes() == whole
    shutil.rmtree(folder)  # as the message says
    summary = world.run()
    assert (summary.status, [Path(file["path"]).name for file in summary.inputs]) == ("delivered", ["b.csv"])
    assert world.lines() == [f'{uuid(1)}\t"gender"="f",d_sid=26,d_unsid=24\n']


def test_a_frozen_file_that_is_gone_is_no_matter_of_rights(world: World) -> None:
    folder = undelivered(world)
    (frozen,) = (folder / "files").iterdir()
    data = frozen.read_bytes()
    frozen.unlink()
    with pytest.raises(StateDamaged) as caught:
        world.run()
    assert caught.value.problem == f"{frozen}: no such file, but it was frozen"
    assert "and what has arrived of its files arrives once more, under other names" in caught.value.mend
    frozen.write_bytes(data)
    assert world.run().settled == [folder.name]


def test_what_was_offered_and_given_up_may_arrive_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(world.lines())
    with monkeypatch.context() as patch:
        patch.setattr("reconcile.shipment.Ledger.close", die)
        with pytest.raises(Killed):
            world.run()
    empty(last(world) / "manifest.json")
    with pytest.raises(StateDamaged, match="new again then, and what has arrived of its files arrives once more"):
        world.run()
    shutil.rmtree(last(world))
    world.run()
    assert len(world.lines()) == before + 2


def test_what_is_recorded_is_not_new_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(world.lines())
    with monkeypatch.context() as patch:
        patch.setattr("reconcile.shipment.Shipment._take_over", die)
        with pytest.raises(Killed):
            world.run()
    folder = last(world)
    empty(folder / "held.parquet")
    with pytest.raises(StateDamaged, match="it is delivered, but the records that it was to hold are lost then"):
        world.run()
    shutil.rmtree(folder)
    assert world.run().lines == 0
    assert len(world.lines()) == before + 1
    assert Ledger(world.state / "ledger.db").runs([folder.name])[0]["state"] == "delivered"


def test_a_run_on_hold_and_one_that_is_delivered(world: World) -> None:
    delivered = last(world)
    empty(delivered / "manifest.json")
    with pytest.raises(StateDamaged) as caught:
        redeliver.redeliver(world.settings, delivered.name, meter=Meter(), now=lambda: world.now)
    assert caught.value.mend == "restore the file from a backup"
    held = world.run(hold=True).run
    empty(world.state / "runs" / held / "sent.parquet")
    with pytest.raises(StateDamaged, match="new again then, and on hold only by run --hold"):
        redeliver.release(world.settings, held, meter=Meter(), now=lambda: world.now)


def test_a_damaged_run_may_still_be_withdrawn(world: World) -> None:
    """Of what was never offered nothing is needed but that it goes."""
    folder = undelivered(world)
    empty(folder / "manifest.json")
    world.opt_out("c2")
    summary = world.run()
    assert summary.withdrawn == [folder.name]
    assert len(summary.inputs) == 1


def test_records_of_a_damaged_table_can_come_in_again(world: World) -> None:
    """In another file: one of the same content is known."""
    kept(world, "held").unlink()
    world.sync(("late", uuid(3)))
    (world.inbox / "b.csv").unlink()
    shutil.copy(world.inbox / "a.csv", world.inbox / "again.csv")
    world.changes = None
    assert world.run().status == "nothing-to-do"
    with gzip.open(world.inbox / "more.csv.gz", "wt") as file:
        file.write("id,gender,tier,traits\nlate,m,,\n")
    assert world.run().matched == 1
