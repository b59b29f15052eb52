"""Connections to a Redis server or to the primaries of a Redis Cluster."""

import itertools
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hiredis import pack_command
from redis.connection import Connection, ConnectionPool
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)

Address = tuple[str, int]
Command = tuple[Any, ...]
_ASKING: Command = ("ASKING",)
_READS = {"HGET", "HGETALL", "HMGET", "HSCAN", "SMEMBERS", "CLUSTER", "INFO", "BGREWRITEAOF"}
_SCRIPTED = {"EVAL", "EVALSHA"}
_DEPOSED = (ReadOnlyError, ClusterDownError)  # MASTERDOWN is one of the latter
_REDIRECTIONS = 3  # that one command is sent after before it counts as failed


class Patience(NamedTuple):
    """How long a store is waited for, in seconds. `pauses` stand between tries; none means one try."""

    connect: float
    answer: float
    replicas: float  # within `answer`: the server must have told how many acknowledged before the socket gives up
    pauses: tuple[float, ...]


PATIENT = Patience(connect=2, answer=5, replicas=2, pauses=(0.05, 0.5))
IMPATIENT = Patience(connect=0.5, answer=1, replicas=0.5, pauses=())  # where a spool takes what the store does not


class Tls(NamedTuple):
    """Files in PEM. Without `ca` the system's authorities are trusted; without `cert` we show no certificate."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


class TooFewReplicas(RedisError):
    """Written, but not acknowledged by as many replicas as asked for."""


class Nodes:
    """Connections to one server, or to the primaries of a cluster, from any number of threads of one process.

    On redis-py's connections, but not on its cluster client, which sends a redirected command on a connection where no
    WAIT follows it, seeks a lost cluster node by node without a limit of time, and writes commands, IDs in them, into
    the texts of its errors.
    """

    def __init__(self, options: Mapping[str, Any], *, cluster: bool, patience: Patience) -> None:
        self._options, self.cluster, self._patience = dict(options), cluster, patience
        self._kind = self._options.pop("connection_class", Connection)
        if cluster:
            self._options.pop("db", None)  # a cluster has one database
        self._start = self._options.pop("host", "localhost"), self._options.pop("port", 6379)
        self._known = [self._start]  # nodes to learn the slots from, the trusted before the suspected
        self._owners: list[Address | None] = []  # of each slot; empty: to be learned
        self._pools: dict[Address, ConnectionPool] = {}
        self._lock = threading.RLock()

    def close(self) -> None:
        with self._lock:
            for pool in self._pools.values():
                pool.disconnect()

    def execute(self, commands: Sequence[Command], replicas: int = 0) -> list[Any]:
        """An answer or an error for each command, in order. Raises when a connection fails: nothing is known then."""
        if not self.cluster:
            return self.exchange({self._start: commands}, replicas)[self._start]
        found: list[Any] = [None] * len(commands)
        told: dict[int, Address] = {}
        asking: set[int] = set()
        waiting: Sequence[int] = range(len(commands))
        owners = self._slots()
        for _ in range(1 + _REDIRECTIONS):
            places: dict[Address, list[int]] = defaultdict(list)
            for at in waiting:
                places[told.get(at) or _owner(owners, commands[at])].append(at)
            shares: dict[Address, list[Command]] = {}
            for address, share in places.items():
                pairs = [(_ASKING, commands[at]) if at in asking else (commands[at],) for at in share]
                shares[address] = list(itertools.chain.from_iterable(pairs))
            redirected = []
            for address, answers in self.exchange(shares, replicas).items():
                left = iter(answers)
                for at in places[address]:
                    if at in asking:
                        next(left)
                    found[at] = answer = next(left)
                    if isinstance(answer, AskError):
                        redirected.append(at)
                        told[at] = answer.host or address[0], answer.port
                        asking.discard(at)
                        if isinstance(answer, MovedError):
                            self._owners = []
                        else:
                            asking.add(at)
            if not redirected:
                break
            waiting = redirected
        return found

    def exchange(self, shares: Mapping[Address, Sequence[Command]], replicas: int = 0) -> dict[Address, list[Any]]:
        """Send each node its share on one connection, then read all answers; of errors, those of the server are such.

        Raises TooFewReplicas where fewer than `replicas` acknowledged all that this connection wrote.
        """
        opened: list[tuple[Address, ConnectionPool, Any, bool]] = []
        found: dict[Address, list[Any]] = {}
        fewest = replicas
        address = self._start
        try:
            for address, commands in shares.items():
                pool = self._pool(address)
                connection: Any = pool.get_connection()
                waits = bool(replicas) and any(command[0] not in _READS for command in commands)
                opened.append((address, pool, connection, waits))
                sent = [*commands, ("WAIT", replicas, int(self._patience.replicas * 1000))] if waits else commands
                # hiredis at once: redis-py looks at every argument of every command before it calls the same.
                connection.send_packed_command([b"".join(map(pack_command, sent))])
            for address, _, connection, waits in opened:
                found[address] = answers = _read_answers(connection, len(shares[address]))
                if waits:
                    fewest = min(fewest, connection.read_response())
                if any(isinstance(answer, _DEPOSED) for answer in answers):
                    connection.disconnect()
                    self._suspect(address)
        except BaseException:
            for _, _, connection, _ in opened:  # an answer left unread would be taken for one of the next call's
                connection.disconnect()
            self._suspect(address)
            raise
        finally:
            for _, pool, connection, _ in opened:
                pool.release(connection)
        if fewest < replicas:
            self._owners = []  # what was redirected is not followed now
            raise TooFewReplicas(f"{fewest} of {replicas} replicas acknowledged in {self._patience.replicas} s")
        return found

    def primaries(self, prefix: str) -> dict[Address, str]:
        """Each node that takes writes, with a key of its own."""
        if not self.cluster:
            return {self._start: prefix}
        owners = self._slots()
        wanted = {owner for owner in owners if owner}
        found: dict[Address, str] = {}
        number = 0
        while len(found) < len(wanted):
            key = f"{prefix}:{number}"
            if owner := owners[key_slot(key.encode())]:
                found.setdefault(owner, key)
            number += 1
        return found

    def _pool(self, address: Address) -> ConnectionPool:
        pool = self._pools.get(address)
        if pool is None:
            with self._lock:
                made = ConnectionPool(self._kind, host=address[0], port=address[1], **self._options)
                pool = self._pools.setdefault(address, made)
        return pool

    def _suspect(self, address: Address) -> None:
        """It failed, or is no primary: ask others first who is, and resolve its name again, which may have moved on."""
        with self._lock:
            self._owners = []
            if address in self._known:
                self._known.remove(address)
                self._known.append(address)
        self._pool(address).disconnect(inuse_connections=False)

    def _slots(self) -> list[Address | None]:
        """The owner of each slot. Bounded in time: nodes that were not asked yet are asked by the next call."""
        owners = self._owners
        if owners:
            return owners
        with self._lock:
            if self._owners:  # learned by another thread meanwhile
                return self._owners
            asked, ranges = self._ask_for_ranges()
            owners = [None] * REDIS_CLUSTER_HASH_SLOTS
            nodes: dict[Address, None] = {}
            for low, high, *holders in ranges:
                served = [((host or b"").decode() or asked, port) for host, port, *_ in holders]
                nodes |= dict.fromkeys(served)
                owners[low : high + 1] = [served[0]] * (high + 1 - low)
            self._known = [*nodes, *({self._start} - set(nodes))]
            self._owners = owners
            return owners

    def _ask_for_ranges(self) -> tuple[str, Any]:
        """The host that answered, and its CLUSTER SLOTS."""
        end = time.monotonic() + self._patience.connect
        failure: RedisError | None = None
        for address in tuple(self._known):
            try:
                [ranges] = self.exchange({address: [("CLUSTER", "SLOTS")]})[address]
            except (ConnectionError, TimeoutError) as error:
                failure = error
                if time.monotonic() > end:
                    break
            else:
                if isinstance(ranges, Exception):
                    raise ranges
                return address[0], ranges
        raise failure or ConnectionError("no node is known")


def _owner(owners: Sequence[Address | None], command: Command) -> Address:
    key = command[3] if command[0] in _SCRIPTED else command[1]
    owner = owners[key_slot(key.encode())]
    if owner is None:
        raise ClusterDownError("a slot of the cluster has no owner")
    return owner


def _read_answers(connection: Any, count: int) -> list[Any]:
    read, answers = connection.read_response, []
    for _ in range(count):
        try:
            answers.append(read())
        except ResponseError as error:
            answers.append(error)
    return answers


def tls_fault(error: BaseException | None) -> ssl.SSLError | None:
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error
