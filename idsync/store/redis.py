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
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
from idsync.store import codec, optouts
from idsync.store.base import EXPORT_SCHEMA, OPTED_OUT, Count, Device, Pair, Part, Sync
from idsync.store.batches import texts
from idsync.store.connections import PATIENT, Address, Command, Nodes, Patience, Tls, TooFewReplicas, tls_fault
from idsync.store.optouts import OptedOutDevices, OptOut, Token

META = "ids:meta"  # hash: the number of buckets, for ever
DPIDS = "ids:dpids"  # set: the data sources that have buckets
OPT_OUTS = "ids:out"  # hash: token → since when, tail and owner, with a blank between them; see `optouts`
_CHECK = "ids:check"

_PIPELINE = 512  # commands in flight: the server answers one share while the client reads the one before
_SUBSET_PIPELINE = 5_000
_SCAN = 2_000  # opt-outs a command
_OUT = b"x"  # what _RECORD says of an opt-out
_BATCH_ROWS = 65_536

# KEYS: bucket; and the opt-outs, but for a cluster, where a script may see one key. ARGV: customer ID, UUID or '',
# fresh UUID, last seen, horizon, cap, token of the customer, and '1' to write even what is held already: WAIT answers
# for writes alone, and a sync that is tried again may not have reached the replicas the first time. Returns the UUID
# recorded, or 'x' for an opt-out. Bytes are compared one by one: Lua's own `<` on strings follows Redis' locale.
_RECORD = """
local function later(a, b)
  for at = 1, #a do
    local x, y = string.byte(a, at), string.byte(b, at)
    if x ~= y then return x > y end
  end
  return false
end
local function out(uuid)
  return KEYS[2] and redis.call('HEXISTS', KEYS[2], 'uuid:' .. redis.sha1hex(uuid)) == 1
end
if KEYS[2] and redis.call('HEXISTS', KEYS[2], ARGV[7]) == 1 then return 'x' end
local held = redis.call('HGET', KEYS[1], ARGV[1]) or ''
local uuid = ARGV[2]
if uuid ~= '' then
  if out(uuid) then return 'x' end
else
  uuid = ARGV[3]
  for at = 1, #held, 25 do
    if not later(string.sub(held, at, at + 5), ARGV[5]) then break end
    local known = string.sub(held, at + 6, at + 24)
    if not out(known) then uuid = known break end
  end
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
if value ~= held or ARGV[8] then redis.call('HSET', KEYS[1], ARGV[1], value) end
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

# KEYS: opt-outs. ARGV: token, since when, tail and owner. The first time stays; a device that went along with a
# customer and is then opted out on its own account has no owner any more. Written even where nothing changes, as WAIT
# answers for writes alone.
_NOTE = """
local held, since, rest = redis.call('HGET', KEYS[1], ARGV[1]), ARGV[2], ARGV[3]
if held then
  since = string.match(held, '^%d+')
  if string.match(rest, ' $') == nil then rest = string.sub(held, #since + 2) end
end
return redis.call('HSET', KEYS[1], ARGV[1], since .. ' ' .. rest)
"""

# KEYS: opt-outs. ARGV: token, owner. Removes a device that is still its owner's.
_RELEASE = """
local held = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if string.sub(held, -#ARGV[2]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
"""

# KEYS: bucket. ARGV: customer ID. Removes the customer; returns the entries that there were.
_TAKE = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
return held or ''
"""

# KEYS: bucket. ARGV: customer ID and UUID by turns. Removes these entries; returns how many there were.
_REMOVE = """
local removed = 0
for index = 1, #ARGV, 2 do
  local held, kept = redis.call('HGET', KEYS[1], ARGV[index]) or '', {}
  for at = 1, #held, 25 do
    if string.sub(held, at + 6, at + 24) == ARGV[index + 1] then
      removed = removed + 1
    else
      kept[#kept + 1] = string.sub(held, at, at + 24)
    end
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
        self._is_cluster = "+cluster://" in url
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
            uuids = [OPTED_OUT if answer == _OUT else answer.hex() for answer in answers[first:]]
            return self._checked(syncs, uuids) if self._is_cluster else uuids

    def devices(self, dpid: int, customer_id: str, now: int) -> list[Device]:
        with self._errors():
            return self._visible([(dpid, customer_id)], now)[0]

    def latest(self, customers: Sequence[tuple[int, str]], now: int) -> list[Device | None]:
        with self._errors():
            return [devices[0] if devices else None for devices in self._visible(customers, now)]

    def export(
        self,
        dpid: int,
        now: int,
        *,
        customer_ids: Sequence[str] | None = None,
        latest_only: bool = False,
        part: Part | None = None,
    ) -> Iterator[pa.RecordBatch]:
        pieces = self._all(dpid, part) if customer_ids is None else self._some(dpid, customer_ids)
        with self._errors():
            out = self._opted_out_devices()
            for piece in pieces:
                yield from _batch(piece, now - self._lifetime, out, latest_only=latest_only)

    def parts(self, dpid: int, most: int) -> list[Part]:
        """Ranges of buckets."""
        bounds = [self._buckets * at // most for at in range(most + 1)]
        return [Part(str(first), str(end)) for first, end in pairwise(bounds) if first < end]

    def sweep(self, now: int) -> int:
        horizon = now - self._lifetime
        removed = 0
        with self._errors():
            out = self._opted_out_devices()
            for dpid in self._dpids():
                keys = [codec.bucket_key(dpid, bucket) for bucket in range(self._buckets)]
                for key, (ids, entries, counts) in zip(keys, self._read(keys), strict=True):
                    old = codec.unpack_times(entries) <= horizon
                    unwanted = out.among(codec.unpack_uuids(entries)) if out else None
                    if not old.any() and (unwanted is None or not unwanted.any()):
                        continue
                    owners = np.repeat(np.arange(len(counts)), counts)
                    names = ids.split(b"\n")
                    places = np.flatnonzero(unwanted).tolist() if unwanted is not None else []
                    pairs = [part for at in places for part in (names[owners[at]], _uuid(entries, at))]
                    removed += self._remove({key: pairs})
                    stale = [names[owner] for owner in np.unique(owners[old])]
                    (swept,) = self._pipeline([("EVALSHA", _sha(_SWEEP), 1, key, codec.pack_time(horizon), *stale)])
                    removed += int(swept)
        return removed

    def count(self, now: int) -> Mapping[int, Count]:
        found = {}
        with self._errors():
            out = self._opted_out_devices()
            for dpid in self._dpids():
                customers = mappings = 0
                for _, entries, counts in self._all(dpid):
                    live = codec.unpack_times(entries) > now - self._lifetime
                    if out:
                        live &= ~out.among(codec.unpack_uuids(entries))
                    owners = np.repeat(np.arange(len(counts)), counts)
                    customers += len(np.unique(owners[live]))
                    mappings += int(np.count_nonzero(live))
                if mappings:
                    found[dpid] = Count(customers, mappings)
        return found

    def opt_out(self, opt_out: OptOut) -> int:
        """The tokens first: what is recorded from then on is refused, what was recorded before is removed after."""
        with self._errors():
            names = [(dpid, customer_id.encode()) for dpid, customer_id in opt_out.customers]
            held = self._pipeline([("HGET", self._key(dpid, name), name) for dpid, name in names])
            along = self._last_linked(held, opt_out)
            self._note(dict.fromkeys([*optouts.tokens_of(opt_out.customers, opt_out.uuids), *along], opt_out.at))
            taken = self._pipeline(
                [("EVALSHA", _sha(_TAKE), 1, self._key(dpid, name), name) for dpid, name in names], self._replicas
            )
            # those that were synced while we looked
            late = [token for token in self._last_linked(taken, opt_out) if token not in along]
            self._note(dict.fromkeys(late, opt_out.at))
        return sum(len(value) for value in taken) // codec.ENTRY_BYTES

    def opt_in(self, customers: Sequence[tuple[int, str]], uuids: Sequence[str]) -> int:
        names = [token.name for token in optouts.tokens_of(customers, uuids)]
        with self._errors():
            owned = [(token.name, token.owner) for token, _ in self._all_opt_outs() if token.owner in names]
            commands: list[Command] = [("HDEL", OPT_OUTS, name) for name in names]
            commands += [("EVALSHA", _sha(_RELEASE), 1, OPT_OUTS, name, owner) for name, owner in owned]
            return sum(map(int, self._pipeline(commands, self._replicas)))

    def opted_out(self, customers: Sequence[tuple[int, str]], uuids: Sequence[str]) -> list[int | None]:
        with self._errors():
            return self._since([token.name for token in optouts.tokens_of(customers, uuids)])

    def opt_outs(self) -> Mapping[str, int]:
        with self._errors():
            return {token.name: since for token, since in self._all_opt_outs()}

    def tokens(self) -> Mapping[Token, int]:
        with self._errors():
            return dict(self._all_opt_outs())

    def adopt(self, tokens: Mapping[Token, int]) -> None:
        with self._errors():
            self._note(tokens)

    def find(self, uuids: Sequence[str]) -> list[Pair]:
        wanted = pa.array(uuids, pa.string())
        found = []
        with self._errors():
            for dpid in self._dpids():
                for ids, entries, counts in self._all(dpid):
                    held = codec.unpack_uuids(entries)
                    places = np.flatnonzero(pc.is_in(held, wanted).to_numpy(zero_copy_only=False))
                    if not len(places):
                        continue
                    owners, names = np.repeat(np.arange(len(counts)), counts), ids.split(b"\n")
                    found += [Pair(dpid, names[owners[at]].decode(), held[at].as_py()) for at in places]
        return found

    def remove(self, pairs: Sequence[Pair]) -> int:
        shares: dict[str, list[bytes]] = defaultdict(list)
        for pair in pairs:
            name = pair.customer_id.encode()
            shares[self._key(pair.dpid, name)] += [name, codec.pack_uuid(pair.uuid)]
        with self._errors():
            return self._remove(shares)

    def scrub(self) -> bool:
        """The append-only file keeps what was, until it is written anew; Redis does that beside its work."""
        with self._errors():
            shares: dict[Address, Sequence[Command]] = {
                address: [("BGREWRITEAOF",)] for address in self._nodes().primaries(_CHECK)
            }
            told = self._nodes().exchange(shares)
        return not any(isinstance(answer, Exception) for answers in told.values() for answer in answers)

    def check(self) -> None:
        with self._errors():
            self._agree(self._nodes(), self._pipeline([("HGET", META, "buckets")])[0])
            self._patiently(self._check_primaries)

    def close(self) -> None:
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None

    def ask(self, command: Command) -> Any:
        """The answer to a command of another kind, for what lives in the same server: see `lease`."""
        with self._errors():
            return self._pipeline([command], self._replicas)[0]

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

    def _record_keys(self, bucket: str) -> tuple[int | str, ...]:
        return (1, bucket) if self._is_cluster else (2, bucket, OPT_OUTS)

    def _record_command(self, sync: Sync) -> Command:
        name, uuid = sync.customer_id.encode(), sync.uuid
        command = (
            *("EVALSHA", _RECORD_SHA, *self._record_keys(self._key(sync.dpid, name)), name),
            codec.pack_uuid(uuid) if uuid else b"",
            b"" if uuid else codec.pack_uuid(sync.fresh),
            codec.pack_time(sync.seen),
            codec.pack_time(sync.seen - self._lifetime),
            self._cap,
            optouts.customer_token(sync.dpid, sync.customer_id).name,
        )
        return (*command, 1) if self._replicas else command

    def _checked(self, syncs: Sequence[Sync], uuids: list[str]) -> list[str]:
        """What of these was opted out is removed again. For a cluster, whose scripts can't see the opt-outs.

        An opt-out writes its token first: either we see it here, or it sees what we recorded. Until it is removed, a
        mapping of such a device is invisible. A device that the store itself has chosen is chosen anew.
        """
        names = [optouts.customer_token(sync.dpid, sync.customer_id).name for sync in syncs]
        names += [optouts.device_token(uuid).name for uuid in uuids if uuid]
        since = self._since(list(dict.fromkeys(names)))
        out = {name for name, at in zip(dict.fromkeys(names), since, strict=True) if at is not None}
        if not out:
            return uuids
        again: list[int] = []
        for at, (sync, uuid) in enumerate(zip(syncs, uuids, strict=True)):
            person = names[at] in out
            if not uuid or not (person or optouts.device_token(uuid).name in out):
                continue
            name = sync.customer_id.encode()
            self._remove({self._key(sync.dpid, name): [name, codec.pack_uuid(uuid)]})
            if person or sync.uuid is not None:
                uuids[at] = OPTED_OUT
            else:
                again.append(at)
        if again:
            for at, uuid in zip(again, self.record([syncs[at] for at in again]), strict=True):
                uuids[at] = uuid
        return uuids

    def _visible(self, customers: Sequence[tuple[int, str]], now: int) -> list[list[Device]]:
        names = [(dpid, customer_id.encode()) for dpid, customer_id in customers]
        held = self._pipeline([("HGET", self._key(dpid, name), name) for dpid, name in names])
        found = [
            [device for device in codec.unpack_devices(value or b"") if device.last_seen > now - self._lifetime]
            for value in held
        ]
        uuids = list({device.uuid for devices in found for device in devices})
        since = dict(zip(uuids, self._since([optouts.device_token(uuid).name for uuid in uuids]), strict=True))
        return [[device for device in devices if since[device.uuid] is None] for devices in found]

    def _last_linked(self, held: Sequence[bytes | None], opt_out: OptOut) -> list[Token]:
        """Of the latest device of each customer, opted out or not, if these are to go along."""
        if not opt_out.takes_devices:
            return []
        horizon = opt_out.at - self._lifetime
        found = []
        for customer, value in zip(opt_out.customers, held, strict=True):
            for device in codec.unpack_devices((value or b"")[: codec.ENTRY_BYTES]):
                if device.last_seen > horizon:
                    found.append(optouts.device_token(device.uuid, optouts.customer_token(*customer).name))
        return found

    def _note(self, tokens: Mapping[Token, int]) -> None:
        noted = [
            ("EVALSHA", _sha(_NOTE), 1, OPT_OUTS, token.name, since, f"{token.tail} {token.owner}")
            for token, since in tokens.items()
        ]
        for start in range(0, len(noted), _SUBSET_PIPELINE):
            self._pipeline(noted[start : start + _SUBSET_PIPELINE], self._replicas)

    def _since(self, names: Sequence[str]) -> list[int | None]:
        """Since when each of these tokens is held."""
        if not names:
            return []
        (values,) = self._pipeline([("HMGET", OPT_OUTS, *names)])
        return [int(value.partition(b" ")[0]) if value else None for value in values]

    def _all_opt_outs(self) -> Iterator[tuple[Token, int]]:
        """Each once (HSCAN may repeat itself), and since when."""
        cursor, seen = b"0", set()
        while True:
            ((cursor, flat),) = self._pipeline([("HSCAN", OPT_OUTS, cursor, "COUNT", _SCAN)])
            for name, value in zip(flat[::2], flat[1::2], strict=True):
                if name not in seen:
                    seen.add(name)
                    since, tail, owner = value.decode().split(" ")
                    yield Token(name.decode(), tail, owner), int(since)
            if cursor == b"0":
                return

    def _opted_out_devices(self) -> OptedOutDevices:
        return OptedOutDevices(token for token, _ in self._all_opt_outs() if token.tail)

    def _remove(self, shares: Mapping[str, Sequence[bytes]]) -> int:
        """By bucket: customer IDs and packed UUIDs by turns."""
        commands = [("EVALSHA", _sha(_REMOVE), 1, key, *pairs) for key, pairs in shares.items() if pairs]
        return sum(map(int, self._pipeline(commands, self._replicas))) if commands else 0

    def _dpids(self) -> list[int]:
        (dpids,) = self._pipeline([("SMEMBERS", DPIDS)])
        return sorted(map(int, dpids))

    def _all(self, dpid: int, part: Part | None = None) -> Iterator[_Part]:
        """Every bucket of a data source, or those of a part of it, several at a time."""
        buckets = range(int(part.first), int(part.end)) if part else range(self._buckets)
        parts: list[_Part] = []
        rows = 0
        for read in self._read([codec.bucket_key(dpid, bucket) for bucket in buckets]):
            parts.append(read)
            rows += len(read[2])
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
        return Nodes(options, cluster=self._is_cluster, patience=self._patience)

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
            if self._is_cluster:
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


def _uuid(entries: bytes, at: int) -> bytes:
    """The packed UUID of an entry among many."""
    return entries[at * codec.ENTRY_BYTES + codec.TIME_BYTES : (at + 1) * codec.ENTRY_BYTES]


def _batch(part: _Part, horizon: int, out: OptedOutDevices, *, latest_only: bool) -> Iterator[pa.RecordBatch]:
    """One batch of what is visible, if anything is. Devices stand latest first already."""
    ids, entries, counts = part
    times = codec.unpack_times(entries)
    columns = [texts(ids), codec.unpack_uuids(entries), pa.array(times)]
    keep = times > horizon
    if out:
        keep &= ~out.among(columns[1])
    if len(times) > len(counts):
        columns[0] = columns[0].take(pa.array(np.repeat(np.arange(len(counts)), counts)))
        if latest_only:
            kept = np.flatnonzero(keep)
            owners = np.repeat(np.arange(len(counts)), counts)[kept]
            newest = kept[np.unique(owners, return_index=True)[1]]
            keep = np.zeros(len(times), dtype=bool)
            keep[newest] = True
    batch = pa.RecordBatch.from_arrays(columns, schema=EXPORT_SCHEMA)
    if not keep.all():
        batch = batch.filter(pa.array(keep))
    if len(batch):
        yield batch


_RECORD_SHA = _sha(_RECORD)
_SCRIPTS = {_sha(script): script for script in (_RECORD, _SWEEP, _NOTE, _RELEASE, _TAKE, _REMOVE, _READ)}
