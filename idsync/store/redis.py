"""The store on a Redis server or a Redis Cluster: bucketed, packed hashes (see `codec`), one key a script."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from idsync.store import codec, optouts, pieces, scripts
from idsync.store.base import OPTED_OUT, Count, Device, Pair, Part, Sync
from idsync.store.connections import PATIENT, Command, Patience, Tls
from idsync.store.optouts import OptedOutDevices, OptOut, Token
from idsync.store.pieces import Piece
from idsync.store.redisserver import META, RedisServer

DPIDS = "ids:dpids"  # set: the data sources that have buckets
OPT_OUTS = "ids:out"  # hash: token → since when, tail and owner, with a blank between them; see `optouts`

_PIPELINE = 128  # commands in flight: the server answers one share while the client reads the one before
_SUBSET_PIPELINE = 5_000
_SCAN = 2_000  # opt-outs a command
_BATCH_ROWS = 65_536


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
        self._lifetime, self._cap, self._buckets = lifetime, devices_per_customer, buckets
        self._rewrites = replicas > 0
        self._server = RedisServer(
            url,
            buckets,
            password=password,
            tls=tls,
            replicas=replicas,
            persistence=persistence,
            patience=patience,
        )

    def record(self, syncs: Sequence[Sync]) -> list[str]:
        with self._server.errors():
            # Both with every call, not once a process: Redis may have been emptied, and by now be somebody else's.
            commands: list[Command] = [("HGET", META, "buckets")]
            commands += [("SADD", DPIDS, dpid) for dpid in {sync.dpid for sync in syncs}]
            first = len(commands)
            commands += [self._record_command(sync) for sync in syncs]
            answers = self._server.write(commands)
            self._server.agree(answers[0])
            uuids = [OPTED_OUT if answer == scripts.OUT else answer.hex() for answer in answers[first:]]
            return self._checked(syncs, uuids) if self._server.is_cluster else uuids

    def devices(self, dpid: int, customer_id: str, now: int) -> list[Device]:
        with self._server.errors():
            return self._visible([(dpid, customer_id)], now)[0]

    def latest(self, customers: Sequence[tuple[int, str]], now: int) -> list[Device | None]:
        with self._server.errors():
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
        found = self._all(dpid, part) if customer_ids is None else self._some(dpid, customer_ids)
        with self._server.errors():
            out = self._opted_out_devices()
            for piece in found:
                yield from pieces.batch(piece, now - self._lifetime, out, latest_only=latest_only)

    def parts(self, dpid: int, most: int) -> list[Part]:
        """Ranges of buckets."""
        bounds = [self._buckets * at // most for at in range(most + 1)]
        return [Part(str(first), str(end)) for first, end in pairwise(bounds) if first < end]

    def sample(self, dpid: int, now: int, most: int) -> list[str]:
        """Those in the first buckets, each time twice as many: a hash spreads customers over all of them."""
        found: list[str] = []
        first, end = 0, 1
        with self._server.errors():
            out = self._opted_out_devices()
            while len(found) < most and first < self._buckets:
                buckets = range(first, min(end, self._buckets))
                piece = pieces.joined(self._read_share([codec.bucket_key(dpid, bucket) for bucket in buckets]))
                for batch in pieces.batch(piece, now - self._lifetime, out, latest_only=True):
                    found += batch.column(0).to_pylist()
                first, end = end, 2 * end
        return found[:most]

    def sweep(self, now: int) -> int:
        horizon = now - self._lifetime
        removed = 0
        with self._server.errors():
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
                    pairs = [part for at in places for part in (names[owners[at]], pieces.uuid(entries, at))]
                    removed += self._remove({key: pairs})
                    stale = [names[owner] for owner in np.unique(owners[old])]
                    (swept,) = self._server.read(
                        [("EVALSHA", scripts.sha(scripts.SWEEP), 1, key, codec.pack_time(horizon), *stale)]
                    )
                    removed += int(swept)
        return removed

    def count(self, now: int) -> Mapping[int, Count]:
        found = {}
        with self._server.errors():
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
        with self._server.errors():
            names = [(dpid, customer_id.encode()) for dpid, customer_id in opt_out.customers]
            held = self._server.read([("HGET", self._key(dpid, name), name) for dpid, name in names])
            along = self._last_linked(held, opt_out)
            self._note(dict.fromkeys([*optouts.tokens_of(opt_out.customers, opt_out.uuids), *along], opt_out.at))
            taken = self._server.write(
                [("EVALSHA", scripts.sha(scripts.TAKE), 1, self._key(dpid, name), name) for dpid, name in names]
            )
            # those that were synced while we looked
            late = [token for token in self._last_linked(taken, opt_out) if token not in along]
            self._note(dict.fromkeys(late, opt_out.at))
        return sum(len(value) for value in taken) // codec.ENTRY_BYTES

    def opt_in(self, customers: Sequence[tuple[int, str]], uuids: Sequence[str]) -> int:
        names = [token.name for token in optouts.tokens_of(customers, uuids)]
        with self._server.errors():
            owned = [(token.name, token.owner) for token, _ in self._all_opt_outs() if token.owner in names]
            commands: list[Command] = [("HDEL", OPT_OUTS, name) for name in names]
            commands += [("EVALSHA", scripts.sha(scripts.RELEASE), 1, OPT_OUTS, name, owner) for name, owner in owned]
            return sum(map(int, self._server.write(commands)))

    def opted_out(self, customers: Sequence[tuple[int, str]], uuids: Sequence[str]) -> list[int | None]:
        with self._server.errors():
            return self._since([token.name for token in optouts.tokens_of(customers, uuids)])

    def opt_outs(self) -> Mapping[str, int]:
        with self._server.errors():
            return {token.name: since for token, since in self._all_opt_outs()}

    def tokens(self) -> Mapping[Token, int]:
        with self._server.errors():
            return dict(self._all_opt_outs())

    def adopt(self, tokens: Mapping[Token, int]) -> None:
        with self._server.errors():
            self._note(tokens)

    def find(self, uuids: Sequence[str]) -> list[Pair]:
        wanted = pa.array(uuids, pa.string())
        found = []
        with self._server.errors():
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
        with self._server.errors():
            return self._remove(shares)

    def scrub(self) -> bool:
        """The append-only file keeps what was, until it is written anew; Redis does that beside its work."""
        with self._server.errors():
            return self._server.rewrite()

    def check(self) -> None:
        with self._server.errors():
            self._server.check()

    def close(self) -> None:
        self._server.close()

    def ask(self, command: Command) -> Any:
        """The answer to a command of another kind, for what lives in the same server: see `lease`."""
        with self._server.errors():
            return self._server.write([command])[0]

    # --- commands --------------------------------------------------------------------------------------------------

    def _key(self, dpid: int, customer_id: bytes) -> str:
        return codec.bucket_key(dpid, codec.bucket_of(customer_id, self._buckets))

    def _record_keys(self, bucket: str) -> tuple[int | str, ...]:
        return (1, bucket) if self._server.is_cluster else (2, bucket, OPT_OUTS)

    def _record_command(self, sync: Sync) -> Command:
        name, uuid = sync.customer_id.encode(), sync.uuid
        command = (
            *("EVALSHA", scripts.sha(scripts.RECORD), *self._record_keys(self._key(sync.dpid, name)), name),
            codec.pack_uuid(uuid) if uuid else b"",
            b"" if uuid else codec.pack_uuid(sync.fresh),
            codec.pack_time(sync.seen),
            codec.pack_time(sync.seen - self._lifetime),
            self._cap,
            optouts.customer_token(sync.dpid, sync.customer_id).name,
        )
        return (*command, 1) if self._rewrites else command

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
        held = self._server.read([("HGET", self._key(dpid, name), name) for dpid, name in names])
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
            ("EVALSHA", scripts.sha(scripts.NOTE), 1, OPT_OUTS, token.name, since, f"{token.tail} {token.owner}")
            for token, since in tokens.items()
        ]
        for start in range(0, len(noted), _SUBSET_PIPELINE):
            self._server.write(noted[start : start + _SUBSET_PIPELINE])

    def _since(self, names: Sequence[str]) -> list[int | None]:
        """Since when each of these tokens is held."""
        if not names:
            return []
        (values,) = self._server.read([("HMGET", OPT_OUTS, *names)])
        return [int(value.partition(b" ")[0]) if value else None for value in values]

    def _all_opt_outs(self) -> Iterator[tuple[Token, int]]:
        """Each once (HSCAN may repeat itself), and since when."""
        cursor, seen = b"0", set()
        while True:
            ((cursor, flat),) = self._server.read([("HSCAN", OPT_OUTS, cursor, "COUNT", _SCAN)])
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
        commands = [("EVALSHA", scripts.sha(scripts.REMOVE), 1, key, *pairs) for key, pairs in shares.items() if pairs]
        return sum(map(int, self._server.write(commands))) if commands else 0

    def _dpids(self) -> list[int]:
        (dpids,) = self._server.read([("SMEMBERS", DPIDS)])
        return sorted(map(int, dpids))

    def _all(self, dpid: int, part: Part | None = None) -> Iterator[Piece]:
        """Every bucket of a data source, or those of a part of it, several at a time."""
        buckets = range(int(part.first), int(part.end)) if part else range(self._buckets)
        small: list[Piece] = []
        rows = 0
        for read in self._read([codec.bucket_key(dpid, bucket) for bucket in buckets]):
            small.append(read)
            rows += len(read[2])
            if rows >= _BATCH_ROWS:
                yield pieces.joined(small)
                small, rows = [], 0
        yield pieces.joined(small)

    def _some(self, dpid: int, customer_ids: Sequence[str]) -> Iterator[Piece]:
        """These customers only: one command for each bucket that any of them falls into."""
        wanted: dict[str, list[bytes]] = defaultdict(list)
        for customer_id in customer_ids:
            name = customer_id.encode()
            wanted[self._key(dpid, name)].append(name)
        keys = list(wanted)
        for start in range(0, len(keys), _SUBSET_PIPELINE):
            share = keys[start : start + _SUBSET_PIPELINE]
            answers = self._server.read([("HMGET", key, *wanted[key]) for key in share])
            names = [name for key in share for name in wanted[key]]
            values = [value for answer in answers for value in answer]
            held = [(name, value) for name, value in zip(names, values, strict=True) if value]
            yield pieces.of_customers([name for name, _ in held], [value for _, value in held])

    def _read(self, keys: Sequence[str]) -> Iterator[Piece]:
        """Each bucket, in order. The server is always one pipeline ahead."""
        shares = [keys[start : start + _PIPELINE] for start in range(0, len(keys), _PIPELINE)]
        with ThreadPoolExecutor(max_workers=1) as ahead:
            asked = [ahead.submit(self._read_share, share) for share in shares[:2]]
            for index in range(len(shares)):
                answers = asked.pop(0).result()
                if index + 2 < len(shares):
                    asked.append(ahead.submit(self._read_share, shares[index + 2]))
                yield from answers

    def _read_share(self, keys: Sequence[str]) -> list[Piece]:
        answers = self._server.read([("HGETALL", key) for key in keys])
        return [pieces.of_customers(fields[::2], fields[1::2]) for fields in answers]
