"""Executors that die and tasks that run twice: each name has one file, with the lines of a run without either."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from reconcile.delivery.base import sha256
from reconcile.failpoints import Point
from reconcile.progress import Meter
from reconcile.run import run
from tests.reconcile.samples import NOW, World, content
from tests.spark.test_same import BY_UUID, EMAILS, fill, fill_both, fill_emails, small_shares

__all__ = ["small_shares"]


def killing(folder: Path, where: str = "FILE_CLOSED", *, itself: bool = False) -> Callable[[Point], None]:
    """What the first task to come to this point does: kill -9 its executor, from which its Python was forked, and
    perhaps itself. The others find a file "killed" in the folder.
    """
    mark = str(folder / "killed")

    def reached(point: Point) -> None:
        if point.name != where:
            return
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        process = os.getpid()
        while True:
            with open(f"/proc/{process}/comm") as file:  # noqa: PTH123  imports of the driver are not to travel
                if file.read().strip() == "java":
                    break
            with open(f"/proc/{process}/stat") as file:  # noqa: PTH123
                process = int(file.read().rpartition(")")[2].split()[1])
        os.kill(process, signal.SIGKILL)
        if itself:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


def straggling(folder: Path) -> Callable[[Point], None]:
    """The first task to come to a file waits there until another attempt at the same share has frozen that file."""
    mark = str(folder / "attempt-")

    def reached(point: Point) -> None:
        from pyspark import TaskContext  # noqa: PLC0415  where the tasks are

        context = TaskContext.get()
        if context is None or point.name not in {"FILE_BEGUN", "FILES_NAMED"}:
            return
        done = f"{mark}{context.partitionId()}"
        if point.name == "FILES_NAMED":
            os.close(os.open(done, os.O_CREAT))
            return
        try:
            os.close(os.open(mark + "first", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        until = time.monotonic() + 60
        while not os.path.exists(done) and time.monotonic() < until:  # noqa: PTH110
            time.sleep(0.02)
        if not os.path.exists(done):  # noqa: PTH110
            os.close(os.open(mark + "alone", os.O_CREAT))

    return reached


SHOP = BY_UUID + 'user_id = "shop"\n[[data_sources]]\nname = "shop"\ndpid = 777\n'


@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize(
    ("mishap", "feed", "fill_in", "changes"),
    [
        (killing, BY_UUID, fill, None),
        (straggling, BY_UUID, fill, None),
        (killing, SHOP, fill_both, None),
        (killing, EMAILS, fill_emails, None),
        (killing, BY_UUID, fill, {}),
    ],
    ids=["killed", "twice", "killed-of-other-ids", "killed-of-emails", "killed-of-changes"],
)
def test_every_file_is_the_one_of_a_run_without_mishap(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mishap: Callable[[Path], Callable[[Point], None]],
    feed: str,
    fill_in: Callable[..., None],
    changes: dict[str, Any] | None,
) -> None:
    delivered = []
    for name in ("quiet", "mishap"):
        world = World(tmp_path / name, feed=feed, changes=changes)
        fill_in(world, 1)
        if name == "mishap":
            monkeypatch.setattr("reconcile.failpoints.reached", mishap(tmp_path))
        summary = run(world.settings, "daily", dry_run=False, meter=Meter(), now=lambda: NOW, engine="spark")
        files = {path.name: path for path in world.delivered.iterdir()}
        assert {name: sha256(path) for name, path in files.items()} == {
            file["name"]: file["sha256"] for file in summary.files
        }
        assert len(files) > 1
        assert not list((world.state / "runs" / summary.run).glob("scratch*"))
        # which line of a share comes first is not the same in every run
        told = {name: sorted(content(path).splitlines()) for name, path in files.items()}
        sent = world.state / "sent" / "daily.parquet"
        assert sent.exists() == (changes is not None)
        delivered.append((told, sorted(map(str, parquet.read_table(sent).to_pylist())) if sent.exists() else []))
    assert any(path.name in {"killed", "attempt-first"} for path in tmp_path.iterdir()), "nothing happened"
    assert not (tmp_path / "attempt-alone").exists(), "Spark has started no other"
    assert delivered[0] == delivered[1]
