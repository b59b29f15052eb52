"""`lookup`, `opt-out`, `opt-in` and `erase`: of a customer, a device, or all in a file."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from idsync import config
from idsync.service import milliseconds_now, open_spool
from idsync.store import open_store
from idsync.store.base import OPTED_OUT, MappingStore, Sync
from idsync.store.optouts import OptOut
from tests.endpoint import run_idsync
from tests.idsync.samples import OTHER_UUID, UUID, configuration
from tests.idsync.test_command_line import answer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """a has two devices, UUID the latest, which b has too; c another."""
    path = tmp_path / "idsync.toml"
    path.write_text(configuration())
    now = milliseconds_now()
    with closing(opened(path)) as store:
        store.record([Sync(12345, "a", OTHER_UUID, "", now - 9), Sync(12345, "a", UUID, "", now - 5)])
        store.record([Sync(12345, "b", UUID, "", now), Sync(777, "c", OTHER_UUID, "", now)])
    return path


def opened(path: Path) -> MappingStore:
    return open_store(config.load(path).store)


def record(path: Path, dpid: int, customer_id: str, uuid: str) -> str:
    with closing(opened(path)) as store:
        return store.record([Sync(dpid, customer_id, uuid, "", milliseconds_now())])[0]


def test_opt_out_of_a_customer(path: Path) -> None:
    told = answer("opt-out", "acme-crm", "a", "--config", path)
    assert told == {"data_source": "crm", "dpid": 12345, "customer_id": "a", "opted_out": 1, "mappings_removed": 2}
    found = answer("lookup", "crm", "a", "--config", path)
    assert found["devices"] == []
    assert found["opted_out"].endswith("Z")
    assert record(path, 12345, "a", OTHER_UUID) == record(path, 777, "c", UUID) == OPTED_OUT
    assert record(path, 777, "c", OTHER_UUID) == OTHER_UUID


def test_opt_in_of_a_customer(path: Path) -> None:
    answer("opt-out", "crm", "a", "--config", path)
    told = answer("opt-in", "12345", "a", "--config", path)
    assert told == {"data_source": "crm", "dpid": 12345, "customer_id": "a", "opted_in": 2}
    assert answer("lookup", "crm", "a", "--config", path)["opted_out"] is None
    assert record(path, 12345, "a", UUID) == UUID
    assert answer("opt-in", "12345", "a", "--config", path)["opted_in"] == 0


def test_opt_out_and_opt_in_of_a_device(path: Path) -> None:
    told = answer("opt-out", "--uuid", UUID, "--config", path)
    assert told == {"uuid": UUID, "opted_out": 1, "mappings_removed": 2}
    assert [device["uuid"] for device in answer("lookup", "crm", "a", "--config", path)["devices"]] == [OTHER_UUID]
    assert record(path, 12345, "b", UUID) == OPTED_OUT
    assert answer("opt-in", "--uuid", UUID, "--config", path) == {"uuid": UUID, "opted_in": 1}
    assert record(path, 12345, "b", UUID) == UUID


def test_lookup_of_a_device(path: Path) -> None:
    found = answer("lookup", "--uuid", UUID, "--config", path)
    customers = [{"data_source": "crm", "dpid": 12345, "customer_id": each} for each in "ab"]
    assert found == {"uuid": UUID, "customers": customers, "opted_out": None, "spooled": 0, "job": None}


def test_lookup_tells_what_waits_in_the_spool(path: Path) -> None:
    with closing(open_spool(config.load(path))) as spool:
        spool.record([Sync(12345, "z", UUID, "", milliseconds_now())])
    assert answer("lookup", "crm", "z", "--config", path)["spooled"] == 1
    assert answer("lookup", "--uuid", UUID, "--config", path)["spooled"] == 1


def test_erase_removes_and_leaves_an_opt_out(path: Path) -> None:
    with closing(open_spool(config.load(path))) as spool:
        spool.record([Sync(12345, "a", UUID, "", milliseconds_now()), Sync(12345, "y", UUID, "", milliseconds_now())])
        spool.opt_out(OptOut(((12345, "other"),), (), milliseconds_now(), takes_devices=True))
    told = answer("erase", "crm", "a", "--config", path)
    assert told == {
        "data_source": "crm",
        "dpid": 12345,
        "customer_id": "a",
        "mappings_removed": 2,
        "spooled_removed": 1,
        "opted_out": True,
        "store_scrubbed": True,
        "job": None,
    }
    assert record(path, 12345, "a", OTHER_UUID) == OPTED_OUT
    with closing(open_spool(config.load(path))) as spool:
        assert [sync.customer_id for sync in spool.oldest(9)] == ["y"]
        assert spool.waiting(0).opt_outs == 1
    assert answer("erase", "crm", "a", "--config", path)["mappings_removed"] == 0


def test_erase_of_a_device(path: Path) -> None:
    told = answer("erase", "--uuid", UUID, "--config", path)
    assert (told["mappings_removed"], told["opted_out"]) == (2, True)
    with closing(opened(path)) as store:
        assert store.find([UUID]) == []
    assert record(path, 12345, "b", UUID) == OPTED_OUT
    assert record(path, 12345, "b", OTHER_UUID) == OTHER_UUID


def people(told: Any) -> list[tuple[str, int]]:
    return [(each.get("customer_id") or each["uuid"], each["mappings_removed"]) for each in told["people"]]


def test_a_file_of_requests(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "requests.csv"
    file.write_text(f'\ufeffdata_source,customer_id,uuid\ncrm,a,\n777,"c",\n,,{UUID}\ncrm,a,\ncrm,stranger,\n')
    assert [each["opted_out"] for each in answer("lookup", "--csv", file, "--config", path)["people"]] == [None] * 4
    told = answer("erase", "--csv", file, "--config", path)
    assert people(told) == [("a", 2), ("c", 1), (UUID, 1), ("stranger", 0)]
    assert all(each["opted_out"] for each in answer("lookup", "--csv", file, "--config", path)["people"])
    assert answer("opt-in", "--csv", file, "--config", path) == {"opted_in": 4 + 1}  # c's device, on another account


def test_a_file_on_standard_input(path: Path) -> None:
    done = run_idsync("opt-out", "--csv", "-", "--config", path, stdin="data_source,customer_id\ncrm,a\nshop,c\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == '{"opted_out": 2, "mappings_removed": 3}\n'


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "the first line must name columns"),
        (b"data_source,customer_id,name\ncrm,a,b\n", "and no others"),
        (b"data_source,customer_id\ncrm,a\ncrn,secret\ncrm,\n", 'line 3: there is no data source "crn"; line 4: give'),
        (b"uuid,data_source,uuid\n", "each once"),
        (b"data_source,customer_id\ncrm,a,secret\n", "line 2: there are more values than columns"),
        (b'data_source,customer_id\ncrm,a\ncrm,"a"secret\n', "line 3: its quotes do not match"),
        (b'data_source,customer_id\ncrm,"a\ncrm,b\n', "line 3: its quotes do not match"),
        (b"data_source,customer_id\ncrm," + b"a" * 200_000 + b"\n", "line 2: its quotes do not match, or a value is"),
        (b"uuid\n123\n", "line 2: --uuid must be 38 decimal digits"),
        (b"data_source,customer_id,uuid\ncrm,a," + UUID.encode() + b"\n", "line 2: give data_source and customer_id"),
        (b"uuid\n\xff\n", "not UTF-8"),
    ],
)
def test_a_file_with_faults_does_nothing(path: Path, tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "requests.csv"
    file.write_bytes(content)
    done = run_idsync("erase", "--csv", file, "--config", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert "secret" not in done.stderr
    with closing(opened(path)) as store:
        assert store.opt_outs() == {}


def test_who_can_not_be_stored_can_be_asked_for_but_not_opted_out(path: Path, tmp_path: Path) -> None:
    """Such an ID may stand among rejects; of an opt-out it is a slip of the hand."""
    file = tmp_path / "requests.csv"
    file.write_bytes(b"\xef\xbb\xbfdata_source,customer_id\r\ncrm,secret@example.com\r\n")
    for command in ("opt-out", "opt-in"):
        for who, told in ((("crm", "a:b"), "holds ':'"), (("--csv", file), "line 2: the customer ID holds an e-mail")):
            done = run_idsync(command, *who, "--config", path)
            assert (done.returncode, done.stdout) == (2, "")
            assert told in done.stderr
            assert "secret" not in done.stderr
    for command in ("lookup", "erase"):
        assert answer(command, "crm", "a:b", "--config", path)["customer_id"] == "a:b"
        done = run_idsync(command, "--csv", "-", "--config", path, stdin=file.read_bytes().decode())
        assert (done.returncode, done.stderr) == (0, "")
        assert '"customer_id": "secret@example.com"' in done.stdout
    assert run_idsync("erase", "crm", "", "--config", path).returncode == 2


@pytest.mark.parametrize("command", ["lookup", "erase"])
def test_an_id_that_is_not_utf8(path: Path, command: str) -> None:
    done = run_idsync(command, "crm", b"secret\xff", "--config", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "not valid UTF-8" in done.stderr
    assert "secret" not in done.stderr


def test_a_file_that_is_not_there(path: Path, tmp_path: Path) -> None:
    done = run_idsync("erase", "--csv", tmp_path / "none.csv", "--config", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "No such file" in done.stderr
