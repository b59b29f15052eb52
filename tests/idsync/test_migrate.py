"""`migrate`: from any store to any other, while both are in use, without losing a call."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest

from idsync import migrate, settings
from idsync.service import milliseconds_now
from idsync.store import DAY, open_store
from idsync.store.base import OPTED_OUT, MappingStore, Sync
from idsync.store.optouts import OptOut
from tests.endpoint import run_idsync, serving
from tests.idsync.samples import UUID, configuration
from tests.servers import RedisServer

NOW = 1_795_491_420_123
KINDS = ("sqlite", "redis", "cluster")


@pytest.fixture
def urls(tmp_path: Path, shared_redis: RedisServer, shared_cluster: list[RedisServer]) -> dict[str, str]:
    for server in (shared_redis, *shared_cluster):
        with server.client() as client:
            client.flushall()
    return {
        "sqlite": f"sqlite:///{tmp_path}/old.db",
        "redis": shared_redis.url,
        "cluster": f"redis+cluster://127.0.0.1:{shared_cluster[0].port}",
        "other": f"sqlite:///{tmp_path}/new.db",
    }


def opened(url: str, **changes: object) -> MappingStore:
    return open_store(settings.Store(url=url, buckets=64).model_copy(update=changes))


def filled(store: MappingStore) -> None:
    syncs = [Sync(12345, f"c{number % 900}", f"{number:038}", "", NOW - number) for number in range(2_000)]
    store.record(syncs + [Sync(777, f"é {number}", UUID, "", NOW) for number in range(300)])
    store.record([Sync(12345, "old", UUID, "", NOW - 121 * DAY), Sync(0, UUID, UUID, "", NOW)])
    store.opt_out(OptOut(((12345, "c7"), (12345, "nobody")), (f"{8:038}",), NOW, takes_devices=True))


def rows(store: MappingStore, dpid: int) -> list[tuple[str, str, int]]:
    batches = store.export(dpid, NOW)
    return sorted(
        row for batch in batches for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)
    )


@pytest.mark.parametrize(("old", "new"), [(old, new) for old in KINDS for new in (*KINDS, "other") if old != new])
def test_everything_arrives_and_twice_is_once(urls: dict[str, str], old: str, new: str) -> None:
    with closing(opened(urls[old])) as source, closing(opened(urls[new])) as target:
        filled(source)
        for _ in range(2):
            copied = migrate.migrate(source, target, NOW)
            assert {dpid: each.mappings for dpid, each in copied.items()} == {0: 1, 777: 300, 12345: 1_996}
            assert {each.missing for each in copied.values()} == {each.refused for each in copied.values()} == {0}
            assert all(each.checksum == each.target_checksum for each in copied.values())
            assert len({each.checksum for each in copied.values()}) == 3
            assert target.count(NOW) == source.count(NOW)
            for dpid in (0, 777, 12345):
                assert rows(target, dpid) == rows(source, dpid)
            assert target.tokens() == source.tokens()
        told = target.record([Sync(12345, "c7", UUID, "", NOW), Sync(12345, "x", f"{8:038}", "", NOW)])
        assert told == [OPTED_OUT, OPTED_OUT]
        assert target.opt_in([(12345, "c7")], []) == 2  # with the device that went along


def test_an_opt_out_of_the_target_stands(urls: dict[str, str]) -> None:
    with closing(opened(urls["sqlite"])) as source, closing(opened(urls["redis"])) as target:
        source.record([Sync(12345, "a", UUID, "", NOW), Sync(12345, "b", f"{5:038}", "", NOW)])
        target.opt_out(OptOut(((12345, "a"),), (), NOW, takes_devices=True))
        copied = migrate.migrate(source, target, NOW)[12345]
        assert (copied.mappings, copied.refused, copied.missing) == (2, 1, 0)
        assert copied.checksum == copied.target_checksum
        assert target.devices(12345, "a", NOW) == []


def test_an_opt_out_of_the_source_ends_what_the_target_holds(urls: dict[str, str]) -> None:
    with closing(opened(urls["sqlite"])) as source, closing(opened(urls["redis"])) as target:
        target.record([Sync(12345, "a", UUID, "", NOW), Sync(12345, "b", f"{5:038}", "", NOW)])
        source.opt_out(OptOut(((12345, "a"),), (), NOW, takes_devices=True))
        migrate.migrate(source, target, NOW)
        assert target.devices(12345, "a", NOW) == []
        assert rows(target, 12345) == [("b", f"{5:038}", NOW)]


def test_a_later_time_in_the_target_stays(urls: dict[str, str]) -> None:
    with closing(opened(urls["sqlite"])) as source, closing(opened(urls["redis"])) as target:
        source.record([Sync(12345, "a", UUID, "", NOW - 9)])
        target.record([Sync(12345, "a", UUID, "", NOW - 1)])
        assert migrate.migrate(source, target, NOW)[12345].missing == 0
        assert target.devices(12345, "a", NOW)[0].last_seen == NOW - 1


def test_what_the_target_drops_is_missing(urls: dict[str, str]) -> None:
    with closing(opened(urls["sqlite"])) as source, closing(opened(urls["redis"], devices_per_customer=2)) as target:
        source.record([Sync(12345, "a", f"{number:038}", "", NOW - number) for number in range(5)])
        copied = migrate.migrate(source, target, NOW)[12345]
        assert (copied.mappings, copied.missing) == (5, 3)
        assert copied.checksum != copied.target_checksum


# --- as a command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "idsync.toml"
    path.write_text(configuration().replace("sqlite:///idsync.db", "sqlite:///old.db"))
    return path


def test_a_site_moves_while_it_is_called(urls: dict[str, str], path: Path, tmp_path: Path) -> None:
    """Visitors call without a pause; what they were told is in the new store, as they were told it."""
    told: dict[str, str] = {}
    new_path = tmp_path / "new.toml"
    moved = path.read_text().replace("sqlite:///old.db", urls["redis"])
    new_path.write_text(moved.replace("[endpoint]", '[endpoint]\nspool = "new-spool.db"'))
    ports, ended = [0], Event()

    def visit(visitor: int) -> None:
        for number in range(100_000):
            if ended.is_set():
                return
            customer = f"c-{visitor}-{number}"
            answer = endpoints[ports[0]].get(f"/sync?dpid=12345&dpuuid={customer}&d_rtbd=json")
            document = json.loads(answer.body)
            assert (answer.status, document["stored"]) == (200, 1)
            told[customer] = document["uuid"]

    with serving(path, "--workers", "2") as old, serving(new_path, "--workers", "2") as new:
        endpoints = [old, new]
        with ThreadPoolExecutor(3) as pool:
            visitors = [pool.submit(visit, visitor) for visitor in range(3)]
            first = run_idsync("migrate", urls["sqlite"], urls["redis"], "--config", path)
            ports[0] = 1
            enough = len(told) + 300
            while len(told) < enough and not any(visitor.done() for visitor in visitors):
                ended.wait(0.01)
            ended.set()
            for visitor in visitors:
                visitor.result()
        old.stop()
        second = run_idsync("migrate", urls["sqlite"], urls["redis"], "--config", path)
    assert (first.returncode, second.returncode, second.stderr) == (0, 0, "")
    document = json.loads(second.stdout)
    assert document["missing"] == 0
    assert [row["name"] for row in document["data_sources"]] == ["crm"]
    with closing(opened(urls["redis"], buckets=16_384)) as store:
        found = store.latest([(12345, customer) for customer in told], milliseconds_now())
    assert {customer: device.uuid for customer, device in zip(told, found, strict=True) if device} == told


def test_what_is_missing_is_told(urls: dict[str, str], path: Path) -> None:
    with closing(opened(urls["sqlite"])) as source:
        source.record([Sync(12345, "a", f"{number:038}", "", milliseconds_now() - number) for number in range(5)])
    path.write_text(path.read_text().replace("[endpoint]", "devices_per_customer = 2\n[endpoint]"))
    done = run_idsync("migrate", urls["sqlite"], urls["other"], "--config", path)
    assert done.returncode == 1
    assert json.loads(done.stdout)["missing"] == 3
    assert "lacks 3 mappings" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["sqlite:///old.db", "sqlite:///old.db"], 2, "are one store"),
        (["sqlite:///old.db", "mysql://x"], 2, "must start with sqlite:///"),
        (["sqlite:///old.db", "env:NOWHERE"], 2, "no environment variable NOWHERE"),
        (["sqlite:///old.db", "env:TARGET"], 75, "127.0.0.1:1"),
        (["sqlite:///old.db"], 2, "Missing argument"),
    ],
)
def test_where_nothing_can_be_copied(
    path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], status: int, said: str
) -> None:
    monkeypatch.setenv("TARGET", "redis://someone:hunter2@127.0.0.1:1/0")
    done = run_idsync("migrate", *arguments, "--config", path)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr
