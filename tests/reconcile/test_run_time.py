"""Days and seconds: what is named by time keeps its name, whatever the clock does meanwhile."""

from pathlib import Path

import pytest

from idsync.settings import Settings
from reconcile import syncfile
from reconcile.errors import DestinationUnavailable
from reconcile.progress import Meter
from reconcile.run import run
from tests.reconcile.samples import SIGNALS, World, uuid
from tests.s3 import strict_s3

MIDNIGHT = 1_790_208_000_000  # the first millisecond of 2026-09-24, UTC
DAY = 86_400_000


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path, SIGNALS + "diagnose = false\n", now=MIDNIGHT - 1)
    world.sync(("c1", uuid(1)), ("c2", uuid(2)))
    world.put("a.csv", [("c1", "f", "", "")])
    return world


def to(world: World, url: str) -> Settings:
    """The feed's files go to a bucket at this address."""
    settings = world.settings
    bucket = next(each for each in settings.destinations if each.name == "bucket")
    feed = settings.feeds[0].model_copy(update={"destination": "bucket"})
    moved = bucket.model_copy(update={"endpoint_url": url})
    return settings.model_copy(update={"feeds": (feed,), "destinations": (settings.destinations[0], moved)})


@pytest.mark.parametrize("later", [2, DAY, -DAY], ids=["midnight", "a day", "a clock set back"])
def test_the_day_of_a_key_is_that_of_the_plan(world: World, later: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a run that goes on after midnight would offer its files again, under other keys."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with pytest.raises(DestinationUnavailable):
        run(to(world, "http://127.0.0.1:9"), "daily", dry_run=False, meter=Meter(), now=lambda: world.now)
    world.now += later
    with strict_s3() as server:
        summary = run(to(world, server.url), "daily", dry_run=False, meter=Meter(), now=lambda: world.now)
        assert len(summary.settled) == 1
        name = f"ftp_dpm_12345_{(MIDNIGHT - 1) // 1000}.sync.gz"
        assert list(server.objects) == [f"/inbound/acme/date=2026-09-23/{name}"]


def test_times_in_names_only_grow_whatever_the_clock_does(world: World) -> None:
    names = []
    for at, change in enumerate((0, -DAY, 0, 5, -3_600_000, 2 * DAY)):
        world.now += change
        world.put(f"{at}.csv", [("c1", str(at), "", "")])
        names += [file["name"] for file in world.run().files]
        world.sync((f"new{at}", uuid(100 + at)))
        job = syncfile.sync_file(world.settings, ["crm"], destination="local", meter=Meter(), now=lambda: world.now)
        names += [file["name"] for file in job.files]
    times = [int(name.split(".")[0].rpartition("_")[2]) for name in names]
    assert len(times) == 12
    assert times == sorted(set(times))
