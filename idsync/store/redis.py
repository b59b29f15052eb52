"""The store on a Redis server or a Redis Cluster: bucketed, packed hashes (see `codec`), one key a script."""

import hashlib
import os
import ssl
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    NoScriptError,
    RedisError,
    TimeoutError,
)
from redis.retry import Retry

from idsync import config
from idsync.errors import StoreMisconfigured, StoreUnavailable
from idsync.store import codec
from idsync.store.base import EXPORT_SCHEMA, Count, Device, Sync
from idsync.store.batches import texts
from idsync.store.connections import PATIENT, Address, Command, Nodes, Patience, Tls, TooFewReplicas, tls_fault

META = "ids:meta"  # hash: the number of buckets, for ever
DPIDS = "ids:dpids"  # set: the data sources that have buckets
_CHECK = "ids:check"

_PIPELINE = 512  # commands in flight: the server answers one share while the client reads the one before
_SUBSET_PIPELINE = 5_000
_BATCH_ROWS = 65_536

# KEYS: bucket. ARGV: customer ID, UUID or '', fresh UUID, last seen, horizon, cap, and '1' to write even what is held
# already: WAIT answers for writes alone, and a sync that is tried again may not have reached the replicas the first
# time. Returns the UUID recorded. Bytes are compared one by one: Lua's own `<` on strings follows
# Redis' locale.
_RECORD = """
local function later(a, b)
  for at = 1, #a do
    local x, y = string.byte(a, at), string.byte(b, at)
    if x ~= y then return x > y end
  end
  return false
end
local held = redis.call('HGET', KEYS[1], ARGV[1]) or ''
local uuid = ARGV[2]
if uuid == '' then
  uuid = ARGV[3]
  if held ~= '' and later(string.sub(held, 1, 6), ARGV[5]) then uuid = string.sub(held, 7, 25) end
  if uuid == '' then return '' end
end
local entry, others = ARGV[4] .. uuid, {}
for at = 1, #held, 25 do
  local other = string.sub(held, at, at + 24)
  if string.sub(other, 7) ~= uuid then
    others[#others + 1] = other
  elseif later(other, entry) then
    entry = other
  end
end
local place = 1
while others[place] and later(others[place], entry) do place = place + 1 end
table.insert(others, place, entry)
while #others > tonumber(ARGV[6]) do table.remove(others) end
local value = table.concat(others)
if value ~= held or ARGV[7] then redis.call('HSET', KEYS[1], ARGV[1], value) end
return uuid
"""

# KEYS: bucket. ARGV: horizon, customer IDs. Drops entries at or before the horizon; returns how many. An ID that was
# synced again since it was read has none.
_SWEEP = """
local removed = 0
for index = 2, #ARGV do
  local held = redis.call('HGET', KEYS[1], ARGV[index]) or ''
  local kept = {}
  for at = 1, #held, 25 do
    local live = false
    for byte = 0, 5 do
      local x, y = string.byte(held, at + byte), string.byte(ARGV[1], 1 + byte)
      if x ~= y then live = x > y break end
    end
    if live then kept[#kept + 1] = string.sub(held, at, at + 24) else removed = removed + 1 end
  end
  if #kept == 0 then
    redis.call('HDEL', KEYS[1], ARGV[index])
  elseif #kept * 25 < #held then
    redis.call('HSET', KEYS[1], ARGV[index], table.concat(kept))
  end
end
return removed
"""

# KEYS: bucket. Returns the customer IDs, each ended by a newline (which no ID holds); all entries; and, only where a
# customer has several, the number of entries of each as two bytes. A few texts in place of two objects a customer, and
# no loop in Lua for the common case: HKEYS and HVALS list the fields in one order.
_READ = """
local ids = redis.call('HKEYS', KEYS[1])
local values = redis.call('HVALS', KEYS[1])
local entries, counts = table.concat(values), {}
if #entries ~= 25 * #ids then
  for place = 1, #values do
    local count = #values[place] / 25
    counts[place] = string.char(count % 256, math.floor(count / 256))
  end
end
ids[#ids + 1] = ''
return {table.concat(ids, '\\n'), entries, table.concat(counts)}
"""

# Customers of one bucket or several: their IDs, each ended by a newline; all entries; how many entries each has.
_Part = tuple[bytes, bytes, "np.ndarray[tuple[int], np.dtype[np.int64]]"]

_T = TypeVar("_T")


class RedisStore:
    """See `base.MappingStore`. Writes are as durable as the server's `appendfsync` makes them (deploy/redis.conf).

    With `replicas`, so many of them must have acknowledged what `record` wrote before it returns.
    """

    def __init__(
        self,
        url: str,
        lifetime: int,
        devices_per_customer: int,
        buckets: int,
        *,
        password: str | None = None,
        tls: Tls = Tls(),  # noqa: B008  immutable
        replicas: int = 0,
        persistence: bool = True,
        patience: Patience = PATIENT,
    ) -> None:
        self._url, self._password, self._tls = url, password, tls
        self._lifetime, self._cap, self._buckets = lifetime, devices_per_customer, buckets
        self._replicas, self._persistence, self._patience = replicas, persistence, patience
        self._opened: tuple[int, Nodes] | None = None

    def record(self, syncs: Sequence[Sync]) -> list[str]:
        with self._errors():
            # Both with every call, not once a process: Redis may have been emptied, and by now be somebody else's.
            commands: list[Command] = [("HGET", META, "buckets")]
            commands += [("SADD", DPIDS, dpid) for dpid in {sync.dpid for sync in syncs}]
            first = len(commands)
            commands += [self._record_command(sync) for sync in syncs]
            answers = self._pipeline(commands, self._replicas)
            self._agree(self._nodes(), answers[0])
            return [uuid.hex() for uuid in answers[first:]]

    def devices(self, dpid: int, customer_id: str, now: int) -> list[Device]:
        with self._errors():
            name = customer_id.encode()
            (value,) = self._pipeline([("HGET", self._key(dpid, name), name)])
        return [device for device in codec.unpack_devices(value or b"") if device.last_seen > now - self._lifetime]

    def latest(self, customers: Sequence[tuple[int, str]], now: int) -> list[Device | None]:
        names = [(dpid, customer_id.encode()) for dpid, customer_id in customers]
        with self._errors():
            held = self._pipeline([("HGET", self._key(dpid, name), name) for dpid, name in names])
        found = [codec.unpack_devices(value[: codec.ENTRY_BYTES]) if value else [] for value in held]
        return [devices[0] if devices and devices[0].last_seen > now - self._lifetime else None for devices in found]

    def export(
        self, dpid: int, now: int, *, customer_ids: Sequence[str] | None = None, latest_only: bool = False
    ) -> Iterator[pa.RecordBatch]:
        pieces = self._all(dpid) if customer_ids is None else self._some(dpid, customer_ids)
        with self._errors():
            for piece in pieces:
                yield from _batch(piece, now - self._lifetime, latest_only=latest_only)

    def sweep(self, now: int) -> int:
        horizon = now - self._lifetime
        removed = 0
        with self._errors():
            for dpid in self._dpids():
                keys = [codec.bucket_key(dpid, bucket) for bucket in range(self._buckets)]
                for key, (ids, entries, counts) in zip(keys, self._read(keys), strict=True):
                    old = codec.unpack_times(entries) <= horizon
                    if not old.any():
                        continue
                    owners = np.repeat(np.arange(len(counts)), counts)
                    names = ids.split(b"\n")
                    stale = [names[owner] for owner in np.unique(owners[old])]
                    (swept,) = self._pipeline([("EVALSHA", _sha(_SWEEP), 1, key, codec.pack_time(horizon), *stale)])
                    removed += int(swept)
        return removed

    def count(self, now: int) -> Mapping[int, Count]:
        found = {}
        with self._errors():
            for dpid in self._dpids():
                customers = mappings = 0
                for _, entries, counts in self._all(dpid):
                    live = codec.unpack_times(entries) > now - self._lifetime
                    owners = np.repeat(np.arange(len(counts)), counts)
                    customers += len(np.unique(owners[live]))
                    mappings += int(np.count_nonzero(live))
                if mappings:
                    found[dpid] = Count(customers, mappings)
        return found

    def check(self) -> None:
        with self._errors():
            self._agree(self._nodes(), self._pipeline([("HGET", META, "buckets")])[0])
            self._patiently(self._check_primaries)

    def close(self) -> None:
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None

    # --- readiness -------------------------------------------------------------------------------------------------

    def _check_primaries(self) -> None:
        """INFO, not CONFIG, which services that run Redis for others forbid."""
        nodes = self._nodes()
        asked: list[Command] = [("INFO", "persistence"), ("INFO", "memory")]
        if nodes.cluster:
            asked.append(("CLUSTER", "INFO"))
        shares: dict[Address, Sequence[Command]] = {
            address: [*asked, ("INCR", key)] for address, key in nodes.primaries(_CHECK).items()
        }
        for (host, port), answers in nodes.exchange(shares, self._replicas).items():
            self._judge(f"{self._shown} ({host}:{port})" if nodes.cluster else self._shown, answers)

    def _judge(self, where: str, answers: Sequence[Any]) -> None:
        told: dict[str, str] = {}
        for answer in answers[:-1]:
            if isinstance(answer, Exception):
                raise answer
            told |= dict(line.split(":", 1) for line in answer.decode().splitlines() if ":" in line)
        if self._persistence and told.get("aof_enabled") != "1":
            raise StoreMisconfigured(
                f"store {where}: appendonly is off: a restart of Redis would lose answered calls",
                mend="set appendonly yes, as deploy/redis.conf does; for a service that keeps data in another way set "
                'store.persistence = "unchecked"',
            )
        if (policy := told.get("maxmemory_policy")) != "noeviction":
            raise StoreMisconfigured(
                f"store {where}: maxmemory-policy is {policy}: a full Redis would throw mappings away",
                mend="set maxmemory-policy noeviction, as deploy/redis.conf does",
            )
        if self._persistence and told.get("aof_last_write_status", "ok") != "ok":
            raise StoreUnavailable(
                f"store {where}: the last write to the append-only file failed",
                mend="see that the disk of Redis has room and no faults",
            )
        if (state := told.get("cluster_state", "ok")) != "ok":
            raise StoreUnavailable(
                f"store {where}: cluster_state is {state}", mend="see that every slot has a primary; then try again"
            )
        if isinstance(answers[-1], Exception):
            raise answers[-1]

    # --- commands --------------------------------------------------------------------------------------------------

    def _key(self, dpid: int, customer_id: bytes) -> str:
        return codec.bucket_key(dpid, codec.bucket_of(customer_id, self._buckets))

    def _record_command(self, sync: Sync) -> Command:
        name, uuid = sync.customer_id.encode(), sync.uuid
        command = (
            *("EVALSHA", _RECORD_SHA, 1, self._key(sync.dpid, name), name),
            codec.pack_uuid(uuid) if uuid else b"",
            b"" if uuid else codec.pack_uuid(sync.fresh),
            codec.pack_time(sync.seen),
            codec.pack_time(sync.seen - self._lifetime),
            self._cap,
        )
        return (*command, 1) if self._replicas else command

    def _dpids(self) -> list[int]:
        (dpids,) = self._pipeline([("SMEMBERS", DPIDS)])
        return sorted(map(int, dpids))

    def _all(self, dpid: int) -> Iterator[_Part]:
        """Every bucket of a data source, several at a time."""
        parts: list[_Part] = []
        rows = 0
        for part in self._read([codec.bucket_key(dpid, bucket) for bucket in range(self._buckets)]):
            parts.append(part)
            rows += len(part[2])
            if rows >= _BATCH_ROWS:
                yield _joined(parts)
                parts, rows = [], 0
        yield _joined(parts)

    def _some(self, dpid: int, customer_ids: Sequence[str]) -> Iterator[_Part]:
        """These customers only: one command for each bucket that any of them falls into."""
        wanted: dict[str, list[bytes]] = defaultdict(list)
        for customer_id in customer_ids:
            name = customer_id.encode()
            wanted[self._key(dpid, name)].append(name)
        keys = list(wanted)
        for start in range(0, len(keys), _SUBSET_PIPELINE):
            share = keys[start : start + _SUBSET_PIPELINE]
            answers = self._pipeline([("HMGET", key, *wanted[key]) for key in share])
            names = [name for key in share for name in wanted[key]]
            values = [value for answer in answers for value in answer]
            held = [(name, value) for name, value in zip(names, values, strict=True) if value]
            counts = np.array([len(value) // codec.ENTRY_BYTES for _, value in held], dtype=np.int64)
            yield b"".join(name + b"\n" for name, _ in held), b"".join(value for _, value in held), counts

    def _read(self, keys: Sequence[str]) -> Iterator[_Part]:
        """Each bucket, in order. The server is always one pipeline ahead."""
        shares = [keys[start : start + _PIPELINE] for start in range(0, len(keys), _PIPELINE)]
        with ThreadPoolExecutor(max_workers=1) as ahead:
            asked = [ahead.submit(self._read_share, share) for share in shares[:2]]
            for index in range(len(shares)):
                answers = asked.pop(0).result()
                if index + 2 < len(shares):
                    asked.append(ahead.submit(self._read_share, shares[index + 2]))
                yield from answers

    def _read_share(self, keys: Sequence[str]) -> list[_Part]:
        answers = self._pipeline([("EVALSHA", _sha(_READ), 1, key) for key in keys])
        return [(ids, entries, _counts(entries, counts)) for ids, entries, counts in answers]

    def _pipeline(self, commands: Sequence[Command], replicas: int = 0) -> list[Any]:
        return self._send(self._nodes(), commands, replicas)

    def _send(self, nodes: Nodes, commands: Sequence[Command], replicas: int = 0) -> list[Any]:
        """The answers, in order. Scripts that a server has not seen yet are sent whole."""
        answers = self._patiently(lambda: nodes.execute(commands, replicas))
        unknown = [at for at, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            whole = [("EVAL", _SCRIPTS[commands[at][1]], *commands[at][2:]) for at in unknown]
            for at, answer in zip(unknown, self._patiently(lambda: nodes.execute(whole, replicas)), strict=True):
                answers[at] = answer
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _patiently(self, send: Callable[[], _T]) -> _T:
        """The one place where anything is tried again. Writes commute, so that sending them twice does no harm."""
        for pause in self._patience.pauses:
            try:
                return send()
            except AuthenticationError:
                raise
            except (ConnectionError, TimeoutError, ClusterDownError):
                time.sleep(pause)
        return send()

    # --- connection ------------------------------------------------------------------------------------------------

    def _nodes(self) -> Nodes:
        """This process's connections; a socket must not cross a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            nodes = self._connect()
            try:
                self._agree(nodes, self._send(nodes, [("HGET", META, "buckets")])[0])
            except BaseException:
                nodes.close()
                raise
            self._opened = os.getpid(), nodes
        return self._opened[1]

    def _agree(self, nodes: Nodes, buckets: bytes | None) -> None:
        """Settle the number of buckets where there is none yet; refuse to work with another.

        Written only where it is missing: a store that takes no writes, full or a replica, can still be read.
        """
        if buckets is None:
            settle = [("HSETNX", META, "buckets", self._buckets), ("HGET", META, "buckets")]
            buckets = self._send(nodes, settle, self._replicas)[1]
        made = int(buckets or self._buckets)
        if made != self._buckets:
            raise StoreMisconfigured(
                f"store {self._shown}: was made with {made} buckets, but store.buckets is {self._buckets}",
                mend=f"set store.buckets = {made}; it can't change while the store holds mappings",
            )

    def _connect(self) -> Nodes:
        options: dict[str, Any] = {
            "socket_connect_timeout": self._patience.connect,
            "socket_timeout": self._patience.answer,
            "retry": Retry(NoBackoff(), 0),  # `_patiently` does it
            "protocol": 2,  # nothing here needs the greeting of the third, a round trip more
            "password": self._password,
        }
        try:
            options |= parse_url(self._url.replace("+cluster://", "://"))  # type: ignore[no-untyped-call]
        except ValueError:  # its text may hold a piece of the password
            raise StoreMisconfigured(
                f"store {self._shown}: not a URL that can be read",
                mend="store.url is redis://host:6379/0 or the like; %-encode '/', ':' and '@' in a password",
            ) from None
        if self._url.startswith("rediss"):
            files = {"ssl_ca_certs": self._tls.ca, "ssl_certfile": self._tls.cert, "ssl_keyfile": self._tls.key}
            options |= {name: str(path) for name, path in files.items() if path}
        return Nodes(options, cluster="+cluster://" in self._url, patience=self._patience)

    @property
    def _shown(self) -> str:
        """The URL without user and password, even where these hold characters that no URL should."""
        scheme, _, rest = self._url.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2]}"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except AuthenticationError as error:
            raise StoreMisconfigured(
                f"store {self._shown}: {error}", mend="give the password by $IDSYNC_STORE__URL or store.password_file"
            ) from None
        except MovedError as error:
            if "+cluster://" in self._url:
                raise self._unavailable(error) from None
            raise StoreMisconfigured(
                f"store {self._shown}: is a node of a cluster", mend="let store.url start with redis+cluster://"
            ) from None
        except TooFewReplicas as error:
            raise StoreUnavailable(
                f"store {self._shown}: {error}", mend="see that the replicas run and keep up; then try again"
            ) from None
        except (RedisError, OSError) as error:
            raise self._unavailable(error) from None

    def _unavailable(self, error: Exception) -> StoreUnavailable | StoreMisconfigured:
        problem = f"store {self._shown}: {config.mask(str(error))}"
        fault = tls_fault(error)
        if isinstance(fault, ssl.SSLCertVerificationError):
            return StoreMisconfigured(
                problem,
                mend="let store.tls_ca_file hold the authority that signed Redis' certificate, and let the host that "
                "store.url names (of a cluster: that each node announces) be in the certificate",
            )
        if fault:
            return StoreUnavailable(
                problem,
                mend="see that Redis speaks TLS on this port, and whether it wants a client certificate, "
                "store.tls_cert_file and store.tls_key_file",
            )
        return StoreUnavailable(problem, mend="see that Redis runs, takes writes and has memory left; then try again")


@cache
def _sha(script: str) -> str:
    """The name by which the server knows a script."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def _counts(entries: bytes, counts: bytes) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """How many entries each customer has: one, if the script told nothing else."""
    if counts:
        return np.frombuffer(counts, dtype="<u2").astype(np.int64)
    return np.ones(len(entries) // codec.ENTRY_BYTES, dtype=np.int64)


def _joined(parts: Sequence[_Part]) -> _Part:
    ids, entries, counts = zip(*parts, strict=True) if parts else ((), (), ())
    return b"".join(ids), b"".join(entries), np.concatenate([*counts, np.empty(0, np.int64)])


def _batch(part: _Part, horizon: int, *, latest_only: bool) -> Iterator[pa.RecordBatch]:
    """One batch of what is visible, if anything is. Devices stand latest first already."""
    ids, entries, counts = part
    times = codec.unpack_times(entries)
    columns = [texts(ids), codec.unpack_uuids(entries), pa.array(times)]
    keep = times > horizon
    if len(times) > len(counts):
        columns[0] = columns[0].take(pa.array(np.repeat(np.arange(len(counts)), counts)))
        if latest_only:
            newest = np.zeros(len(times), dtype=bool)
            newest[np.cumsum(counts) - counts] = True
            keep &= newest
    batch = pa.RecordBatch.from_arrays(columns, schema=EXPORT_SCHEMA)
    if not keep.all():
        batch = batch.filter(pa.array(keep))
    if len(batch):
        yield batch


_RECORD_SHA = _sha(_RECORD)
_SCRIPTS = {_sha(script): script for script in (_RECORD, _SWEEP, _READ)}
