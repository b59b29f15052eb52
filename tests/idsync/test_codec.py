"""The bytes of a mapping in Redis: what goes in comes out, and the buckets are where they have always been."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idsync.store import codec
from idsync.store.base import Device

devices = st.builds(
    Device,
    uuid=st.integers(0, 10**38 - 1).map(lambda number: str(number).zfill(38)) | st.just("9" * 38) | st.just("0" * 38),
    last_seen=st.integers(0, 2 ** (8 * codec.TIME_BYTES) - 1),
)


def packed(device: Device) -> bytes:
    return codec.pack_time(device.last_seen) + codec.pack_uuid(device.uuid)


@given(st.lists(devices))
def test_devices_come_out_as_they_went_in(held: list[Device]) -> None:
    value = b"".join(map(packed, held))
    assert len(value) == codec.ENTRY_BYTES * len(held)
    assert codec.unpack_devices(value) == held
    assert codec.unpack_times(value).tolist() == [device.last_seen for device in held]
    uuids = codec.unpack_uuids(value)
    uuids.validate(full=True)
    assert uuids.to_pylist() == [device.uuid for device in held]


@given(devices, devices)
def test_bytes_are_ordered_as_times_then_uuids(one: Device, other: Device) -> None:
    """The scripts compare bytes."""
    assert (packed(one) < packed(other)) == ((one.last_seen, one.uuid) < (other.last_seen, other.uuid))


def test_a_time_before_the_epoch_is_the_epoch() -> None:
    assert codec.pack_time(-1) == codec.pack_time(0) == bytes(6)


@pytest.mark.parametrize(
    ("customer_id", "buckets", "bucket"),
    [("123456789", 2**32, 0xCBF43926), ("123456789", 32_768, 14_630), ("", 64, 0), ("é", 64, 62)],
)
def test_buckets_never_move(customer_id: str, buckets: int, bucket: int) -> None:
    """A customer is looked for where an earlier version put it: CRC-32 as in zlib, of the UTF-8 bytes."""
    assert codec.bucket_of(customer_id.encode(), buckets) == bucket


def test_the_key_of_a_bucket() -> None:
    assert codec.bucket_key(12345, 7) == "ids:12345:7"
