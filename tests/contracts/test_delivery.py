"""What every destination promises, on each kind of destination; then what only S3 can do wrong."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import boto3
import pytest

from idsync.settings import DirectoryDestination, S3Destination
from reconcile.delivery.base import Delivery
from reconcile.delivery.directory import DirectoryDelivery
from reconcile.delivery.s3 import S3Delivery
from reconcile.errors import DeliveryConflict, DestinationRefused, DestinationUnavailable
from reconcile.files import FrozenFile
from tests.s3 import StrictS3, moto_s3, strict_s3

PLANNED_AT = 1_790_000_000_000  # 2026-09-21 in UTC
NAME = "ftp_dpm_12345_1790000000.sync.gz"
KEY = f"acme/date=2026-09-21/{NAME}"


@dataclass
class Destination:
    delivery: Delivery
    held: Callable[[], dict[str, bytes]]  # what lies there by now, by name
    put: Callable[[bytes], None]  # somebody else takes NAME


def frozen(folder: Path, data: bytes, name: str = NAME) -> tuple[Path, FrozenFile]:
    path = folder / name
    path.write_bytes(data)
    return path, FrozenFile(name, len(data), len(data), 1, hashlib.sha256(data).hexdigest())


def s3_delivery(url: str, bucket: str = "inbound") -> S3Delivery:
    destination = S3Destination(kind="s3", name="s3", bucket=bucket, endpoint_url=url, region="us-east-1")
    return S3Delivery(destination, "acme")


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_MAX_ATTEMPTS": "3"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def strict() -> Iterator[StrictS3]:
    with strict_s3() as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    with moto_s3() as url:
        yield url


@pytest.fixture(params=["directory", "strict", "moto"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Destination:
    if request.param == "directory":
        settings = DirectoryDestination(kind="directory", name="local", path=tmp_path / "out" / "deep")
        folder = settings.path

        def take(data: bytes) -> None:
            folder.mkdir(parents=True)
            (folder / NAME).write_bytes(data)

        return Destination(
            DirectoryDelivery(folder), lambda: {path.name: path.read_bytes() for path in folder.glob("*")}, take
        )
    if request.param == "strict":
        server: StrictS3 = request.getfixturevalue("strict")
        return Destination(
            s3_delivery(server.url),
            lambda: {key.removeprefix("/inbound/"): data for key, data in server.objects.items()},
            lambda data: server.objects.update({f"/inbound/{KEY}": data}),
        )
    url: str = request.getfixturevalue("moto")
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
    bucket = hashlib.sha256(str(tmp_path).encode()).hexdigest()[:32]
    client.create_bucket(Bucket=bucket)

    def held() -> dict[str, bytes]:
        keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket).get("Contents", [])]
        return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    return Destination(
        s3_delivery(url, bucket), held, lambda data: client.put_object(Bucket=bucket, Key=KEY, Body=data) and None
    )


def test_the_bytes_arrive_under_their_name(destination: Destination, tmp_path: Path) -> None:
    path, file = frozen(tmp_path, b"some bytes")
    where = destination.delivery.deliver(path, file, PLANNED_AT)
    ((name, data),) = destination.held().items()
    assert data == b"some bytes"
    assert name in {NAME, KEY}
    assert where.endswith(f"/{name}")


def test_delivering_again_changes_nothing(destination: Destination, tmp_path: Path) -> None:
    path, file = frozen(tmp_path, b"some bytes")
    first = destination.delivery.deliver(path, file, PLANNED_AT)
    assert destination.delivery.deliver(path, file, PLANNED_AT) == first
    assert list(destination.held().values()) == [b"some bytes"]


def test_other_bytes_under_the_name_are_a_conflict_and_stay(destination: Destination, tmp_path: Path) -> None:
    destination.put(b"somebody else's")
    path, file = frozen(tmp_path, b"some bytes")
    with pytest.raises(DeliveryConflict, match="exists already with other bytes"):
        destination.delivery.deliver(path, file, PLANNED_AT)
    assert list(destination.held().values()) == [b"somebody else's"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    path, file = frozen(tmp_path, b"some bytes")
    with pytest.raises(DestinationRefused, match="out") as caught:
        DirectoryDelivery(tmp_path / "out").deliver(path, file, PLANNED_AT)
    assert caught.value.exit_status == 2


def test_a_half_copied_file_is_never_seen_under_its_name(tmp_path: Path) -> None:
    path, file = frozen(tmp_path, b"some bytes")
    out = tmp_path / "out"
    out.mkdir()
    (out / f".{NAME}.part").write_bytes(b"left by a crash")
    DirectoryDelivery(out).deliver(path, file, PLANNED_AT)
    assert {entry.name: entry.read_bytes() for entry in out.iterdir()} == {NAME: b"some bytes"}


def test_who_comes_between_the_look_and_the_copy_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, file = frozen(tmp_path, b"some bytes")
    out = tmp_path / "out"
    copy = shutil.copyfileobj

    def slow_copy(source: BinaryIO, target: BinaryIO, length: int) -> None:
        copy(source, target, length)
        (out / NAME).write_bytes(b"somebody else's")

    monkeypatch.setattr(shutil, "copyfileobj", slow_copy)
    with pytest.raises(DeliveryConflict):
        DirectoryDelivery(out).deliver(path, file, PLANNED_AT)
    assert {entry.name: entry.read_bytes() for entry in out.iterdir()} == {NAME: b"somebody else's"}


def test_objects_carry_the_acl(strict: StrictS3, tmp_path: Path) -> None:
    s3_delivery(strict.url).deliver(*frozen(tmp_path, b"some bytes"), PLANNED_AT)
    assert strict.acls == {f"/inbound/{KEY}": "bucket-owner-full-control"}


def test_a_file_that_is_not_what_it_should_be_is_not_taken(strict: StrictS3, tmp_path: Path) -> None:
    path, file = frozen(tmp_path, b"some bytes")
    path.write_bytes(b"same length"[: file.bytes])
    with pytest.raises(DestinationRefused, match="BadDigest"):
        s3_delivery(strict.url).deliver(path, file, PLANNED_AT)
    assert strict.objects == {}


@pytest.mark.parametrize("fault", ["lose the answer", "SlowDown", "InternalError"])
def test_passing_faults_are_tried_again(strict: StrictS3, tmp_path: Path, fault: str) -> None:
    strict.faults = [fault]
    s3_delivery(strict.url).deliver(*frozen(tmp_path, b"some bytes"), PLANNED_AT)
    assert list(strict.objects.values()) == [b"some bytes"]
    assert strict.puts == 2


@pytest.mark.parametrize("fault", ["SlowDown", "ConditionalRequestConflict"])
def test_lasting_faults_of_the_server_mean_later(strict: StrictS3, tmp_path: Path, fault: str) -> None:
    strict.faults = [fault] * 10
    with pytest.raises(DestinationUnavailable, match=fault) as caught:
        s3_delivery(strict.url).deliver(*frozen(tmp_path, b"some bytes"), PLANNED_AT)
    assert caught.value.exit_status == 75


def test_a_bucket_that_refuses_or_is_missing_names_the_mend(strict: StrictS3, tmp_path: Path) -> None:
    path, file = frozen(tmp_path, b"some bytes")
    strict.faults = ["AccessDenied"]
    with pytest.raises(DestinationRefused, match="AccessDenied") as caught:
        s3_delivery(strict.url).deliver(path, file, PLANNED_AT)
    assert "s3:PutObject" in caught.value.mend
    assert caught.value.exit_status == 2
    with pytest.raises(DestinationRefused, match="NoSuchBucket") as caught:
        s3_delivery(strict.url, "another-bucket").deliver(path, file, PLANNED_AT)
    assert "bucket" in caught.value.mend


def test_no_server_and_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, file = frozen(tmp_path, b"some bytes")
    with pytest.raises(DestinationUnavailable, match=r"127\.0\.0\.1:1"):
        s3_delivery("http://127.0.0.1:1").deliver(path, file, PLANNED_AT)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(DestinationRefused, match="credentials") as caught:
        s3_delivery("http://127.0.0.1:1").deliver(path, file, PLANNED_AT)
    assert "AWS_ACCESS_KEY_ID" in caught.value.mend
