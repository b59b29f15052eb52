"""A disk that is full from some moment on, of the job's state or of the destination: told, nothing lost, nothing half.

The moments are those of `failpoints`; each comes right before something is written.
"""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from idsync.errors import IdsyncError, StoreUnavailable
from reconcile import failpoints, files, syncfile
from reconcile.errors import DestinationUnavailable, StateUnavailable
from reconcile.failpoints import Point
from reconcile.progress import Meter
from tests.disk import SmallDisk, small_disk
from tests.reconcile.samples import SIGNALS, World, content, uuid

FEED = SIGNALS + "max_rejected = 1.0\ndiagnose = false\n"
CUSTOMERS = 12


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "world" / "var", "4m") as made:
        yield made


@pytest.fixture(autouse=True)
def few_bytes_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SPLIT_RAW_BYTES", 200)


def made(folder: Path, *, changes: bool) -> World:
    """One run back; now there is something to send, to hold and to reject."""
    world = World(folder, FEED, changes={} if changes else None)
    world.sync(*((f"c{number}", uuid(number)) for number in range(CUSTOMERS)))
    world.put("a.csv", [(f"c{number}", "f", "gold", "24") for number in range(CUSTOMERS)])
    world.run()
    world.now += 10_000
    rows = [(f"c{number}", "m", "gold", "26") for number in range(CUSTOMERS)]
    world.put("b.csv", [*rows, ("nobody", "m", "", ""), ("", "m", "", "")])
    return world


def full_from(disk: SmallDisk, point: Point, monkeypatch: pytest.MonkeyPatch) -> list[Point]:
    """The points that were come by."""
    seen: list[Point] = []

    def reached(now: Point) -> None:
        if now is point and point not in seen:
            disk.fill()
        seen.append(now)

    monkeypatch.setattr(failpoints, "reached", reached)
    return seen


def lines_of(world: World) -> Counter[str]:
    return Counter(line for path in world.delivered.glob("*") for line in content(path).splitlines())


MOMENTS = [
    *(Point.RESERVED, Point.FOLDER_MADE, Point.PLANNED, Point.FILE_BEGUN, Point.FILE_CLOSED, Point.FILES_NAMED),
    *(Point.CONTROL_WRITTEN, Point.FROZEN, Point.OFFERED, Point.ALL_THERE, Point.RECORDED, Point.STATE_MOVED),
]


@pytest.mark.parametrize("changes", [False, True], ids=["all", "changes"])
@pytest.mark.parametrize("point", MOMENTS, ids=lambda point: point.name)
def test_the_disk_of_the_state_is_full(
    disk: SmallDisk, tmp_path: Path, point: Point, monkeypatch: pytest.MonkeyPatch, *, changes: bool
) -> None:
    world = made(disk.folder.parent, changes=changes)
    before = lines_of(world)
    seen = full_from(disk, point, monkeypatch)
    problem: IdsyncError | None = None
    try:
        world.run()
    except IdsyncError as error:
        problem = error
    assert point in seen
    if problem:
        assert isinstance(problem, StateUnavailable | StoreUnavailable), problem
        assert problem.exit_status == 75
        assert str(disk.folder) in problem.problem
        assert "free space" in problem.mend
    if Point.OFFERED not in seen:
        assert problem
        assert lines_of(world) == before
    disk.free()
    monkeypatch.setattr(failpoints, "reached", lambda _: None)
    world.now += 10_000
    world.run()
    undisturbed = made(tmp_path / "undisturbed", changes=changes)
    undisturbed.run()
    assert lines_of(world) == lines_of(undisturbed)
    assert world.run().status == "nothing-to-do"
    assert len(world.rejects()) == 1
    assert not list(world.state.rglob("*.part"))


@pytest.mark.parametrize("point", [Point.PLANNED, Point.FILE_BEGUN, Point.CONTROL_WRITTEN, Point.FROZEN])
def test_the_disk_is_full_while_mappings_are_sent(
    disk: SmallDisk, point: Point, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(disk.folder.parent)
    world.sync(*((f"c{number}", uuid(number)) for number in range(CUSTOMERS)))
    seen = full_from(disk, point, monkeypatch)
    with pytest.raises((StateUnavailable, StoreUnavailable), match=str(disk.folder)):
        send_mappings(world)
    assert Point.OFFERED in seen or not world.delivered.exists()
    disk.free()
    monkeypatch.setattr(failpoints, "reached", lambda _: None)
    world.now += 10_000
    send_mappings(world)
    assert lines_of(world) == Counter(f"{uuid(number)}\tc{number}" for number in range(CUSTOMERS))


def send_mappings(world: World) -> None:
    syncfile.sync_file(world.settings, ["crm"], destination="local", meter=Meter(), now=lambda: world.now)


def test_the_disk_is_full_while_the_join_spills(disk: SmallDisk) -> None:
    """And so from DuckDB, which tells it in its own words."""
    feed = FEED.replace("diagnose", "unmatched = 'drop'\ndiagnose", 1)
    world = World(disk.folder.parent, feed + '[reconcile]\nmemory_limit = "64MB"\ndisk_check = false\n')
    chance = random.Random(1)
    rows = ((f"{chance.getrandbits(250):063x}", f"{chance.getrandbits(500):0126x}", "", "") for _ in range(400_000))
    world.put("a.csv", rows)
    world.sync(("c1", uuid(1)))
    with pytest.raises(IdsyncError) as caught:
        world.run()
    assert caught.value.exit_status in {1, 75}
    assert "free" in caught.value.mend
    assert str(disk.folder) in str(caught.value) or "reconcile.state_dir" in caught.value.mend
    assert not world.delivered.exists()
    world.put("a.csv", [("c1", "f", "", "")])
    world.now += 10_000
    assert world.run().status == "delivered"


def test_the_disk_of_the_destination_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path / "world", FEED)
    world.sync(*((f"c{number}", uuid(number)) for number in range(CUSTOMERS)))
    world.put("a.csv", [(f"c{number}", "f", "gold", "24") for number in range(CUSTOMERS)])
    with small_disk(world.delivered, "1m") as disk:
        full_from(disk, Point.OFFERED, monkeypatch)
        with pytest.raises(DestinationUnavailable, match=str(world.delivered)) as caught:
            world.run()
        assert "free space" in caught.value.mend
        assert not list(world.delivered.glob("ftp*"))
        disk.free()
        world.now += 10_000
        assert world.run().settled
        assert sum(lines_of(world).values()) == CUSTOMERS
