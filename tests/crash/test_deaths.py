"""kill -9 at every place where a run or an ID-sync job may die: what is started next delivers every file, once.

Each case is a real process on a real store and real folders. Whether a name went out with other bytes is seen by a
destination that notes all that it is given.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from idsync.settings import Settings
from reconcile import redeliver, syncfile
from reconcile.delivery.directory import DirectoryDelivery
from reconcile.errors import RunHeldBack
from reconcile.failpoints import Point
from reconcile.files import FrozenFile
from reconcile.ledger import Ledger
from reconcile.progress import Meter
from reconcile.state import FeedState
from tests.crash.deaths import Life, live
from tests.reconcile.samples import NOW, SIGNALS, World, content, uuid

CUSTOMERS = 12
LATER = 10_000


# --- what is done, in processes of their own -------------------------------------------------------------------------


def noting(folder: Path) -> None:
    """Let the destination note what it was offered, before anything else."""
    deliver = DirectoryDelivery.deliver

    def noted(self: DirectoryDelivery, path: Path, file: FrozenFile, planned_at: int) -> str:
        with (folder / "offered").open("a") as notes:
            notes.write(f"{file.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n")
        return deliver(self, path, file, planned_at)

    DirectoryDelivery.deliver = noted  # type: ignore[method-assign]


def run_feed(world: World) -> None:
    noting(world.folder)
    world.run()


def run_on_hold(world: World) -> None:
    """Freeze, and release, each as far as it has not been done."""
    noting(world.folder)
    with suppress(RunHeldBack):
        world.run(hold=True)
    for folder in FeedState(world.state, "daily").runs():
        if folder.is_on_hold and folder.is_frozen:
            redeliver.release(world.settings, folder.name, meter=Meter(), now=lambda: world.now)


def send_mappings(world: World) -> None:
    noting(world.folder)
    settings: Settings = world.settings
    syncfile.sync_file(settings, ["crm"], destination="local", meter=Meter(), now=lambda: world.now)


# --- the scenes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """`prepare` makes the world up to the moment when `work` begins. `only`: elsewhere it is as another one."""

    work: Callable[[World], None]
    prepare: Callable[[World], None]
    changes: bool = False
    only: frozenset[Point] = frozenset(Point)


def records(world: World) -> None:
    world.sync(*((f"c{number}", uuid(number)) for number in range(CUSTOMERS)))
    world.put("a.csv", [(f"c{number}", "f", "gold", "24") for number in range(CUSTOMERS)] + [("nobody", "m", "", "")])


def changed_records(world: World) -> None:
    records(world)
    world.run()
    world.now += LATER
    world.put("b.csv", [(f"c{number}", "m", "gold", "26") for number in range(CUSTOMERS)] + [("late", "m", "", "")])


def opted_out(world: World) -> None:
    """A run was frozen and not offered, and then somebody opted out."""
    records(world)
    world.run(hold=True)
    (folder,) = FeedState(world.state, "daily").runs()
    folder.release()
    world.opt_out("c3")
    world.now += LATER


def nothing_new(world: World) -> None:
    """The ID-sync file is there, and a mapping was lost since."""
    world.sync(*((f"c{number}", uuid(number)) for number in range(CUSTOMERS)))
    send_mappings(world)
    world.opt_out("c3")
    world.now += LATER


SCENES = {
    "feed": Scene(run_feed, records),
    "changes": Scene(run_feed, changed_records, changes=True),
    "sync-file": Scene(send_mappings, records),
    "on hold": Scene(
        run_on_hold, records, only=frozenset({Point.FOLDER_MADE, Point.PLANNED, Point.FROZEN, Point.RELEASED})
    ),
    "withdrawn": Scene(run_feed, opted_out, only=frozenset({Point.WITHDRAWN, Point.SET_ASIDE})),
    "no sync-file": Scene(send_mappings, nothing_new, only=frozenset({Point.SENT_KEPT, Point.SET_ASIDE})),
}


def world_of(folder: Path, scene: Scene) -> World:
    feed = SIGNALS + "diagnose = false\n"
    return World(folder, feed, now=NOW + LATER, changes={} if scene.changes else None)


def lines_of(world: World) -> Counter[str]:
    return Counter(line for path in world.delivered.glob("[!.]*") for line in content(path).splitlines())


@dataclass(frozen=True)
class Expected:
    """What an undisturbed process does: the lines at the destination, and the points that it comes by. `folder`: the
    world as it was before."""

    folder: Path
    lines: Counter[str]
    life: Life


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Expected]:
    found = {}
    for name, scene in SCENES.items():
        before = tmp_path_factory.mktemp("before")
        world = World(before, SIGNALS + "diagnose = false\n", changes={} if scene.changes else None)
        scene.prepare(world)
        shutil.copytree(before, after := tmp_path_factory.mktemp("after") / "world")
        world = world_of(after, scene)
        life = live(scene.work, world)
        assert not life.failure, life.failure
        found[name] = Expected(before, lines_of(world), life)
    return found


@pytest.mark.parametrize("point", Point, ids=lambda point: point.name)
def test_whoever_dies_is_finished_by_the_next(point: Point, expected: dict[str, Expected], tmp_path: Path) -> None:
    concerned = [name for name in SCENES if point in SCENES[name].only and expected[name].life.reached[point]]
    assert concerned, f"no scene comes by {point.name}"
    with ThreadPoolExecutor(len(concerned)) as pool:
        played = [
            pool.submit(die_and_go_on, tmp_path / name, SCENES[name], point, expected[name]) for name in concerned
        ]
        for one in played:
            one.result()


def die_and_go_on(folder: Path, scene: Scene, point: Point, expected: Expected) -> None:
    shutil.copytree(expected.folder, folder)
    world = world_of(folder, scene)
    died = live(scene.work, world, until=(point, 1))
    assert died.killed, died
    frozen = {path.name: path.read_bytes() for path in manifested(world)}
    world.now += LATER
    again = live(scene.work, world)
    assert not again.failure, again.failure
    assert lines_of(world) == expected.lines
    account(world, frozen)


def manifested(world: World) -> list[Path]:
    """The files of runs whose manifest is complete."""
    return [path for made in world.state.glob("runs/*-*/manifest.json") for path in made.parent.glob("files/[!.]*")]


def account(world: World, frozen: dict[str, bytes]) -> None:
    """Each name was offered with one byte sequence only; what was frozen is there as it was, or never was offered; the
    ledger knows every file, and of nothing else; no run is left half done."""
    notes = world.folder / "offered"
    noted = [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []
    offered: dict[str, set[str]] = {}
    for file, digest in noted:
        offered.setdefault(file, set()).add(digest)
    delivered = {path.name: path.read_bytes() for path in world.delivered.iterdir()}
    assert all(len(digests) == 1 for digests in offered.values())
    assert set(offered) <= set(delivered)
    for file, data in frozen.items():
        assert delivered.get(file, data) == data
    ledger = Ledger(world.state / "ledger.db")
    assert {entry.name for entry in ledger.deliveries()} == set(delivered)
    rows: list[dict[str, Any]] = ledger.history()
    assert {row["state"] for row in rows} <= {"delivered", "failed", "withdrawn"}
    told = {file["name"]: file for row in rows if row["state"] == "delivered" for file in row["files"]}
    for file, data in delivered.items():
        entry = told[file]
        assert (entry["bytes"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert entry["md5"] == hashlib.md5(data).hexdigest()  # noqa: S324
    for folder in world.state.glob("runs/*"):
        assert (folder / "DELIVERED").exists()
        manifest = json.loads((folder / "manifest.json").read_text())
        assert {file["name"] for file in manifest["files"]} <= set(delivered)
    assert not list(world.state.rglob("*.part"))
