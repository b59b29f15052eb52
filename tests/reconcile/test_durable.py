"""After a power cut a name is there only if its folder was synced, and bytes only if their file was."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from reconcile import durable, failpoints
from reconcile.errors import StateUnavailable
from reconcile.failpoints import Point
from tests.reconcile.samples import SIGNALS, World, uuid
from tests.reconcile.test_inputs_gather import not_as_root


def test_all_that_a_run_builds_on_lasts_before_anything_is_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, SIGNALS + "diagnose = false\n")
    world.sync(("c1", uuid(1)))
    world.put("a.csv", [("c1", "f", "gold", "24"), ("nobody", "m", "", ""), ("", "m", "", "")] * 60)
    world.feed = "max_rejected = 1.0\n" + world.feed
    synced: set[int] = set()
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    def look(point: Point) -> None:
        if point is Point.REACHED:
            (folder,) = world.state.glob("runs/*")
            lasting = [path for path in folder.rglob("*") if path.is_file()]
            assert {"held.parquet", "manifest.json", "rejects.csv.gz"} <= {path.name for path in lasting}
            lasting += {path.parent for path in lasting} | {world.state, world.state / "runs"}
            assert not [path for path in lasting if path.stat().st_ino not in synced]
            seen.append(point)

    seen: list[Point] = []
    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(failpoints, "reached", look)
    world.run()
    assert seen


@pytest.mark.parametrize("closed", ["from", "to"])
def test_of_a_rename_that_may_not_be_the_folder_is_named(closed: str) -> None:
    with not_as_root(), TemporaryDirectory() as name:
        folders = [Path(name) / "from", Path(name) / "to"]
        for folder in folders:
            folder.mkdir()
        moved, target = (folder / "held.parquet" for folder in folders)
        moved.touch()
        (Path(name) / closed).chmod(0o500)
        try:
            with pytest.raises(StateUnavailable) as caught, durable.telling(Path(name) / "else"):
                durable.move(moved, target)
        finally:
            (Path(name) / closed).chmod(0o700)
        assert caught.value.problem == f"{Path(name) / closed}: Permission denied"
        with pytest.raises(StateUnavailable, match=f"{moved}x: No such file"), durable.telling(Path(name) / "else"):
            durable.move(Path(f"{moved}x"), target)
