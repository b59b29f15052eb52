"""Files on their way from executors to each kind of destination, with the driver looking on."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from idsync import config
from idsync.errors import IdsyncError
from idsync.settings import Settings
from idsync.store.lease import open_leases
from reconcile.delivery.base import sha256, temporary_name
from reconcile.delivery.courier import Courier
from reconcile.errors import DeliveryConflict, DestinationRefused, DestinationUnavailable, RunLocked
from reconcile.failpoints import Point
from reconcile.lock import Tenure
from reconcile.progress import Meter
from reconcile.run import Engine, run
from reconcile.spark.deliver import opener
from reconcile.summary import Summary
from tests.contracts.destinations import (
    NAME,
    PLANNED_AT,
    Kind,
    frozen,
    ftp_table,
    large,
    opened,
    s3_table,
    settings_of,
)
from tests.reconcile.samples import SIGNALS, TEMPLATE, World, uuid
from tests.s3 import StrictS3, strict_s3
from tests.servers import wait_until
from tests.spark.conftest import KEY_OF_EXECUTORS
from tests.spark.test_deaths import killing

pytestmark = pytest.mark.usefixtures("spark")

KINDS = ("directory", "strict S3", "ftp", "ftps", "sftp")


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Executors have some, the driver has none."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def give_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ACCESS_KEY_ID": "key-of-the-driver", "AWS_SECRET_ACCESS_KEY": "secret"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=KINDS)
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    place = tmp_path / "there"
    place.mkdir()
    with opened(request.param, place, str) as kind:
        yield kind


@pytest.fixture
def strict() -> Iterator[StrictS3]:
    with strict_s3() as server:
        yield server


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("reconcile.spark.join._shares", lambda _: 2)
    world = World(tmp_path / "world", SIGNALS + "diagnose = false\n")
    world.sync(*((f"c{number}", uuid(number)) for number in range(1, 20)))
    world.put("a.csv", [(f"c{number}", "f", "", "") for number in range(1, 20)])
    return world


def courier(folder: Path, table: Mapping[str, Any], tenure: Tenure | None = None) -> Courier:
    at_once = {} if table["kind"] == "directory" else {"retry_seconds": 0}
    return opener(tenure)(settings_of({**table, **at_once}), World(folder / "world").settings)


def raised(act: Callable[[], object]) -> tuple[type[IdsyncError], str]:
    with pytest.raises(IdsyncError) as caught:
        act()
    return type(caught.value), str(caught.value)


# --- each kind of destination ----------------------------------------------------------------------------------------


def test_files_arrive_and_once_more_is_no_harm(destination: Kind, tmp_path: Path) -> None:
    data = {f"ftp_dpm_12345_179000000{number}.sync.gz": b"bytes %d" % number for number in range(3)}
    files = [frozen(tmp_path / "run", content, name)[1] for name, content in data.items()]
    for _ in range(2):
        carrying = courier(tmp_path, destination.table)
        carrying.reach()
        arrived = {file.name: where for file, where in carrying.deliver_all(tmp_path / "run", files, PLANNED_AT)}
        assert {name.rpartition("/")[2]: content for name, content in destination.held().items()} == data
        assert {name: where.rpartition("/")[2] for name, where in arrived.items()} == {name: name for name in data}


def test_a_name_that_is_taken_is_told_in_the_words_of_one_machine(
    destination: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination.put(b"of somebody else")
    path, file = frozen(tmp_path / "run", b"some bytes")
    told = raised(lambda: courier(tmp_path, destination.table).deliver(path, file, PLANNED_AT))
    give_credentials(monkeypatch)
    assert told == raised(lambda: destination.delivery().deliver(path, file, PLANNED_AT))
    assert told[0] is DeliveryConflict
    assert set(destination.held().values()) == {b"of somebody else"}


@pytest.mark.parametrize("destination", KINDS[1:], indirect=True)
def test_a_refusal_is_told_in_the_words_of_one_machine(
    destination: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, file = frozen(tmp_path / "run", b"some bytes")

    def there(changes: Mapping[str, Any]) -> object:
        return courier(tmp_path, {**destination.table, **changes}).deliver(path, file, PLANNED_AT)

    refused, away = raised(lambda: there(destination.wrong)), raised(lambda: there(destination.away))
    assert (refused[0], away[0]) == (DestinationRefused, DestinationUnavailable)
    give_credentials(monkeypatch)
    for told, changes in ((refused, destination.wrong), (away, destination.away)):
        here = destination.delivery(**changes)
        assert told == raised(lambda: here.deliver(path, file, PLANNED_AT))  # noqa: B023
    assert not destination.held()


def test_what_may_pass_later_is_tried_again(strict: StrictS3, tmp_path: Path) -> None:
    path, file = frozen(tmp_path / "run", b"some bytes")
    strict.faults += ["SlowDown", "cut"]
    table = s3_table(strict.url) | {"retry_seconds": 60}
    opener(None)(settings_of(table), World(tmp_path / "world").settings).deliver(path, file, PLANNED_AT)
    assert (list(strict.objects.values()), strict.puts) == ([b"some bytes"], 3)


# --- whole runs ------------------------------------------------------------------------------------------------------


def to_s3(world: World, strict: StrictS3) -> Settings:
    text = (TEMPLATE + world.feed).replace("http://127.0.0.1:9", strict.url)
    text = text.replace('destination = "local"', 'destination = "bucket"').replace("{url}", world.url)
    return config.parse(text, environ={}, base=world.folder)


def go(settings: Settings, engine: Engine) -> Summary:
    return run(settings, "daily", dry_run=False, meter=Meter(), now=lambda: PLANNED_AT, engine=engine)


def frozen_files(world: World) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in world.state.glob("runs/*/files/[!.]*")}


def objects(strict: StrictS3) -> dict[str, bytes]:
    return {key.rpartition("/")[2]: data for key, data in strict.objects.items()}


def keys_of(strict: StrictS3) -> list[str]:
    """Whose credentials the objects were put with."""
    return [headers["authorization"].partition("Credential=")[2].split("/")[0] for headers in strict.headers.values()]


def test_executors_upload_what_a_driver_without_credentials_could_not(world: World, strict: StrictS3) -> None:
    settings = to_s3(world, strict)
    with pytest.raises(DestinationRefused, match="credentials"):
        go(settings, "duckdb")
    world.put("b.csv", [(f"c{number}", "m", "", "") for number in range(1, 20)])
    summary = go(settings, "spark")
    assert len(summary.settled) == 1
    assert len(summary.files) == 2
    assert objects(strict) == frozen_files(world)
    assert {file["name"]: file["location"] for file in summary.files}.items() <= {
        key.rpartition("/")[2]: f"s3:/{key}" for key in strict.objects
    }.items()
    assert keys_of(strict) == [KEY_OF_EXECUTORS] * 3


def test_what_is_frozen_on_spark_a_driver_delivers_later(
    world: World, strict: StrictS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = to_s3(world, strict)
    strict.buckets.clear()
    with pytest.raises(DestinationRefused, match="NoSuchBucket") as caught:
        go(settings, "spark")
    assert caught.value.exit_status == 2
    before = frozen_files(world)
    assert len(before) == 2
    strict.buckets.add("inbound")
    give_credentials(monkeypatch)
    assert len(go(settings, "duckdb").settled) == 1
    assert objects(strict) == before
    assert keys_of(strict) == ["key-of-the-driver"] * 2


# --- executors that die, and twins -----------------------------------------------------------------------------------


def executors(spark: SparkSession) -> list[int]:
    """Those of this session, and the Pythons that they have started."""
    about = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            about[int(folder.name)] = parent, (folder / "cmdline").read_bytes().split(b"\0")
    application = str(spark.sparkContext.applicationId).encode()
    found = [process for process, (_, words) in about.items() if application in words]
    for process in found:
        found += [child for child, (parent, _) in about.items() if parent == process and child not in found]
    return found


@pytest.mark.parametrize("survives", [True, False], ids=["and the task lives on", "with the task"])
def test_a_run_whose_executor_dies_half_way_through_an_upload(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, survives: bool
) -> None:
    monkeypatch.setattr("reconcile.failpoints.reached", killing(tmp_path, "FILE_HALF_THERE", itself=not survives))
    summary = go(world.settings, "spark")
    assert (tmp_path / "killed").exists()
    digests = {path.name: sha256(path) for path in world.delivered.iterdir()}
    assert digests == {file["name"]: file["sha256"] for file in summary.files}
    assert len(digests) == 2


def test_an_upload_in_parts_goes_on_where_a_dead_executor_has_left_it(
    spark: SparkSession, strict: StrictS3, tmp_path: Path
) -> None:
    path, file = frozen(tmp_path / "run", large())
    strict.faults += ["", "hang"]
    with ThreadPoolExecutor(1) as beside:
        under_way = beside.submit(courier(tmp_path, s3_table(strict.url)).deliver, path, file, PLANNED_AT)
        assert strict.hanging.wait(60)
        for process in executors(spark):
            os.kill(process, signal.SIGKILL)
        assert under_way.result().endswith(NAME)
    assert list(strict.objects.values()) == [large()]
    assert (strict.begun, strict.part_numbers) == (1, [1, 2, 3])


def test_a_twin_waits_for_its_turn_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attempt goes on only once Spark has started another, which waits for the frozen file."""
    out = tmp_path / "out"
    path, file = frozen(tmp_path / "run", large())
    inode = f":{path.stat().st_ino} "
    marks = [str(tmp_path / name) for name in ("first", "waited")]

    def straggling(point: Point) -> None:
        if point.name != "FILE_HALF_THERE":
            return
        try:
            os.close(os.open(marks[0], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with open("/proc/locks") as locks:  # noqa: PTH123
                if any("->" in line and inode in line for line in locks):
                    os.close(os.open(marks[1], os.O_CREAT))
                    return
            time.sleep(0.02)

    monkeypatch.setattr("reconcile.failpoints.reached", straggling)
    carrying = courier(tmp_path, {"kind": "directory", "name": "local", "path": str(out)})
    carrying.reach()
    assert carrying.deliver(path, file, PLANNED_AT) == str(out / NAME)
    assert Path(marks[1]).exists(), "no other attempt has waited"
    assert sha256(out / NAME) == file.sha256
    # the twin, if it still is there, ends at once, and leaves things as they are
    assert carrying.deliver(path, file, PLANNED_AT) == str(out / NAME)
    assert [each.name for each in out.iterdir()] == [NAME]


# --- the lease -------------------------------------------------------------------------------------------------------


@pytest.fixture
def out(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "out").mkdir()
    return {"kind": "directory", "name": "local", "path": str(tmp_path / "out")}


def test_executors_begin_nothing_once_the_lease_is_anothers(tmp_path: Path, out: dict[str, str]) -> None:
    path, file = frozen(tmp_path / "run", b"some bytes")
    with closing(open_leases(World(tmp_path / "world").settings.store)) as leases:
        token = leases.acquire("daily", "a", 600)
        assert isinstance(token, int)
        tenure = Tenure(leases, "daily", token, 600)
        carrying = courier(tmp_path, out, tenure)
        assert carrying.deliver(path, file, PLANNED_AT)
        leases.acquire("daily", "a", 600)  # who holds the lock file gets it
        other, told = frozen(tmp_path / "run", b"other bytes", "other")
        with pytest.raises(RunLocked, match='the lease of feed "daily" was lost'):
            carrying.deliver(other, told, PLANNED_AT)
        tenure.end()
    assert [each.name for each in (tmp_path / "out").iterdir()] == [NAME]


def test_what_is_under_way_when_the_lease_is_lost_is_dropped(
    tmp_path: Path, out: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, file = frozen(tmp_path / "run", b"some bytes")
    mark = str(tmp_path / "half there")

    def lingering(point: Point) -> None:
        if point.name == "FILE_HALF_THERE":
            os.close(os.open(mark, os.O_CREAT))
            time.sleep(60)

    with closing(open_leases(World(tmp_path / "world").settings.store)) as leases, ThreadPoolExecutor(1) as beside:
        token = leases.acquire("daily", "a", 600)
        assert isinstance(token, int)
        tenure = Tenure(leases, "daily", token, 3)
        with monkeypatch.context() as patched:
            patched.setattr("reconcile.failpoints.reached", lingering)
            under_way = beside.submit(courier(tmp_path, out, tenure).deliver, path, file, PLANNED_AT)
            wait_until(Path(mark).exists, "a file on its way", 60)
        leases.acquire("daily", "a", 600)
        with pytest.raises(RunLocked):
            under_way.result()
        tenure.end()
    assert [each.name for each in (tmp_path / "out").iterdir()] == [temporary_name(NAME)]
    assert courier(tmp_path, out).deliver(path, file, PLANNED_AT)  # nobody has the file in hand any more


# --- what driver and executors share ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "problem"), [("/proc/self/cwd", "the driver does not see it"), ("deep", "no executor can see it")]
)
def test_a_directory_that_is_another_on_each_machine_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, problem: str
) -> None:
    """Where the driver stands, and where executors stand, is not the same place."""
    monkeypatch.chdir(tmp_path)
    path, file = frozen(tmp_path / "run", b"some bytes")
    place = Path("/proc/self/cwd") / folder
    carrying = courier(tmp_path, {"kind": "directory", "name": "local", "path": str(place)})
    carrying.reach()
    with pytest.raises(DestinationRefused, match=problem):
        carrying.deliver(path, file, PLANNED_AT)
    assert not (place / NAME).exists()


def test_executors_keep_together_to_the_bandwidth_of_a_destination(tmp_path: Path) -> None:
    table = ftp_table(tmp_path, 21, max_megabytes_per_second=8, parallel=4)
    there = courier(tmp_path, table)._delivery._there  # type: ignore[attr-defined]
    assert there.destination.max_megabytes_per_second == 2
