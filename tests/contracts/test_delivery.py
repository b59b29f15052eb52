"""What every destination promises, on each kind of destination."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconcile.delivery.base import temporary_name
from reconcile.errors import DeliveryConflict, DestinationRefused, DestinationUnavailable
from tests.contracts.destinations import KEY, KINDS, MEGABYTE, NAME, PLANNED_AT, Kind, frozen, large, opened
from tests.s3 import moto_s3
from tests.servers import START_SECONDS, wait_until

REMOTE = ("strict S3", "moto", "ftp", "ftps", "sftp")
SLOW = {"max_megabytes_per_second": 4}


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    with moto_s3() as url:
        yield url


def no_links(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.fixture(params=KINDS)
def destination(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kind]:
    if request.param == "directory without links":
        monkeypatch.setattr(os, "link", no_links)
    moto: Callable[[], str] = lambda: request.getfixturevalue("moto")  # noqa: E731 - started only where it is used
    place = tmp_path / "there"
    place.mkdir()
    with opened(request.param, place, moto) as kind:
        yield kind


remote = pytest.mark.parametrize("destination", REMOTE, indirect=True)


@pytest.mark.parametrize("data", [b"some bytes", large()], ids=["small", "large"])
def test_the_bytes_arrive_under_their_name(destination: Kind, tmp_path: Path, data: bytes) -> None:
    path, file = frozen(tmp_path / "run", data)
    delivery = destination.delivery()
    delivery.reach()
    where = delivery.deliver(path, file, PLANNED_AT)
    ((name, arrived),) = destination.held().items()
    assert arrived == data
    assert name in {NAME, KEY}
    assert where.endswith(f"/{name}")
    assert [each.name for each in path.parent.iterdir()] == [NAME]


@pytest.mark.parametrize("data", [b"some bytes", large()], ids=["small", "large"])
def test_delivering_again_changes_nothing(destination: Kind, tmp_path: Path, data: bytes) -> None:
    path, file = frozen(tmp_path / "run", data)
    first = destination.delivery().deliver(path, file, PLANNED_AT)
    assert destination.delivery().deliver(path, file, PLANNED_AT) == first
    assert list(destination.held().values()) == [data]


@pytest.mark.parametrize("theirs", ["somebody else's", "same size!", ""])
def test_other_bytes_under_the_name_are_a_conflict_and_stay(destination: Kind, tmp_path: Path, theirs: str) -> None:
    destination.put(theirs.encode())
    path, file = frozen(tmp_path / "run", b"some bytes")
    with pytest.raises(DeliveryConflict, match="exists already with other bytes") as caught:
        destination.delivery().deliver(path, file, PLANNED_AT)
    assert caught.value.exit_status == 1
    assert list(destination.held().values()) == [theirs.encode()]


def test_a_large_file_does_not_replace_other_bytes_either(destination: Kind, tmp_path: Path) -> None:
    data = large()
    destination.put(data[:-1] + b"?")
    path, file = frozen(tmp_path / "run", data)
    with pytest.raises(DeliveryConflict):
        destination.delivery().deliver(path, file, PLANNED_AT)
    assert list(destination.held().values()) == [data[:-1] + b"?"]


@pytest.mark.parametrize("destination", [kind for kind in KINDS if kind != "moto"], indirect=True)  # it checks nothing
@pytest.mark.parametrize("data", [b"some bytes", large()], ids=["small", "large"])
def test_a_file_that_is_not_what_was_frozen_is_not_offered(destination: Kind, tmp_path: Path, data: bytes) -> None:
    path, file = frozen(tmp_path / "run", data)
    path.write_bytes(data[:-1] + b"?")
    with pytest.raises(DestinationRefused, match="not the bytes that were frozen"):
        destination.delivery().deliver(path, file, PLANNED_AT)
    assert destination.held() == {}


def test_wrong_credentials_or_places_are_refused_with_the_mend(destination: Kind, tmp_path: Path) -> None:
    path, file = frozen(tmp_path / "run", b"some bytes")
    with pytest.raises(DestinationRefused) as caught:
        destination.courier(**destination.wrong).deliver(path, file, PLANNED_AT)
    assert caught.value.exit_status == 2
    assert caught.value.mend
    assert "guessed" not in str(caught.value)
    assert destination.held() == {}


@remote
def test_nobody_there_means_later(destination: Kind, tmp_path: Path) -> None:
    path, file = frozen(tmp_path / "run", b"some bytes")
    delivery = destination.delivery(**destination.away)
    for attempt in (delivery.reach, lambda: delivery.deliver(path, file, PLANNED_AT)):
        with pytest.raises(DestinationUnavailable, match=r"127\.0\.0\.1") as caught:
            attempt()
        assert caught.value.exit_status == 75


@remote
def test_a_delivery_that_is_killed_is_gone_on_with(destination: Kind, tmp_path: Path) -> None:
    """kill -9 in the middle; then again, to the end, without anything left behind."""
    data = large()
    path, file = frozen(tmp_path / "run", data)
    with destination.start(path, file, **SLOW) as process:
        try:
            wait_until(lambda: destination.growing() > MEGABYTE, "a beginning", seconds=60)
        finally:
            process.kill()
    assert process.wait(START_SECONDS) == -9
    assert NAME not in destination.held()
    assert KEY not in destination.held()
    destination.delivery().deliver(path, file, PLANNED_AT)
    assert list(destination.held().values()) == [data]
    assert destination.growing() == 0
    assert [each.name for each in path.parent.iterdir()] == [NAME]


@pytest.mark.parametrize("destination", ["directory", "directory without links", "ftp", "ftps", "sftp"], indirect=True)
@pytest.mark.parametrize(
    "rest", [b"left by a crash", b"some", b"som?", b"some bytes", b"", b"some bytes and more than that"]
)
def test_a_half_file_is_never_seen_under_its_name(destination: Kind, tmp_path: Path, rest: bytes) -> None:
    destination.put(rest)
    folder = tmp_path / "there"
    (taken,) = folder.rglob(NAME)
    taken.rename(taken.with_name(temporary_name(NAME)))
    path, file = frozen(tmp_path / "run", b"some bytes")
    destination.delivery().deliver(path, file, PLANNED_AT)
    assert destination.held() == {NAME: b"some bytes"}
