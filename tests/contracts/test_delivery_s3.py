"""What only S3 can do wrong, on a stand-in that is told to: lost answers, refusals, races, parts, rights, roles."""

import base64
import hashlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconcile.delivery import aws, bandwidth, connect
from reconcile.delivery.base import Delivery
from reconcile.delivery.courier import Courier, Patience
from reconcile.errors import DeliveryConflict, DestinationRefused, DestinationUnavailable
from reconcile.files import FrozenFile
from tests.contracts.destinations import KEY, NAME, PARTNER, PLANNED_AT, Kind, frozen, large, s3_table, settings_of
from tests.s3 import StrictS3, Sts, strict_s3, sts
from tests.servers import START_SECONDS, free_port

PATH = f"/inbound/{KEY}"
ROLE = "arn:aws:iam::123456789012:role/aam-delivery"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def strict() -> Iterator[StrictS3]:
    with strict_s3() as server:
        yield server


@pytest.fixture(params=["small", "large"])
def thing(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, FrozenFile]:
    return frozen(tmp_path / "run", large() if request.param == "large" else b"some bytes")


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Path, FrozenFile]:
    """A file that goes in three."""
    return frozen(tmp_path / "run", large())


def once(strict: StrictS3, **changes: Any) -> Delivery:
    return connect(settings_of(s3_table(strict.url) | changes), PARTNER)


def patient(strict: StrictS3, seconds: float = 60, **changes: Any) -> Courier:
    return Courier(once(strict, **changes), Patience(seconds, time.monotonic, chance=lambda: 0.001))


# --- what an object is ------------------------------------------------------------------------------------------------


def test_objects_carry_acl_and_encryption(strict: StrictS3, thing: tuple[Path, FrozenFile]) -> None:
    changes = {"sse": "aws:kms", "kms_key_id": "alias/ours"}
    once(strict, **changes).deliver(*thing, PLANNED_AT)
    headers = strict.headers[PATH]
    assert headers["x-amz-acl"] == "bucket-owner-full-control"
    assert headers["x-amz-server-side-encryption"] == "aws:kms"
    assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "alias/ours"


def test_nothing_is_asked_for_that_the_settings_do_not_ask_for(
    strict: StrictS3, thing: tuple[Path, FrozenFile]
) -> None:
    once(strict).deliver(*thing, PLANNED_AT)
    assert not [name for name in strict.headers[PATH] if name.startswith("x-amz-server-side")]
    assert strict.read == 0  # S3 has attested the bytes


@pytest.mark.parametrize(
    ("environment", "bucket"),
    [("production", "demdex-s2s-clients"), ("beta", "demdex-s2s-client-sandbox-us-east-1")],
)
def test_an_environment_stands_for_a_bucket(tmp_path: Path, environment: str, bucket: str) -> None:
    table = s3_table(f"http://127.0.0.1:{free_port()}") | {"environment": environment}
    del table["bucket"]
    with pytest.raises(DestinationUnavailable, match=f"s3://{bucket}/{KEY}"):
        connect(settings_of(table), PARTNER).deliver(*frozen(tmp_path, b"some bytes"), PLANNED_AT)


def test_servers_without_the_newer_checksums_get_md5_and_are_read_back(
    strict: StrictS3, thing: tuple[Path, FrozenFile]
) -> None:
    strict.attests = False
    once(strict, request_checksum_calculation="when_required").deliver(*thing, PLANNED_AT)
    path, _ = thing
    assert strict.objects[PATH] == path.read_bytes()
    assert not [name for name in strict.headers[PATH] if name.startswith("x-amz-checksum")]
    assert strict.read == 1


def test_a_server_that_attests_nothing_is_read_back(strict: StrictS3, thing: tuple[Path, FrozenFile]) -> None:
    strict.attests = False
    once(strict).deliver(*thing, PLANNED_AT)
    assert strict.read == 1


def test_the_stand_in_is_strict(strict: StrictS3, tmp_path: Path) -> None:
    """With what it is told wrongly it can't be pleased: else the tests here would prove little."""
    delivery = once(strict)
    client: Any = delivery._client()  # type: ignore[attr-defined]
    wrong = base64.b64encode(hashlib.sha256(b"others").digest()).decode()
    about: dict[str, Any] = {"Bucket": "inbound", "Key": "k", "Body": b"bytes", "ACL": "private"}
    for more, code in (
        ({"IfNoneMatch": "*", "ChecksumSHA256": wrong}, "BadDigest"),
        ({"IfNoneMatch": "*", "ContentMD5": base64.b64encode(bytes(16)).decode()}, "BadDigest"),
        ({"IfNoneMatch": "*"}, "InvalidRequest"),
        ({"ContentMD5": base64.b64encode(hashlib.md5(b"bytes").digest()).decode()}, "InvalidRequest"),  # noqa: S324
    ):
        with pytest.raises(client.exceptions.ClientError, match=code):
            client.put_object(**about, **more)
    assert strict.objects == {}


# --- what passes ------------------------------------------------------------------------------------------------------

PASSING = ["lose the answer", "cut", "SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "BadDigest"]


@pytest.mark.parametrize("fault", [*PASSING, "ConditionalRequestConflict"])
def test_passing_faults_of_a_put_are_tried_again(strict: StrictS3, tmp_path: Path, fault: str) -> None:
    strict.faults = [fault, fault]
    patient(strict).deliver(*frozen(tmp_path, b"some bytes"), PLANNED_AT)
    assert list(strict.objects.values()) == [b"some bytes"]
    assert strict.puts == (2 if fault == "lose the answer" else 3)


@pytest.mark.parametrize("fault", ["hang", "hang after storing"])
def test_a_server_that_answers_too_late_is_asked_again(
    strict: StrictS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(aws, "_ANSWER_SECONDS", 0.2)
    strict.faults = [fault]
    patient(strict).deliver(*frozen(tmp_path, b"some bytes"), PLANNED_AT)
    assert list(strict.objects.values()) == [b"some bytes"]
    assert strict.puts == 2


@pytest.mark.parametrize("fault", [fault for fault in PASSING if fault != "BadDigest"])
def test_after_a_passing_fault_only_that_part_goes_again(
    strict: StrictS3, parts: tuple[Path, FrozenFile], fault: str
) -> None:
    strict.faults = ["", fault]
    patient(strict).deliver(*parts, PLANNED_AT)
    assert strict.objects == {PATH: large()}
    assert (strict.puts, strict.begun) == (4, 1)


@pytest.mark.parametrize(
    ("fault", "begun"),
    [
        *(("lose the answer", 1), ("InternalError", 1), ("SlowDown", 1), ("fail in the answer", 1)),
        *(("ConditionalRequestConflict", 2), ("BadDigest", 2), ("InvalidPart", 2), ("NoSuchUpload", 2)),
    ],
)
def test_passing_faults_of_the_last_step(
    strict: StrictS3, parts: tuple[Path, FrozenFile], fault: str, begun: int
) -> None:
    strict.last_faults = [fault]
    patient(strict).deliver(*parts, PLANNED_AT)
    assert strict.objects == {PATH: large()}
    assert strict.begun == begun
    assert strict.uploads == {}
    assert [each.name for each in parts[0].parent.iterdir()] == [NAME]


@pytest.mark.parametrize("fault", ["SlowDown", "ConditionalRequestConflict", "cut"])
def test_what_does_not_pass_in_time_means_later(strict: StrictS3, thing: tuple[Path, FrozenFile], fault: str) -> None:
    strict.faults = [fault] * 1000
    strict.last_faults = [fault] * 1000
    with pytest.raises(DestinationUnavailable) as caught:
        patient(strict, seconds=0.2).deliver(*thing, PLANNED_AT)
    assert caught.value.exit_status == 75
    assert strict.objects == {}
    strict.faults, strict.last_faults = [], []
    once(strict).deliver(*thing, PLANNED_AT)
    assert list(strict.objects) == [PATH]


def test_only_the_courier_tries_again(strict: StrictS3, tmp_path: Path) -> None:
    strict.faults = ["SlowDown"] * 10
    with pytest.raises(DestinationUnavailable):
        once(strict).deliver(*frozen(tmp_path, b"some bytes"), PLANNED_AT)
    assert strict.puts == 1


# --- what does not pass -----------------------------------------------------------------------------------------------


def test_a_bucket_that_refuses_or_is_missing_names_the_mend(strict: StrictS3, thing: tuple[Path, FrozenFile]) -> None:
    strict.faults = ["AccessDenied"]
    with pytest.raises(DestinationRefused, match="AccessDenied") as caught:
        patient(strict).deliver(*thing, PLANNED_AT)
    assert "s3:PutObject" in caught.value.mend
    assert caught.value.exit_status == 2
    with pytest.raises(DestinationRefused, match="NoSuchBucket") as caught:
        patient(strict, bucket="another-bucket").deliver(*thing, PLANNED_AT)
    assert "bucket" in caught.value.mend


def test_without_credentials_the_mend_says_how_to_give_them(
    strict: StrictS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for changes in ({}, {"role_arn": ROLE}):
        with pytest.raises(DestinationRefused, match="credentials") as caught:
            once(strict, **changes).deliver(*frozen(tmp_path, b"some bytes"), PLANNED_AT)
        assert "AWS_ACCESS_KEY_ID" in caught.value.mend


def test_who_may_not_look_may_still_deliver(strict: StrictS3, thing: tuple[Path, FrozenFile]) -> None:
    strict.hidden = True
    delivery = once(strict)
    delivery.reach()
    delivery.deliver(*thing, PLANNED_AT)
    with pytest.raises(DestinationRefused, match="may not read it") as caught:
        delivery.deliver(*thing, PLANNED_AT)
    assert "s3:GetObject" in caught.value.mend


def test_who_comes_between_is_not_overwritten(strict: StrictS3, parts: tuple[Path, FrozenFile]) -> None:
    """Somebody puts the key while our parts are under way."""
    strict.last_faults = ["SlowDown"]
    with pytest.raises(DestinationUnavailable):
        once(strict).deliver(*parts, PLANNED_AT)
    strict.objects[PATH] = b"somebody else's"
    with pytest.raises(DeliveryConflict):
        once(strict).deliver(*parts, PLANNED_AT)
    assert strict.objects == {PATH: b"somebody else's"}
    assert strict.uploads == {}


def test_attested_checksums_tell_other_bytes_of_the_same_size(strict: StrictS3, parts: tuple[Path, FrozenFile]) -> None:
    once(strict).deliver(*parts, PLANNED_AT)
    once(strict).deliver(*parts, PLANNED_AT)
    strict.checksums[PATH]["x-amz-checksum-crc64nvme"] = base64.b64encode(bytes(8)).decode()
    with pytest.raises(DeliveryConflict):
        once(strict).deliver(*parts, PLANNED_AT)
    assert strict.read == 0


def test_a_file_of_an_earlier_version_has_no_crc(strict: StrictS3, parts: tuple[Path, FrozenFile]) -> None:
    path, file = parts
    file = replace(file, crc="")
    once(strict).deliver(path, file, PLANNED_AT)
    assert strict.objects.pop(PATH) == large()
    path.write_bytes(large()[:-1] + b"?")
    with pytest.raises(DestinationRefused, match="not the bytes that were frozen"):
        once(strict).deliver(path, file, PLANNED_AT)
    assert strict.objects == {}


# --- resuming ---------------------------------------------------------------------------------------------------------


def test_parts_that_are_there_are_not_sent_again(strict: StrictS3, parts: tuple[Path, FrozenFile]) -> None:
    strict.faults = ["", "", "hang"]
    kind = Kind(s3_table(strict.url), dict, lambda data: None)
    with kind.start(*parts) as process:
        try:
            assert strict.hanging.wait(60)
        finally:
            process.kill()
    assert process.wait(START_SECONDS) == -9
    assert strict.part_numbers == [1, 2]
    once(strict).deliver(*parts, PLANNED_AT)
    assert strict.part_numbers == [1, 2, 3]
    assert strict.objects == {PATH: large()}
    assert strict.begun == 1


def test_put_together_and_killed_before_the_answer(strict: StrictS3, parts: tuple[Path, FrozenFile]) -> None:
    strict.last_faults = ["hang after storing"]
    kind = Kind(s3_table(strict.url), dict, lambda data: None)
    with kind.start(*parts) as process:
        try:
            assert strict.hanging.wait(60)
        finally:
            process.kill()
    patient(strict).deliver(*parts, PLANNED_AT)
    assert strict.objects == {PATH: large()}
    assert strict.part_numbers == [1, 2, 3]


def test_what_was_begun_and_not_written_down_is_aborted(strict: StrictS3, parts: tuple[Path, FrozenFile]) -> None:
    client: Any = once(strict)._client()  # type: ignore[attr-defined]
    for key in (KEY, f"{KEY}.other"):
        client.create_multipart_upload(Bucket="inbound", Key=key, ACL="private")
    once(strict).deliver(*parts, PLANNED_AT)
    assert strict.aborted == ["upload-1"]
    assert list(strict.uploads) == ["upload-2"]


def test_what_was_written_down_and_is_gone_or_damaged_begins_anew(
    strict: StrictS3, parts: tuple[Path, FrozenFile]
) -> None:
    path, _ = parts
    strict.faults = ["", "SlowDown"]
    with pytest.raises(DestinationUnavailable):
        once(strict).deliver(*parts, PLANNED_AT)
    strict.uploads.clear()  # as a rule of the bucket would
    patient(strict).deliver(*parts, PLANNED_AT)
    assert (strict.objects.pop(PATH), strict.begun) == (large(), 2)
    path.with_name(f".{NAME}.upload").write_text("{half")
    once(strict).deliver(*parts, PLANNED_AT)
    assert strict.objects == {PATH: large()}


@pytest.mark.parametrize("changes", [{"part_megabytes": 7}, {"bucket": "other"}, {"prefix": "elsewhere/"}])
def test_what_was_written_down_of_another_place_or_size_is_not_used(
    strict: StrictS3, parts: tuple[Path, FrozenFile], changes: dict[str, Any]
) -> None:
    strict.buckets.add("other")
    strict.faults = ["", "SlowDown"]
    with pytest.raises(DestinationUnavailable):
        once(strict).deliver(*parts, PLANNED_AT)
    once(strict, **changes).deliver(*parts, PLANNED_AT)
    assert list(strict.objects.values()) == [large()]
    assert strict.begun == 2


def test_a_part_that_got_lost_at_the_server_is_noticed(strict: StrictS3, parts: tuple[Path, FrozenFile]) -> None:
    strict.last_faults = ["SlowDown"]
    with pytest.raises(DestinationUnavailable):
        once(strict).deliver(*parts, PLANNED_AT)
    (upload,) = strict.uploads.values()
    upload.parts[2] = upload.parts[2][:-1] + b"?"
    patient(strict).deliver(*parts, PLANNED_AT)
    assert strict.objects == {PATH: large()}


# --- roles and bandwidth ----------------------------------------------------------------------------------------------


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sts]:
    with sts() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
        yield server


def test_a_role_is_assumed_and_its_session_renewed(strict: StrictS3, tokens: Sts, tmp_path: Path) -> None:
    delivery = once(strict, role_arn=ROLE, external_id="ours")
    used = []
    for number in (1, 2):
        name = NAME.replace("12345", str(number))
        delivery.deliver(*frozen(tmp_path, b"some bytes", name), PLANNED_AT)
        used.append(strict.headers[PATH.replace("12345", str(number))]["authorization"])
    assert all("Credential=ROLE" in each for each in used)
    assert used[0].split("/")[0] != used[1].split("/")[0]  # sessions that end within minutes are renewed
    assert {(each["RoleArn"], each["ExternalId"]) for each in tokens.asked} == {(ROLE, "ours")}


def test_a_role_that_is_refused_names_the_mend(strict: StrictS3, tokens: Sts, tmp_path: Path) -> None:
    tokens.denies = True
    delivery = once(strict, role_arn=ROLE)
    for attempt in (delivery.reach, lambda: delivery.deliver(*frozen(tmp_path, b"some bytes"), PLANNED_AT)):
        with pytest.raises(DestinationRefused, match="AccessDenied") as caught:
            attempt()
        assert f"sts:AssumeRole {ROLE}" in caught.value.mend


def test_every_byte_is_counted_once_against_the_bandwidth(
    strict: StrictS3, thing: tuple[Path, FrozenFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(bandwidth.Bandwidth, "take", lambda _, count: taken.append(count))
    once(strict).deliver(*thing, PLANNED_AT)
    assert sum(taken) == thing[1].bytes
