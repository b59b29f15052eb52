"""Why records did not match, on stores as they are."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import pyarrow as pa
import pytest
from pyarrow import parquet

from idsync.errors import StoreUnavailable
from idsync.store import DAY, open_store
from idsync.store.base import EXPORT_SCHEMA, MappingStore
from reconcile import join as joining
from reconcile.why import Diagnosis, Undiagnosed, diagnose, explain, search
from tests.reconcile.samples import NOW, SIGNALS, World, uuid
from tests.reconcile.unmatched import counted, know, look, world
from tests.servers import RedisServer

# --- the very ID, elsewhere or at another time -----------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "redis"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    if request.param == "sqlite":
        return world(tmp_path)
    server: RedisServer = request.getfixturevalue("shared_redis")
    with server.client() as client:
        client.flushall()
    return world(tmp_path, server.url)


def test_what_has_expired_is_told_until_it_is_swept(either: World) -> None:
    know(either, "old", seen=NOW - 120 * DAY - 10)
    know(either, "young", "OLD", seen=NOW - 120 * DAY + 10)
    records = ["old", "old", "young", "none"]
    assert counted(look(either, records)) == {"expired": 2, "synced-since": 1}
    with closing(open_store(either.settings.store)) as store:
        assert store.sweep(NOW) == 1
    assert counted(look(either, records)) == {"case": 2, "synced-since": 1}  # its like is still there


def test_an_opted_out_device_does_not_count_as_expired(either: World) -> None:
    know(either, "old", seen=NOW - 121 * DAY)
    either.opt_out(devices=[uuid(1)])
    assert counted(look(either, ["old"])) == {}


def test_customers_of_earlier_runs_whom_the_store_has_forgotten(tmp_path: Path) -> None:
    there = world(tmp_path)
    know(there, "known")
    before = tmp_path / "customer_id=1" / "before.parquet"
    before.parent.mkdir()
    parquet.write_table(pa.table({"seen": [1, 2, 3, 4], "customer_id": ["gone", "known", "gone", "x"]}), before)
    found = look(there, ["gone", "known", "other"], matched_before=before)
    assert counted(found) == {"matched-before": 1, "synced-since": 1}


def test_the_same_id_under_another_data_source(either: World) -> None:
    know(either, "a", "b", dpid=777)
    know(either, "b", "c", dpid=888)
    know(either, "gone", dpid=888, seen=NOW - 121 * DAY)
    know(either, "nobody", dpid=999)  # not in the configuration
    found = look(either, ["a", "b", "c", "c", "gone", "nobody"])
    told = {(finding.data_source, finding.records, finding.ambiguous) for finding in found.findings}
    assert told == {("web", 2, 1), ("app", 2, 0)}
    assert {finding.rule for finding in found.findings} == {"other-source"}


def test_the_store_is_not_read_whole_where_that_tells_nothing(tmp_path: Path) -> None:
    there = world(tmp_path)
    know(there, "a", "b")
    assert look(there, ["a"]).compared == 0
    assert look(there, []) == Diagnosis("crm", 0, 0, 0, 0, (), 0)
    assert look(there, ["c"]).compared == 2


class _Late:
    """A store in which the ID was recorded between one look and the next."""

    def export(self, dpid: int, now: int, **options: object) -> Iterator[pa.RecordBatch]:
        if "customer_ids" not in options:
            yield pa.RecordBatch.from_pylist([{"customer_id": "a", "uuid": uuid(1), "last_seen": now}], EXPORT_SCHEMA)


def test_an_id_that_is_synced_between_two_looks_is_no_case_for_a_rule(tmp_path: Path) -> None:
    there = world(tmp_path)
    batches = [pa.record_batch({"id": ["a", "A"]})]
    found = diagnose(
        batches,
        cast(MappingStore, _Late()),
        there.settings,
        there.settings.data_sources[0],
        NOW,
        scratch=tmp_path,
        memory_limit="100MB",
    )
    assert counted(found) == {"synced-since": 1, "case": 1}


def test_an_unreachable_store_is_told_as_such(tmp_path: Path) -> None:
    there = world(tmp_path)
    (tmp_path / "idsync.db").mkdir()
    with pytest.raises(StoreUnavailable):
        look(there, ["a"])


def test_a_scratch_folder_without_room_is_told_as_such(tmp_path: Path) -> None:
    there = world(tmp_path)
    know(there, "a")
    with sqlite3.connect(tmp_path / "idsync.db") as db:
        rows = ((12345, f"CUSTOMER-{number:0>300}", uuid(number), NOW) for number in range(20_000))
        db.executemany("INSERT INTO mappings VALUES (?, ?, ?, ?)", rows)
    db.close()
    blocked = tmp_path / "scratch"
    blocked.write_text("no folder")
    with (
        closing(open_store(there.settings.store)) as store,
        pytest.raises(Undiagnosed, match="ran out of memory") as told,
    ):
        diagnose(
            [pa.record_batch({"id": ["nobody"]})],
            store,
            there.settings,
            there.settings.data_sources[0],
            NOW,
            scratch=blocked,
            memory_limit="4MB",
        )
    assert "memory_limit" in told.value.mend


# --- among all customers, or by their spelling ------------------------------------------------------------------------

USUAL = [
    ("USER-1", "user-1", "case"),
    ("user-2", "USER-2", "case"),
    ("ada-lovelace", "Ada-Lovelace", "case"),
    (" user-3", "user-3", "blanks"),
    ("0042", "42", "zeros"),
    ("43", "0000043", "zeros"),
    ("e\u0301-1", "\u00e9-1", "nfc"),
    ("\u00e9-2", "e\u0301-2", "nfc"),
    ("\uff14\uff15\uff16", "456", "nfkc"),
    ("a%20b", "a b", "percent"),
    ("a/c", "a%2Fc", "percent"),
    ("M%C3%BCLLER", "m\u00fcller", "case+percent"),
    ("CRM-7", "u7", "affix"),
    ("CRM-8", "u8", "affix"),
]


def test_of_many_customers_usual_spellings_are_found(either: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "FEW_CUSTOMERS", 0)
    know(either, *(mapping for _, mapping, _ in USUAL), "0000099", "mIxEd", *(f"u{number}" for number in range(100)))
    records = [record for record, _, _ in USUAL]
    found = look(either, [*records, "MiXeD"])
    told = {pair.record: (pair.mapping, finding.rule) for finding in found.findings for pair in finding.samples}
    assert told == {record: (mapping, rule) for record, mapping, rule in USUAL}
    assert (found.compared, found.unexplained) == (0, 1)
    assert found.spellings > 100
    assert "A dry run compares" in explain(found)[-1]
    assert counted(look(either, ["MiXeD"], thorough=True)) == {"case": 1}


def test_more_than_a_run_may_spell_are_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "FEW_CUSTOMERS", 0)
    monkeypatch.setattr(search, "SPELLED_IDS", 10)
    there = world(tmp_path)
    know(there, "user")
    found = look(there, [f"other-{number}" for number in range(30)], sample_ids=None)
    assert (found.unmatched, found.ids, found.sampled) == (30, 10, True)
    assert look(there, [f"other-{number}" for number in range(30)], sample_ids=None, thorough=True).ids == 30


@pytest.mark.parametrize("all_read", [True, False])
def test_a_run_that_has_read_all_mappings_asks_the_store_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_read: bool
) -> None:
    monkeypatch.setattr(search, "FEW_CUSTOMERS", 0)
    monkeypatch.setattr(joining, "SUBSET_CUSTOMERS", 0 if all_read else 10)
    there = World(tmp_path, feed=f'{SIGNALS}devices = "all"\n')
    know(there, "mIxEd", "user-2")
    there.sync(("mIxEd", uuid(7)))
    there.put("a.csv", [("MiXeD", "f", "", ""), ("user-2", "f", "", "")])
    why = there.run().why
    assert (why["compared"], [finding["rule"] for finding in why["findings"]]) == (2 * all_read, ["case"] * all_read)
    assert (why["spellings"] > 0) is not all_read


# --- samples ---------------------------------------------------------------------------------------------------------


def test_of_too_many_a_sample_is_taken_always_the_same(tmp_path: Path) -> None:
    there = world(tmp_path)
    know(there, *(f"user-{number}" for number in range(0, 4000, 2)))
    records = [f"USER-{number}" for number in range(4000) for _ in range(1 + number % 3)]
    found = look(there, records, sample_ids=500, batch=700)
    assert (found.unmatched, found.ids, found.sampled) == (len(records), 500, True)
    assert found.examined == sum(finding.examined for finding in found.findings) + round(
        found.unexplained * found.examined / found.unmatched
    )
    (case,) = found.findings
    assert case.examined < case.records
    assert 0.4 < case.records / found.unmatched < 0.6
    again = look(there, records[::-1], sample_ids=500, batch=333)
    assert again.as_dict(reveal=True) == found.as_dict(reveal=True)
    whole = look(there, records, sample_ids=4000)
    assert (whole.sampled, whole.ids) == (False, 4000)
    assert counted(whole) == {"case": sum(1 + number % 3 for number in range(0, 4000, 2))}


def test_an_id_in_the_sample_counts_with_all_its_records(tmp_path: Path) -> None:
    """However the batches fall, and whatever is thinned out between them."""
    there = world(tmp_path)
    know(there, *(f"user-{number}" for number in range(300)))
    records = [f"USER-{number}" for _ in range(5) for number in range(300)]
    found = look(there, records, sample_ids=20, batch=100)
    assert (found.examined, found.ids) == (100, 20)
