"""A disk that is full from some write on, of the job's state or of the destination: told, nothing lost, nothing half.

Each case is a process of its own, and another one, with the disk free again, that finishes its work.
"""

import random
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.crash.deaths import Life, live
from tests.crash.test_deaths import LATER, SCENES, Scene, account, lines_of, manifested, world_of
from tests.disk import FullDisk, judged, on_it
from tests.reconcile.samples import SIGNALS, World, uuid

PROCESSES = 2


def filled(disk: FullDisk, work: Callable[[World], object], world: World) -> Life:
    with judged(disk) as teller:
        return live(on_it, teller, work, world)


def see_told(life: Life, folder: Path, *kinds: str) -> None:
    """What a user reads at last: which disk it is, and what to do."""
    kind, _, text = life.failure.rpartition("Unavailable: ")
    assert kind.endswith(kinds), life.failure
    assert str(folder) in text
    assert "free space" in text


def begun(folder: Path, scene: Scene) -> Path:
    world = World(folder, SIGNALS + "diagnose = false\n", changes={} if scene.changes else None)
    scene.prepare(world)
    return folder


def undisturbed(before: Path, scene: Scene, folder: str) -> tuple[Counter[str], int]:
    """The lines that are delivered, and how many writes there are below a folder of the world."""
    world = world_of(Path(shutil.copytree(before, before.with_name("undisturbed"))), scene)
    disk = FullDisk(world.folder / folder)
    assert not filled(disk, scene.work, world).failure
    return lines_of(world), disk.seen


# Each writes much as a feed's run does: of the others some writes are enough.
@pytest.mark.parametrize(("name", "step"), [("feed", 1), ("changes", 4), ("sync-file", 3)])
def test_the_disk_of_the_state_is_full_from_a_write_on(name: str, step: int, tmp_path: Path) -> None:
    scene = SCENES[name]
    before = begun(tmp_path / "before", scene)
    lines, count = undisturbed(before, scene, "var")
    assert count > 50

    def fill_and_go_on(writes: int) -> None:
        world = world_of(Path(shutil.copytree(before, tmp_path / str(writes))), scene)
        earlier, offered = lines_of(world), len(list(world.state.glob("runs/*/OFFERED")))
        life = filled(FullDisk(world.state, writes), scene.work, world)
        if life.failure:  # some do without: the last ones tidy up
            see_told(life, world.state, "\nreconcile.errors.State", "\nidsync.errors.Store")
        if len(list(world.state.glob("runs/*/OFFERED"))) == offered:
            assert lines_of(world) == earlier
        frozen = {path.name: path.read_bytes() for path in manifested(world)}
        finish(world, scene, lines, frozen)

    with ThreadPoolExecutor(PROCESSES) as pool:
        list(pool.map(fill_and_go_on, range(0, count, step)))


def test_the_disk_of_the_destination_is_full_from_a_write_on(tmp_path: Path) -> None:
    scene = SCENES["feed"]
    before = begun(tmp_path / "before", scene)
    lines, count = undisturbed(before, scene, "delivered")
    assert count > 1
    for writes in range(count):
        world = world_of(Path(shutil.copytree(before, tmp_path / str(writes))), scene)
        life = filled(FullDisk(world.delivered, writes), scene.work, world)
        see_told(life, world.delivered, "\nreconcile.errors.Destination")
        assert not list(world.delivered.glob(".*"))
        frozen = {path.name: path.read_bytes() for path in manifested(world)}
        assert len(lines_of(world)) < len(lines)
        finish(world, scene, lines, frozen)


def finish(world: World, scene: Scene, lines: Counter[str], frozen: dict[str, bytes]) -> None:
    """With the disk free again."""
    world.now += LATER
    again = live(scene.work, world)
    assert not again.failure, again.failure
    assert lines_of(world) == lines
    account(world, frozen)


def test_the_disk_is_full_while_the_join_spills(tmp_path: Path) -> None:
    """And so from DuckDB, which tells it in its own words."""
    feed = SIGNALS + "diagnose = false\nunmatched = 'drop'\n"
    world = World(tmp_path, feed + '[reconcile]\nmemory_limit = "64MB"\ndisk_check = false\n')
    chance = random.Random(1)
    rows = ((f"{chance.getrandbits(250):063x}", f"{chance.getrandbits(500):0126x}", "", "") for _ in range(400_000))
    world.put("a.csv", rows)
    world.sync(("c1", uuid(1)))
    disk = Spills(world.state, writes=5)
    life = filled(disk, World.run, world)
    assert disk.seen > 5
    see_told(life, world.state, "\nreconcile.errors.State")
    assert not world.delivered.exists()
    assert not any(world.state.glob("runs/*"))
    world.put("a.csv", [("c1", "f", "", "")])
    world.now += LATER
    assert world.run().status == "delivered"


class Spills(FullDisk):
    """Full for the scratch folders of joins alone."""

    def takes(self, path: str) -> bool:
        return "/scratch/" not in path or super().takes(path)
