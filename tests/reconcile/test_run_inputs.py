"""Whole runs over inputs that lie elsewhere, are laid out otherwise, or are still being written."""

import gzip
import os
import re
import shutil
from pathlib import Path

import pytest

from idsync.errors import ConfigError
from reconcile.errors import InputChanging, InputRefused
from reconcile.inputs import delimited
from tests.reconcile.samples import COUNTS, NOW, World, figures, inputs_in_s3, uuid


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_run_over_objects_in_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another encoding, with another delimiter and other names; rejects name the object, and no copy stays."""
    with inputs_in_s3(monkeypatch, "inbox/in/*") as (client, settings):
        client.put_object(
            Bucket="inbox", Key="in/a.csv", Body="KUNDE;gender\nc1;ü\nnobody;m\nbroken\n".encode("cp1252")
        )
        feed = 'signals = ["gender"]\ncolumns = { id = "KUNDE" }\nencoding = "cp1252"\nmax_rejected = 1.0\n'
        world = World(tmp_path, feed + settings)
        world.sync(("c1", uuid(1)))
        rehearsed = world.run(dry_run=True)
        assert (rehearsed.matched, rehearsed.unmatched, rehearsed.rejected) == (1, 1, 1)
        assert not world.state.exists()
        done = world.run()
        assert (done.status, done.matched, done.unmatched, done.rejected) == ("delivered", 1, 1, 1)
        assert [f"{reject['input']}:{reject['line']}" for reject in world.rejects()] == ["s3://inbox/in/a.csv:4"]
        assert not (world.state / "copies" / "daily").exists()
        assert world.lines() == [f'{uuid(1)}\t"gender"="ü"\n']
        again = world.run()
        assert (again.status, again.known_inputs) == ("nothing-to-do", 1)
        for gender in ("x", "ü"):  # written anew, and once more as it was
            body = f"KUNDE;gender\nc1;{gender}\nnobody;m\nbroken\n".encode("cp1252")
            client.put_object(Bucket="inbox", Key="in/a.csv", Body=body)
            world.now += 60_000
            world.run()
        assert [line.partition("\t")[2] for line in world.lines()] == [f'"gender"="{gender}"\n' for gender in "üxü"]


def test_an_object_may_say_again_what_an_earlier_one_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with inputs_in_s3(monkeypatch, "again/*") as (client, settings):
        world = World(tmp_path, f'trait_columns = ["traits"]\n{settings}', changes={})
        world.sync(("c1", uuid(1)))
        for key, trait in (("1.csv", 24), ("2.csv", 25), ("3.csv", 24), ("4.csv", 24)):
            client.put_object(Bucket="again", Key=key, Body=f"id,traits\nc1,{trait}\n".encode())
            world.now += 60_000
            world.run()
        assert (world.last.status, world.last.known_inputs) == ("nothing-to-do", 4)
        added, *changed = (line.partition("\t")[2] for line in world.lines())
        assert (added, changed) == ("d_sid=24\n", ["d_sid=25,d_unsid=24\n", "d_sid=24,d_unsid=25\n"])


def test_files_that_are_still_being_written_wait(tmp_path: Path) -> None:
    world = World(tmp_path, 'signals = ["gender"]\nsettle_seconds = 60\n')
    path = world.put("a.csv", [("c1", "f", "", "")])
    world.put("b.csv.part", [("c2", "f", "", "")])
    os.utime(path, (NOW / 1000 - 10,) * 2)
    early = world.run()
    assert (early.status, early.unfinished_inputs) == ("nothing-to-do", 2)
    world.now += 60_000
    late = world.run()
    assert (late.read, late.unfinished_inputs) == (1, 1)


@pytest.mark.parametrize("name", ["client [a-c]", "client*", "[client", "client?=7", "[[]client]"])
def test_the_folder_of_the_configuration_is_no_pattern(tmp_path: Path, name: str) -> None:
    beside = World(tmp_path / "client b")  # which each of these could be taken for
    beside.put("a.csv", [("c9", "f", "", "")])
    world = World(tmp_path / name, 'trait_columns = ["traits"]\n', changes={})
    world.sync(("c1", uuid(1)))
    path = world.put("a.csv", [("c1", "", "", "24")])
    assert figures(world.run(), *COUNTS) == (1, 1, 0, 0, 1)
    os.renames(path, world.inbox / "later" / "a.csv")
    world.put("b.csv", [("c1", "", "", "25")])
    world.now += 60_000
    assert figures(world.run(), *COUNTS) == (1, 1, 0, 0, 1)
    assert [line.partition("\t")[2] for line in world.lines()] == ["d_sid=24\n", "d_sid=25,d_unsid=24\n"]
    shutil.rmtree(world.inbox)
    with pytest.raises(ConfigError, match=re.escape(f"the folder {world.inbox} does not exist")):
        world.run()


def test_all_formats_say_the_same(world: World) -> None:
    world.sync(("c1", uuid(1)))
    (world.inbox / "a.csv").write_text("traits,id,other,gender,tier\n24,c1,?,f,gold\n")
    (world.inbox / "b.tsv").write_text("id\tgender\ttier\ttraits\nc1\tf\tgold\t24\n")
    (world.inbox / "c.jsonl").write_text('{"id":"c1","gender":"f","tier":"gold","traits":[24]}\n')
    (world.inbox / "d.csv.gz").write_bytes(gzip.compress(b"id,gender,tier,traits\nc1,f,gold,24"))
    assert figures(world.run(), *COUNTS) == (4, 4, 0, 0, 1)
    assert world.lines() == [f'{uuid(1)}\t"gender"="f","tier"="gold",d_sid=24\n']


def test_inputs_that_cannot_be_used_stop_the_run_and_stay_new(world: World) -> None:
    world.sync(("c1", uuid(1)))
    world.put("a.csv", [("c1", "f", "", "")])
    broken = world.inbox / "b.csv"
    broken.write_text("id,gender\n")
    with pytest.raises(InputRefused, match='no column "tier"'):
        world.run()
    assert not world.delivered.exists()
    assert not list(world.state.glob("runs/*"))
    broken.unlink()
    assert world.run().read == 1


def test_an_input_that_changes_while_it_is_read_stops_the_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.sync(("c1", uuid(1)))
    path = world.put("a.csv", [("c1", "f", "", "")])
    read = delimited.read

    def slow_read(*arguments):  # type: ignore[no-untyped-def]
        yield from read(*arguments)
        with path.open("a") as file:
            file.write("c1,m,,\n")

    monkeypatch.setattr(delimited, "read", slow_read)
    with pytest.raises(InputChanging) as caught:
        world.run()
    assert caught.value.exit_status == 75
    assert not world.delivered.exists()
    monkeypatch.undo()
    assert world.run().read == 2


def test_no_input_is_nothing_to_do_and_no_folder_is_a_fault(world: World) -> None:
    assert world.run().status == "nothing-to-do"
    world.inbox.rmdir()
    with pytest.raises(ConfigError, match="does not exist"):
        world.run()
