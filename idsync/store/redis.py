"""The store on a Redis server or a Redis Cluster: bucketed, packed hashes (see `codec`), one key a script."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from idsync import config
from idsync.errors import StoreMisconfigured, StoreUnavailable
from idsync.store import codec
from idsync.store.base import EXPORT_SCHEMA, Count, Device, Sync
from idsync.store.batches import texts

META = "ids:meta"  # hash: the number of buckets, for ever
DPIDS = "ids:dpids"  # set: the data sources that have buckets
_CHECK = "ids:check"

_CONNECT_SECONDS = 2
_ANSWER_SECONDS = 5
_PIPELINE = 512  # commands in flight: the server answers one share while the client reads the one before
_SUBSET_PIPELINE = 5_000
_BATCH_ROWS = 65_536

# KEYS: bucket. ARGV: customer ID, UUID or '', fresh UUID, last seen, horizon, cap. Returns the UUID recorded.
# Bytes are compared one by one: Lua's own `<` on strings follows Redis' locale.
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
if value ~= held then redis.call('HSET', KEYS[1], ARGV[1], value) end
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


class RedisStore:
    """See `base.MappingStore`. Writes are as durable as the server's `appendfsync` makes them (deploy/redis.conf)."""

    def __init__(
        self, url: str, lifetime: int, devices_per_customer: int, buckets: int, *, password: str | None = None
    ) -> None:
        self._url, self._password = url, password
        self._lifetime, self._cap, self._buckets = lifetime, devices_per_customer, buckets
        self._opened: tuple[int, Any] | None = None

    def record(self, syncs: Sequence[Sync]) -> list[str]:
        with self._errors():
            # Both with every call, not once a process: Redis may have been emptied, and by now be somebody else's.
            commands: list[tuple[Any, ...]] = [("HGET", META, "buckets")]
            commands += [("SADD", DPIDS, dpid) for dpid in {sync.dpid for sync in syncs}]
            first = len(commands)
            commands += [self._record_command(sync) for sync in syncs]
            answers = self._pipeline(commands)
            self._agree(self._client(), answers[0])
            return [bytes(uuid).hex() for uuid in answers[first:]]

    def devices(self, dpid: int, customer_id: str, now: int) -> list[Device]:
        with self._errors():
            name = customer_id.encode()
            value = self._client().hget(self._key(dpid, name), name) or b""
        return [device for device in codec.unpack_devices(value) if device.last_seen > now - self._lifetime]

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
            self._client().incr(_CHECK)

    def close(self) -> None:
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None

    # --- commands --------------------------------------------------------------------------------------------------

    def _key(self, dpid: int, customer_id: bytes) -> str:
        return codec.bucket_key(dpid, codec.bucket_of(customer_id, self._buckets))

    def _record_command(self, sync: Sync) -> tuple[Any, ...]:
        name = sync.customer_id.encode()
        return (
            *("EVALSHA", _sha(_RECORD), 1, self._key(sync.dpid, name), name),
            codec.pack_uuid(sync.uuid) if sync.uuid else b"",
            codec.pack_uuid(sync.fresh),
            codec.pack_time(sync.seen),
            codec.pack_time(sync.seen - self._lifetime),
            self._cap,
        )

    def _dpids(self) -> list[int]:
        return sorted(int(dpid) for dpid in self._client().smembers(DPIDS))

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

    def _pipeline(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers, in order. Scripts that a server has not seen yet are sent whole."""
        answers = self._execute(commands)
        unknown = [at for at, answer in enumerate(answers) if isinstance(answer, redis.exceptions.NoScriptError)]
        if unknown:
            whole = [("EVAL", _SCRIPTS[commands[at][1]], *commands[at][2:]) for at in unknown]
            for at, answer in zip(unknown, self._execute(whole), strict=True):
                answers[at] = answer
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _execute(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        with self._client().pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            return list(pipeline.execute(raise_on_error=False))

    # --- connection ------------------------------------------------------------------------------------------------

    def _client(self) -> Any:
        """This process's client; a socket must not cross a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            client = self._connect()
            try:
                self._agree(client, client.hget(META, "buckets"))
            except BaseException:
                client.close()
                raise
            self._opened = os.getpid(), client
        return self._opened[1]

    def _agree(self, client: Any, buckets: bytes | None) -> None:
        """Settle the number of buckets where there is none yet; refuse to work with another.

        Written only where it is missing: a store that takes no writes, full or a replica, can still be read.
        """
        if buckets is None:
            client.hsetnx(META, "buckets", self._buckets)
            buckets = client.hget(META, "buckets")
        made = int(buckets or self._buckets)
        if made != self._buckets:
            raise StoreMisconfigured(
                f"store {self._shown}: was made with {made} buckets, but store.buckets is {self._buckets}",
                mend=f"set store.buckets = {made}; it can't change while the store holds mappings",
            )

    def _connect(self) -> Any:
        retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), retries=2)
        options: dict[str, Any] = {
            "socket_connect_timeout": _CONNECT_SECONDS,
            "socket_timeout": _ANSWER_SECONDS,
            "password": self._password,
            "retry": retry,
        }
        options = {name: value for name, value in options.items() if value is not None}
        kind = RedisCluster if "+cluster://" in self._url else redis.Redis
        try:
            return kind.from_url(self._url.replace("+cluster://", "://"), **options)
        except ValueError:  # its text may hold a piece of the password
            raise StoreMisconfigured(
                f"store {self._shown}: not a URL that can be read",
                mend="store.url is redis://host:6379/0 or the like; %-encode '/', ':' and '@' in a password",
            ) from None

    @property
    def _shown(self) -> str:
        """The URL without user and password, even where these hold characters that no URL should."""
        scheme, _, rest = self._url.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2]}"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except redis.exceptions.AuthenticationError as error:
            raise StoreMisconfigured(
                f"store {self._shown}: {error}", mend="give the password by $IDSYNC_STORE__URL or store.password_file"
            ) from None
        except (redis.exceptions.RedisError, redis.exceptions.RedisClusterException) as error:
            raise StoreUnavailable(
                f"store {self._shown}: {config.mask(str(error))}",
                mend="see that Redis runs, takes writes and has memory left; then try again",
            ) from None
        except OSError as error:
            raise StoreUnavailable(f"store {self._shown}: {error}", mend="see that Redis can be reached") from None


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


_SCRIPTS = {_sha(script): script for script in (_RECORD, _SWEEP, _READ)}
