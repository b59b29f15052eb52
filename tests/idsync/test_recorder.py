"""Group commit and spool on real SQLite stores; only when the store answers, and with what error, is played."""

import asyncio
import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from idsync import recorder
from idsync.errors import StoreMisconfigured, StoreUnavailable
from idsync.metrics import Metrics
from idsync.outcomes import Outcome
from idsync.recorder import Recorded, Recorder
from idsync.service import open_spool
from idsync.store import open_store
from idsync.store.base import Sync
from idsync.store.spool import Spool
from tests.idsync.samples import NOW, settings
from tests.servers import wait_until


def sync(number: int, seen: int = NOW) -> Sync:
    return Sync(12345, f"customer-{number}", f"{number:038}", "", seen)


class Played:
    """The SQLite store, but `record` waits while `gate` is shut, and raises `error` while there is one."""

    def __init__(self, base: Path) -> None:
        self._store = open_store(settings(base).store)
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.batches: list[list[Sync]] = []

    def record(self, syncs: Sequence[Sync]) -> list[str]:
        self.batches.append(list(syncs))
        assert self.gate.wait(30)
        if self.error:
            raise self.error
        return self._store.record(syncs)

    def check(self) -> None:
        if isinstance(self.error, StoreUnavailable):
            raise self.error

    def has(self, number: int) -> bool:
        return [device.uuid for device in self._store.devices(12345, f"customer-{number}", NOW)] == [f"{number:038}"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Played]:
    with closing(Played(tmp_path)) as store:
        yield store


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with closing(open_spool(settings(tmp_path))) as spool:
        yield spool


@contextmanager
def recording(store: Played, spool: Spool) -> Iterator[Recorder]:
    made = Recorder(store, spool, Metrics(settings().data_sources))
    try:
        yield made
    finally:
        store.gate.set()
        made.close()


@pytest.fixture
def writes(store: Played, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    monkeypatch.setattr(recorder, "_LOOK_SECONDS", 0.02)
    with recording(store, spool) as made:
        yield made


def until_empty(spool: Spool) -> None:
    wait_until(lambda: spool.waiting(NOW)[0] == 0, "emptying the spool")


# --- calls with several customers -----------------------------------------------------------------------------------


def named(number: int, uuid: int | None, fresh: int = 99) -> Sync:
    return Sync(12345, f"customer-{number}", None if uuid is None else f"{uuid:038}", f"{fresh:038}", NOW)


def uuids(store: Any, number: int) -> list[int]:
    return [int(device.uuid) for device in store.devices(12345, f"customer-{number}", NOW)]


def test_all_customers_of_a_call_get_its_uuid(writes: Recorder, store: Played) -> None:
    assert writes.record([named(1, 5), named(2, 5)]) == Recorded(Outcome.STORED, f"{5:038}")
    assert (uuids(store, 1), uuids(store, 2)) == ([5], [5])
    assert len(store.batches) == 1


def test_unknown_customers_of_a_call_get_one_fresh_uuid(writes: Recorder, store: Played) -> None:
    assert writes.record([named(1, None), named(2, None)]).uuid == f"{99:038}"
    assert (uuids(store, 1), uuids(store, 2)) == ([99], [99])


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 1, 3)])
def test_customers_of_a_call_get_the_device_seen_last(writes: Recorder, store: Played, order: Sequence[int]) -> None:
    store._store.record([sync(1, NOW - 50), sync(2, NOW - 20)])
    assert writes.record([named(number, None) for number in order]).uuid == f"{2:038}"
    assert (uuids(store, 1), uuids(store, 2), uuids(store, 3)) == ([2, 1], [2], [2])


def test_calls_of_every_kind_in_one_batch(writes: Recorder, store: Played) -> None:
    store._store.record([sync(2, NOW - 20)])
    calls = [
        *([named(1, None, 91), named(2, None, 91)], [named(3, 7)], [named(4, None, 94)]),
        *(
            [named(5, 8), named(6, 8)],
            [Sync(12345, "customer-7", None, "", NOW)],
            [named(8, None, 98), named(9, None, 98)],
        ),
    ]
    store.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(writes.record, [sync(0)])
        wait_until(lambda: len(store.batches) == 1, "the first batch")
        answers = [pool.submit(writes.record, call) for call in calls]
        wait_until(lambda: writes.waiting == len(calls), "all calls in the queue")
        store.gate.set()
        told = [answer.result(30) for answer in answers]
        assert first.result(30).outcome is Outcome.STORED
    assert [(each.outcome, int(each.uuid or 0)) for each in told] == [
        (Outcome.STORED, uuid) for uuid in (2, 7, 94, 8, 0, 98)
    ]
    found = [uuids(store, number) for number in range(1, 10)]
    assert found == [[2], [2], [7], [94], [8], [8], [], [98], [98]]
    assert len(store.batches) == 3  # the first; one for all; one for the customers whose UUID was settled in it


def test_several_customers_in_the_spool(writes: Recorder, store: Played, spool: Spool) -> None:
    store.error = StoreUnavailable("away")
    assert writes.record([named(1, None), named(2, None)]) == Recorded(Outcome.SPOOLED, f"{99:038}")
    store.error = None
    until_empty(spool)
    assert (uuids(store, 1), uuids(store, 2)) == ([99], [99])


# --- defects ---------------------------------------------------------------------------------------------------------


def test_a_store_that_answers_too_little_does_not_end_the_writer(writes: Recorder, store: Played) -> None:
    record = store.record
    store.record = lambda syncs: record(syncs)[1:]  # type: ignore[method-assign]
    assert writes.record([sync(1)]) == Recorded(Outcome.FAILED)
    store.record = record  # type: ignore[method-assign]
    assert writes.record([sync(2)]).outcome is Outcome.STORED


def test_a_call_after_the_end_is_refused(store: Played, spool: Spool) -> None:
    with recording(store, spool) as ended:
        pass
    assert ended.record([sync(1)]) == Recorded(Outcome.OVERLOADED)
    assert not store.has(1)


# --- group commit ----------------------------------------------------------------------------------------------------


def test_a_lone_call_is_written_at_once(writes: Recorder, store: Played) -> None:
    assert writes.record([sync(1)]) == Recorded(Outcome.STORED, f"{1:038}")
    assert store.has(1)
    assert store.batches == [[sync(1)]]


def test_calls_that_come_during_a_write_go_together(writes: Recorder, store: Played) -> None:
    store.gate.clear()
    with ThreadPoolExecutor(16) as pool:
        first = pool.submit(writes.record, [sync(0)])
        wait_until(lambda: len(store.batches) == 1, "the first batch")
        others = [pool.submit(writes.record, [sync(number)]) for number in range(1, 11)]
        wait_until(lambda: writes.waiting == 10, "ten calls in the queue")
        assert not any(future.done() for future in [first, *others])
        store.gate.set()
        answers = [future.result(30) for future in [first, *others]]
    assert answers == [Recorded(Outcome.STORED, f"{number:038}") for number in range(11)]
    assert [len(batch) for batch in store.batches] == [1, 10]


def test_calls_of_a_loop_go_together(writes: Recorder, store: Played) -> None:
    async def main() -> list[Recorded]:
        store.gate.clear()
        calls = [asyncio.ensure_future(writes.record_soon([sync(number)])) for number in range(100)]
        while writes.waiting < 99:
            await asyncio.sleep(0)
        assert not any(future.done() for future in calls)
        calls[50].cancel()
        store.gate.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(results.pop(50), asyncio.CancelledError)
        return [result for result in results if isinstance(result, Recorded)]

    answers = asyncio.run(main())
    assert {answer.uuid for answer in answers} == {f"{number:038}" for number in range(100) if number != 50}
    assert len(store.batches) <= 3
    assert all(store.has(number) for number in range(100))  # the one whose caller left, too


def test_a_full_queue_refuses(writes: Recorder, store: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "QUEUE_CALLS", 3)
    store.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        taken = [pool.submit(writes.record, [sync(0)])]
        wait_until(lambda: len(store.batches) == 1, "the first batch")
        taken += [pool.submit(writes.record, [sync(number)]) for number in range(1, 4)]
        wait_until(lambda: writes.waiting == 3, "three calls in the queue")
        assert writes.record([sync(9)]) == Recorded(Outcome.OVERLOADED)
        assert asyncio.run(writes.record_soon([sync(9)])) == Recorded(Outcome.OVERLOADED)
        store.gate.set()
        assert {future.result(30).outcome for future in taken} == {Outcome.STORED}
    assert not store.has(9)
    assert writes.record([sync(9)]).outcome is Outcome.STORED


def test_a_batch_has_a_limit(writes: Recorder, store: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "BATCH_CALLS", 4)
    store.gate.clear()
    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(writes.record, [sync(number)]) for number in range(10)]
        wait_until(lambda: writes.waiting + sum(map(len, store.batches)) == 10, "ten calls")
        store.gate.set()
        assert {future.result(30).outcome for future in futures} == {Outcome.STORED}
    assert max(len(batch) for batch in store.batches) == 4


def test_closing_writes_what_waits(store: Played, spool: Spool) -> None:
    with recording(store, spool) as writes, ThreadPoolExecutor(8) as pool:
        store.gate.clear()
        futures = [pool.submit(writes.record, [sync(number)]) for number in range(6)]
        wait_until(lambda: writes.waiting + sum(map(len, store.batches)) == 6, "six calls")
        closing_it = pool.submit(writes.close)
        store.gate.set()
        closing_it.result(30)
        assert {future.result(30).outcome for future in futures} == {Outcome.STORED}
        store.gate.set()
    assert all(store.has(number) for number in range(6))


def test_a_defect_costs_its_batch_only(writes: Recorder, store: Played, caplog: pytest.LogCaptureFixture) -> None:
    store.error = ValueError("customer-1")
    with caplog.at_level(logging.DEBUG):
        assert writes.record([sync(1)]) == Recorded(Outcome.FAILED)
    assert "ValueError" in caplog.text
    assert "customer-1" not in caplog.text
    store.error = None
    assert writes.record([sync(2)]).outcome is Outcome.STORED


# --- spool -----------------------------------------------------------------------------------------------------------

ERRORS = pytest.mark.parametrize("error", [StoreUnavailable("away"), StoreMisconfigured("other buckets")])


@ERRORS
def test_the_spool_takes_over_and_is_emptied(
    error: Exception, writes: Recorder, store: Played, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    store.error = error
    with caplog.at_level(logging.INFO):
        answers = [writes.record([sync(number)]) for number in range(5)]
        assert answers == [Recorded(Outcome.SPOOLED, f"{number:038}") for number in range(5)]
        assert spool.waiting(NOW)[0] == 5
        store.error = None
        until_empty(spool)
        wait_until(lambda: "The store is back" in caplog.text, "word of the store")
    assert all(store.has(number) for number in range(5))
    assert writes.record([sync(9)]).outcome is Outcome.STORED
    assert "calls go to the spool" in caplog.text


def test_no_call_asks_a_store_that_is_away(store: Played, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would wait for a time-out."""
    monkeypatch.setattr(recorder, "_LOOK_SECONDS", 60.0)
    with recording(store, spool) as writes:
        store.error = StoreUnavailable("away")
        for number in range(5):
            assert writes.record([sync(number)]).outcome is Outcome.SPOOLED
        # the drainer may have begun to look before the store went: what it tries begins with the oldest
        assert {batch[0].customer_id for batch in store.batches} == {"customer-0"}


def test_the_oldest_goes_first(store: Played, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(recorder, "_DRAIN_CALLS", 3)
    spool.record([sync(number, NOW - number) for number in range(7)])
    with recording(store, spool):
        until_empty(spool)
    assert [[entry.customer_id for entry in batch] for batch in store.batches] == [
        ["customer-6", "customer-5", "customer-4"],
        ["customer-3", "customer-2", "customer-1"],
        ["customer-0"],
    ]
    assert all(store.has(number) for number in range(7))


def test_a_full_spool_outlives_a_restart(store: Played, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_LOOK_SECONDS", 0.02)
    store.error = StoreUnavailable("away")
    with recording(store, spool) as writes:
        assert writes.record([sync(1)]).outcome is Outcome.SPOOLED
    assert spool.waiting(NOW)[0] == 1
    store.error = None
    with recording(store, spool):
        until_empty(spool)
    assert store.has(1)


def test_what_the_store_did_not_take_stays(writes: Recorder, store: Played, spool: Spool) -> None:
    store.error = StoreMisconfigured("takes nothing, though it answers")
    assert writes.record([sync(1)]).outcome is Outcome.SPOOLED
    wait_until(lambda: len(store.batches) > 3, "attempts to empty the spool")
    assert spool.waiting(NOW)[0] == 1
    store.error = None
    until_empty(spool)
    assert store.has(1)


def test_neither_store_nor_spool(store: Played, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    unusable = Spool(str(tmp_path / "file" / "spool.db"), 1, 1)
    with recording(store, unusable) as writes:
        store.error = StoreUnavailable("away")
        assert writes.record([sync(1)]) == Recorded(Outcome.STORE_UNAVAILABLE)
        store.error = None


def test_one_process_empties(spool: Spool, tmp_path: Path) -> None:
    with closing(open_spool(settings(tmp_path))) as other:
        with spool.emptying() as first, other.emptying() as second:
            assert (first, second) == (True, False)
        with other.emptying() as third:
            assert third is True


def test_a_pair_synced_again_meanwhile_stays(spool: Spool) -> None:
    spool.record([sync(1), sync(2)])
    taken = spool.oldest(10)
    spool.record([sync(1, NOW + 1)])
    spool.taken(taken)
    assert spool.oldest(10) == [sync(1, NOW + 1)]


def test_the_age_of_the_spool(spool: Spool) -> None:
    assert spool.waiting(NOW) == (0, 0.0, 0)
    spool.record([sync(1, NOW - 2_500), sync(2, NOW)])
    assert spool.waiting(NOW) == (2, 2.5, 0)
    assert spool.waiting(NOW - 10_000) == (2, 0.0, 0)  # the clock was set back
