"""Sync calls over kept connections, from this process, and what became of each.

`Load` is for faults: so many visitors call as fast as they are answered, until they are told to stop; each call is
noted as stored, declined, refused or unanswered. A call that was never sent (no connection) is no call.

`paced` is for latency: calls come at random times at a given rate, whether or not earlier ones are answered, and each
is timed from the moment it was due. A client that waits for an answer before it calls again would leave out the very
calls that a slow moment makes wait ("coordinated omission").
"""

import asyncio
import bisect
import gc
import itertools
import json
import random
import select
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

DPID = 12345
PATIENCE_SECONDS = 30
VISITORS = 16
_PAUSE_SECONDS = 0.02
_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
_REDIR = "https%3A%2F%2Fdpm.demdex.net%2Fibs:dpid%3D1%26dpuuid%3D%24%7BDD_UUID%7D"
_REDIR_ELSEWHERE = "https%3A%2F%2Felsewhere.example%2F"


class Call(NamedTuple):
    """`uuid`: what the call carries; None where the endpoint has to make one, and tells it in JSON."""

    customer: str
    uuid: str | None
    request: bytes


def cookie_calls(run: str) -> Iterator[Call]:
    """What most calls of a website are: a visitor that was here before, a customer that no other call names."""
    for number in itertools.count():
        customer, uuid = f"{run}-{number}", f"{number:038d}"
        yield Call(customer, uuid, _request(f"/ibs:dpid={DPID}&dpuuid={customer}", uuid))


def mixed_calls(run: str, seed: int) -> Iterator[Call]:
    """All kinds: new visitors, UUIDs in the URL, redirects, and one in ten that must not be stored."""
    chance = random.Random(seed)
    for number in itertools.count():
        customer, uuid = f"{run}-{number}", f"{number:038d}"
        call, kind = f"/ibs:dpid={DPID}&dpuuid={customer}", chance.random()
        if kind < 0.6:
            yield Call(customer, uuid, _request(call, uuid))
        elif kind < 0.7:
            yield Call(customer, None, _request(f"/sync?dpid={DPID}&dpuuid={customer}&d_rtbd=json"))
        elif kind < 0.8:
            yield Call(customer, uuid, _request(f"{call}&d_uuid={uuid}"))
        elif kind < 0.9:
            yield Call(customer, uuid, _request(f"{call}&redir={_REDIR}", uuid))
        else:
            wrong = (
                f"{call}&gdpr=1",
                f"/ibs:dpid=54321&dpuuid={customer}",
                f"{call}:",
                f"{call}&redir={_REDIR_ELSEWHERE}",
            )
            yield Call(customer, uuid, _request(chance.choice(wrong), uuid))


def _request(target: str, cookie: str = "") -> bytes:
    lines = [f"GET {target} HTTP/1.1", "Host: sync.example.com", f"User-Agent: {_AGENT}", "Accept: image/avif,*/*"]
    if cookie:
        lines.append(f"Cookie: __Host-idsync={cookie}")
    return "\r\n".join([*lines, "", ""]).encode()


@dataclass
class Tally:
    """Customer IDs by what their one call came to."""

    stored: dict[str, str] = field(default_factory=dict)  # with the UUID that was answered
    declined: set[str] = field(default_factory=set)  # for what the call is: consent, unknown, redirect not allowed
    refused: set[str] = field(default_factory=set)  # 503 with Retry-After
    unanswered: set[str] = field(default_factory=set)  # the connection died, so nobody knows
    failed: Counter[int] = field(default_factory=Counter)  # any other status: there must be none

    def note(self, call: Call, answer: "Answer") -> None:
        if answer.status == 503 and b"\r\nretry-after: " in answer.head:
            self.refused.add(call.customer)
        elif answer.status in {200, 302} and b"\r\nx-error: " not in answer.head:
            self.stored[call.customer] = call.uuid or str(json.loads(answer.body)["uuid"])
        elif answer.status in {200, 302, 400}:
            self.declined.add(call.customer)
        else:
            self.failed[answer.status] += 1

    @property
    def answered(self) -> int:
        return len(self.stored) + len(self.declined) + len(self.refused) + self.failed.total()


class Answer(NamedTuple):
    """`head`: status line and headers, in lower case."""

    status: int
    head: bytes
    body: bytes


def parse(came: bytes) -> Answer | None:
    """None until all of it is there."""
    head, separator, body = came.partition(b"\r\n\r\n")
    if not separator:
        return None
    head = head.lower()
    length = int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
    return Answer(int(head[9:12]), head, body) if len(body) >= length else None


class _Connection(asyncio.Protocol):
    """One kept connection, one call at a time. Bare: at some thousand calls a second streams cost too much."""

    def __init__(self) -> None:
        self.open = False
        self._came = b""
        self._answer: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.open, self._transport = True, transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError())

    def data_received(self, data: bytes) -> None:
        self._came += data
        answer = parse(self._came)
        if answer is not None and self._answer is not None and not self._answer.done():
            self._came = b""
            if b"\r\nconnection: close" in answer.head:
                self.close()
            self._answer.set_result(answer)

    def ask(self, request: bytes) -> "asyncio.Future[Answer]":
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        if self.open:
            self.open = False
            self._transport.close()


async def _connect(port: int) -> _Connection:
    _, connection = await asyncio.get_running_loop().create_connection(_Connection, "127.0.0.1", port)
    return connection


# --- as fast as answered ---------------------------------------------------------------------------------------------


class Load:
    """Visitors in a thread of their own, each pausing after a call. `tally` is complete once `finish` has returned."""

    def __init__(self, port: int, calls: Iterator[Call], visitors: int = VISITORS, pause_seconds: float = 0) -> None:
        self.tally = Tally()
        self._port, self._calls, self._visitors, self._pause_seconds = port, calls, visitors, pause_seconds
        self._ending = threading.Event()
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def finish(self) -> Tally:
        """Every call that was sent is answered, or its connection has died."""
        self._ending.set()
        self._thread.join()
        if self._broken is not None:
            raise self._broken
        return self.tally

    def wait_for(self, more: int, what: str = "answered") -> None:
        """Until so many more calls have been answered, or (`what`) stored, or refused."""
        end, goal = time.monotonic() + PATIENCE_SECONDS, self._count(what) + more
        while self._count(what) < goal:
            if self._broken is not None or time.monotonic() > end:
                raise TimeoutError(f"{more} more calls {what} took more than {PATIENCE_SECONDS} seconds: {self.told()}")
            time.sleep(_PAUSE_SECONDS)

    def told(self) -> str:
        """The tally in one line."""
        tally = self.tally
        counts = {name: len(getattr(tally, name)) for name in ("stored", "declined", "refused", "unanswered")}
        return ", ".join(f"{count} {name}" for name, count in {**counts, "failed": dict(tally.failed)}.items())

    def _count(self, what: str) -> int:
        counted = getattr(self.tally, what)
        return counted if isinstance(counted, int) else len(counted)

    def _run(self) -> None:
        try:
            asyncio.run(self._visit_all())
        except BaseException as error:  # noqa: BLE001  whoever waits is told
            self._broken = error

    async def _visit_all(self) -> None:
        await asyncio.gather(*(self._visit() for _ in range(self._visitors)))

    async def _visit(self) -> None:
        connection: _Connection | None = None
        while not self._ending.is_set():
            if connection is None or not connection.open:
                try:
                    connection = await _connect(self._port)
                except OSError:
                    await asyncio.sleep(_PAUSE_SECONDS)
                continue
            call = next(self._calls)
            try:
                answer = await asyncio.wait_for(connection.ask(call.request), PATIENCE_SECONDS)
            except (OSError, TimeoutError):
                self.tally.unanswered.add(call.customer)
                connection.close()
            else:
                self.tally.note(call, answer)
            if self._pause_seconds:
                await asyncio.sleep(self._pause_seconds)
        if connection is not None:
            connection.close()


@contextmanager
def load(port: int, calls: Iterator[Call], visitors: int = VISITORS, pause_seconds: float = 0) -> Iterator[Load]:
    running = Load(port, calls, visitors, pause_seconds)
    try:
        yield running
    finally:
        running.finish()


# --- at a pace -------------------------------------------------------------------------------------------------------


class Paced(NamedTuple):
    """Seconds. `late`: how long after its time the slowest hundredth of the calls was sent, for want of a turn of this
    process or of a free connection; it is part of `p99`.
    """

    rate: float
    p50: float
    p99: float
    late: float
    tally: Tally


def paced(
    port: int, rate: float, seconds: float, calls: Iterator[Call], seed: int, warm_up: float = 2, connections: int = 32
) -> Paced:
    """`rate` calls a second on average, at times as of a Poisson process; those of the warm-up are not timed.

    Without asyncio, whose 100 µs a call would be most of what is measured; no garbage is collected meanwhile.
    """
    chance, due, gaps = random.Random(seed), list[float](), 0.0
    while (gaps := gaps + chance.expovariate(rate)) < warm_up + seconds:
        due.append(gaps)
    made = list(itertools.islice(calls, len(due)))
    gc.collect()
    gc.disable()
    try:
        sent, answers = _send(port, due, [call.request for call in made], connections)
    finally:
        gc.enable()
    tally = Tally()
    for call, (answer, _) in zip(made, answers, strict=True):
        tally.note(call, answer)
    first = bisect.bisect(due, warm_up)
    taken = sorted(done - at for at, (_, done) in zip(due[first:], answers[first:], strict=True))
    late = sorted(then - at for at, then in zip(due[first:], sent[first:], strict=True))
    hundredth = len(taken) * 99 // 100
    return Paced(len(taken) / seconds, taken[len(taken) // 2], taken[hundredth], late[hundredth], tally)


def _send(
    port: int, due: Sequence[float], requests: Sequence[bytes], connections: int
) -> tuple[list[float], list[tuple[Answer, float]]]:
    """When each was sent, and its answer and when that was there; in seconds since the start, as `due` is."""
    free = deque(socket.create_connection(("127.0.0.1", port)) for _ in range(connections))
    busy: dict[int, tuple[int, socket.socket, bytes]] = {}
    sent, answers = [0.0] * len(due), dict[int, tuple[Answer, float]]()
    begin, next_ = time.perf_counter(), 0
    with select.epoll() as poll:
        for connection in free:
            poll.register(connection, select.EPOLLIN)
        while len(answers) < len(due):
            now = time.perf_counter() - begin
            while free and next_ < len(due) and due[next_] <= now:
                connection = free.popleft()
                connection.send(requests[next_])
                sent[next_], busy[connection.fileno()] = now, (next_, connection, b"")
                next_ += 1
            waits = max(due[next_] - now, 0) if free and next_ < len(due) else PATIENCE_SECONDS
            for handle, _ in poll.poll(waits):
                number, connection, came = busy.pop(handle)
                came += connection.recv(65_536)
                if (answer := parse(came)) is None:
                    busy[handle] = number, connection, came
                else:
                    answers[number] = answer, time.perf_counter() - begin
                    free.append(connection)
    for connection in free:
        connection.close()
    return sent, [answers[number] for number in range(len(due))]
