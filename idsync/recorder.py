"""Between the fronts and the store: writes of concurrent calls in one batch, and the spool when the store is away.

    record ─► queue ─► writer ─► store ──────────► answer
                         │         ▲
                         └► spool ─┘ drainer         (the store failed, or is known to be away)

One thread writes: while a batch is under way the next one gathers, so batches grow with the load and a lone call waits
for nobody. A store that failed is not asked again by a call, only by the drainer, once a second: the website must not
wait for time-outs. Writes merge, so a batch of which nobody knows whether it arrived is simply written once more.

An opt-out that the store did not take waits in the spool; as long as one does, every call goes there too, on all
workers of this machine: the spool refuses whom the store would not yet.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import NamedTuple

from idsync import config
from idsync.defects import log_defect
from idsync.errors import StoreMisconfigured, StoreUnavailable
from idsync.metrics import Metrics
from idsync.outcomes import Outcome
from idsync.store.base import OPTED_OUT, Check, Device, MappingStore, Sync
from idsync.store.optouts import OptOut
from idsync.store.spool import Spool

QUEUE_CALLS = 4_096  # a second of the highest load, which is how long a store may take to fail
BATCH_CALLS = 512
_DRAIN_CALLS = 256
_LOOK_SECONDS = 1.0
_AWAY = (StoreUnavailable, StoreMisconfigured)

log = logging.getLogger(__name__)


# The syncs of one call, which are of one device: all have the same `uuid`, or none has one.
Syncs = Sequence[Sync]
Call = Syncs | Check


class Recorded(NamedTuple):
    """What became of a call: all its syncs were stored or spooled under `uuid`, or none was.

    `uuid` is empty then; and where the device is unknown and the call has no fresh UUID for it. A check that finds
    nobody opted out is UUID_TOLD. Of a call with several IDs none is stored when one of them is opted out.
    """

    outcome: Outcome
    uuid: str = ""


class _Waiting(NamedTuple):
    call: Call
    future: "asyncio.Future[Recorded] | Future[Recorded]"


class Recorder:
    """Starts two threads; make it after the fork. Every call that is handed over is told what became of it."""

    def __init__(self, store: MappingStore, spool: Spool, metrics: Metrics) -> None:
        self._store, self._spool, self._metrics = store, spool, metrics
        self._queue: SimpleQueue[list[_Waiting] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0  # calls in the queue or on their way there
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gathered: list[_Waiting] = []  # of the loop
        self._open = True
        self._away = threading.Event()
        self._closing = threading.Event()
        self._look = threading.Event()
        self._writer = threading.Thread(target=self._write, name="writer", daemon=True)
        self._drainer = threading.Thread(target=self._drain, name="drainer", daemon=True)
        self._writer.start()
        self._drainer.start()

    @property
    def waiting(self) -> int:
        """Calls that wait for their write."""
        return self._waiting

    def record(self, call: Call) -> Recorded:
        """From a thread: returns when the call is durable, or refused."""
        if not self._enter():
            return Recorded(Outcome.OVERLOADED)
        future: Future[Recorded] = Future()
        self._queue.put([_Waiting(call, future)])
        return future.result()

    async def record_soon(self, call: Call) -> Recorded:
        """From an event loop, always the same. A caller that is cancelled meanwhile has its call stored all the same.

        Calls of one turn of the loop are handed over together: to wake the writer for each costs a system call.
        """
        if not self._enter():
            return Recorded(Outcome.OVERLOADED)
        loop = self._loop or self._meet()
        future: asyncio.Future[Recorded] = loop.create_future()
        if not self._gathered:
            loop.call_soon(self._hand_over)
        self._gathered.append(_Waiting(call, future))
        return await future

    def opt_out(self, opt_out: OptOut) -> Recorded:
        """From a thread: returns when the opt-out is durable, in the store or the spool, or refused."""
        if not self._diverted():
            try:
                self._store.opt_out(opt_out)
            except _AWAY as error:
                self._failed(error)
            else:
                return Recorded(Outcome.STORED)
        try:
            self._spool.opt_out(opt_out)
        except _AWAY:
            return Recorded(Outcome.STORE_UNAVAILABLE)
        return Recorded(Outcome.SPOOLED)

    def close(self) -> None:
        """Write what waits, then stop. A call that comes afterwards is refused."""
        with self._lock:
            self._open = False
        self._queue.put(None)
        self._writer.join()
        self._closing.set()
        self._look.set()
        self._drainer.join()

    def _enter(self) -> bool:
        with self._lock:
            if not self._open or self._waiting >= QUEUE_CALLS:
                return False
            self._waiting += 1
            return True

    def _meet(self) -> asyncio.AbstractEventLoop:
        """Asked once: asyncio asks the operating system for the process each time."""
        self._loop = asyncio.get_running_loop()
        return self._loop

    def _hand_over(self) -> None:
        self._queue.put(self._gathered)
        self._gathered = []

    # --- writer ----------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        last = False
        while not last:
            batch, last = self._gather()
            if batch:
                self._tell(batch, self._commit([waiting.call for waiting in batch]))

    def _gather(self) -> tuple[list[_Waiting], bool]:
        """What waits now, at least one call; and whether it was the last."""
        batch: list[_Waiting] = []
        calls = self._queue.get()
        while calls is not None:
            batch += calls
            if len(batch) >= BATCH_CALLS:
                break
            try:
                calls = self._queue.get_nowait()
            except Empty:
                break
        with self._lock:
            self._waiting -= len(batch)
        return batch, calls is None

    def _commit(self, calls: Sequence[Call]) -> list[Recorded]:
        try:
            self._metrics.queue(self._waiting)
            if not self._diverted():
                start = time.perf_counter()
                try:
                    uuids = record_calls(self._store, calls)
                except _AWAY as error:
                    self._failed(error)
                else:
                    self._metrics.committed(len(calls), time.perf_counter() - start)
                    return _outcomes(calls, uuids, Outcome.STORED)
            try:
                uuids = record_calls(self._spool, calls)
            except _AWAY:
                return [Recorded(Outcome.STORE_UNAVAILABLE)] * len(calls)
            self._metrics.spooled(len(calls))
            return _outcomes(calls, uuids, Outcome.SPOOLED)
        except Exception as error:  # noqa: BLE001  a defect of ours must not leave every later call without an answer
            log_defect(error)
            return [Recorded(Outcome.FAILED)] * len(calls)

    def _tell(self, batch: Sequence[_Waiting], results: Sequence[Recorded]) -> None:
        """Each caller its result. The loop is woken once for all its calls: that costs a system call."""
        pairs: list[tuple[asyncio.Future[Recorded], Recorded]] = []
        for (_, future), result in zip(batch, results, strict=True):
            if isinstance(future, Future):
                future.set_result(result)
            else:
                pairs.append((future, result))
        if pairs and self._loop is not None:
            with suppress(RuntimeError):  # a loop that is closed by now was given up with all its calls
                self._loop.call_soon_threadsafe(_resolve, pairs)

    def _diverted(self) -> bool:
        """Whether the spool takes the calls: the store is away, or does not know yet of all opt-outs."""
        if self._away.is_set():
            return True
        try:
            return self._spool.opt_outs_wait()
        except _AWAY:  # then it took none
            return False

    def _failed(self, error: StoreUnavailable | StoreMisconfigured) -> None:
        self._metrics.store_failed()
        if not self._away.is_set():
            self._away.set()
            log.error("The store is away, calls go to the spool: %s", config.mask(error.problem))

    # --- drainer ---------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        stuck = False
        while not self._closing.is_set():
            try:
                if self._answers():
                    self._empty()
                stuck = False
            except (*_AWAY, OSError) as error:
                if not stuck:
                    log.error("The spool can't be emptied: %s", error)  # noqa: TRY400  the trace tells no more
                stuck = True
            except Exception as error:  # noqa: BLE001  the thread must live to try again
                log_defect(error)
            self._look.wait(_LOOK_SECONDS)

    def _answers(self) -> bool:
        """Whether the store may be written to; one that was away is asked."""
        if not self._away.is_set():
            return True
        try:
            self._store.check()
        except StoreUnavailable:
            return False
        except StoreMisconfigured:
            pass  # it may take writes all the same (its eviction policy is wrong, say); else the next batch fails fast
        self._away.clear()
        log.info("The store is back")
        return True

    def _empty(self) -> None:
        """Opt-outs, then mappings, oldest first, until nothing waits or the store fails. One process at a time: more
        would only collide.
        """
        if not self._spool.opt_outs_wait() and not self._spool.oldest(1):
            return
        with self._spool.emptying() as alone:
            while alone and not self._closing.is_set() and (waiting := self._spool.waiting_opt_outs(_DRAIN_CALLS)):
                try:
                    for opt_out in waiting:
                        self._store.opt_out(opt_out)
                except _AWAY as error:
                    self._failed(error)
                    return
                self._spool.opt_outs_taken(waiting)
            while alone and not self._closing.is_set() and (syncs := self._spool.oldest(_DRAIN_CALLS)):
                try:
                    self._store.record(syncs)
                except _AWAY as error:
                    self._failed(error)
                    return
                self._spool.taken(syncs)
                self._metrics.drained(len(syncs))


def record_calls(store: MappingStore, calls: Sequence[Call]) -> list[str]:
    """Record all syncs of all calls; of each call the UUID, or OPTED_OUT. A check comes to OPTED_OUT or "".

    Where a call has several customers and no UUID, all get that of the customer whose device was seen last, or else a
    fresh one: its sync goes first and settles the UUID for the others.
    """
    if all(len(call) == 1 for call in calls):
        syncs = [call[0] for call in calls if not isinstance(call, Check)]
        return _each_answered(syncs, store.record(syncs))
    out = _opted_out(store, calls)
    due = {at: call for at, call in enumerate(calls) if not out[at] and not isinstance(call, Check)}
    told = dict(zip(due, _record_several(store, list(due.values())), strict=True))
    return [OPTED_OUT if out[at] else told.get(at, "") for at in range(len(calls))]


def _opted_out(store: MappingStore, calls: Sequence[Call]) -> list[bool]:
    """Which calls name anybody who is. A call of one sync is not asked for: the store tells as it records it."""
    named = [(((), ()) if len(call) == 1 else _named(call)) for call in calls]
    customers = [customer for each, _ in named for customer in each]
    uuids = [uuid for _, each in named for uuid in each]
    since = store.opted_out(customers, uuids) if customers or uuids else []
    of_customers, of_uuids = iter(since[: len(customers)]), iter(since[len(customers) :])
    found = [([next(of_customers) for _ in each], [next(of_uuids) for _ in devices]) for each, devices in named]
    return [any(at is not None for at in (*each, *devices)) for each, devices in found]


def _named(call: Call) -> Check:
    if isinstance(call, Check):
        return call
    return Check(tuple((sync.dpid, sync.customer_id) for sync in call), (call[0].uuid,) if call[0].uuid else ())


def _record_several(store: MappingStore, calls: Sequence[Syncs]) -> list[str]:
    if not calls:
        return []
    calls = [_leader_first(call, devices) for call, devices in zip(calls, _latest(store, calls), strict=True)]
    first = [call[:1] if call[0].uuid is None else call for call in calls]
    syncs = [sync for share in first for sync in share]
    settled = iter(_each_answered(syncs, store.record(syncs)))
    uuids = [_of_call([next(settled) for _ in share]) for share in first]
    followers = [
        (at, sync._replace(uuid=uuid))
        for at, (call, share, uuid) in enumerate(zip(calls, first, uuids, strict=True))
        for sync in call[len(share) :]
        if uuid not in {"", OPTED_OUT}
    ]
    if followers:
        recorded = store.record([sync for _, sync in followers])
        for (at, _), uuid in zip(followers, recorded, strict=True):
            uuids[at] = _of_call([uuids[at], uuid])
    return uuids


def _of_call(uuids: Sequence[str]) -> str:
    """The syncs of one call are alike, but where somebody opted out just then."""
    return OPTED_OUT if OPTED_OUT in uuids else uuids[0]


def _outcomes(calls: Sequence[Call], uuids: Sequence[str], kept: Outcome) -> list[Recorded]:
    return [
        Recorded(Outcome.OPTED_OUT)
        if uuid == OPTED_OUT
        else Recorded(Outcome.UUID_TOLD)
        if isinstance(call, Check)
        else Recorded(kept, uuid)
        for call, uuid in zip(calls, uuids, strict=True)
    ]


def _latest(store: MappingStore, calls: Sequence[Syncs]) -> Iterator[Sequence[Device | None]]:
    """For each call the latest device of each customer, where that is in question."""
    open_calls = [call if len(call) > 1 and call[0].uuid is None else () for call in calls]
    asked = [(sync.dpid, sync.customer_id) for call in open_calls for sync in call]
    found = iter(store.latest(asked, max(call[0].seen for call in calls)) if asked else ())
    return ([next(found) for _ in call] for call in open_calls)


def _leader_first(call: Syncs, devices: Sequence[Device | None]) -> Syncs:
    known = [(device.last_seen, device.uuid, -at) for at, device in enumerate(devices) if device is not None]
    if not known:
        return call
    leader = -max(known)[2]
    return [call[leader], *call[:leader], *call[leader + 1 :]]


def _each_answered(syncs: Sequence[Sync], uuids: list[str]) -> list[str]:
    if len(uuids) != len(syncs):
        raise RuntimeError(f"a store answered {len(uuids)} of {len(syncs)} syncs")
    return uuids


def _resolve(pairs: Sequence[tuple["asyncio.Future[Recorded]", Recorded]]) -> None:
    for future, result in pairs:
        if not future.done():
            future.set_result(result)
