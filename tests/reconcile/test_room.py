"""Room on disk is looked at before a run begins."""

from pathlib import Path

import pytest

from reconcile import room
from reconcile.errors import StateUnavailable
from tests.reconcile.samples import World, uuid

GB = 10**9
HUNDRED_MILLION = 100_000_000


def test_what_was_measured_is_covered_and_not_by_far() -> None:
    """100 million records and mappings: 24.0 GB were spilled, 2.3 GB frozen and held."""
    need = room.needed(4_316_645_640, HUNDRED_MILLION, 2_500_000_000, plain=False)
    assert 26.3 * GB < need < 1.3 * 26.3 * GB


@pytest.mark.parametrize(
    ("text", "mappings", "memory", "plain", "need"),
    [
        (0, 0, GB, False, 0),
        (1000, 10, GB, False, 1000),  # all of it fits the memory
        (1000, 10, GB, True, 3000),
        (GB, 0, GB, False, 4 * GB),
        (0, HUNDRED_MILLION, GB, False, 9 * GB),
    ],
)
def test_what_a_run_needs(text: int, mappings: int, memory: int, plain: bool, need: int) -> None:
    assert room.needed(text, mappings, memory, plain=plain) == need


def test_packed_files_hold_more_than_their_size() -> None:
    assert room.unpacked([("a.csv", 5), ("b.CSV.GZ", 10), ("c.parquet", 100), ("d.jsonl", 1)]) == 5 + 60 + 400 + 1


@pytest.mark.parametrize(
    ("text", "size"), [("1300MB", 1_300_000_000), ("2 GB", 2_000_000_000), ("1MiB", 2**20), ("3 GiB", 3 * 2**30)]
)
def test_sizes_of_memory(text: str, size: int) -> None:
    assert room.size_of(text) == size


def test_without_a_run_before_there_may_be_a_mapping_for_each_record(tmp_path: Path) -> None:
    files = [("a.csv", 10**15)]  # more than any disk here has
    with pytest.raises(StateUnavailable, match=r"may need [0-9,.]+ GB of disk under .*free") as without:
        room.check(tmp_path, files, mappings=None, memory_limit="1GB", plain=False)
    with pytest.raises(StateUnavailable) as known:
        room.check(tmp_path, files, mappings=0, memory_limit="1GB", plain=False)
    assert "7,499,999.0 GB" in without.value.problem
    assert "4,999,999.0 GB" in known.value.problem
    room.check(tmp_path, [("a.csv", 10**6)], mappings=None, memory_limit="1GB", plain=False)


def test_a_run_without_room_leaves_no_trace_and_the_next_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    world.sync(("a", uuid(1)))
    world.put("1.csv", [("a", "f", "gold", "24")])
    with monkeypatch.context() as larger:
        larger.setattr(room, "_FROZEN_PER_BYTE", 10**15)
        with pytest.raises(StateUnavailable) as raised:
            world.run()
        assert raised.value.exit_status == 75
        assert "disk_check" in raised.value.mend
        assert not list(world.state.glob("runs/*"))
        world.feed += "[reconcile]\ndisk_check = false\n"
        assert world.run().status == "delivered"
