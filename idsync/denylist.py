"""The temporary deny list: IDs that no single visitor can be behind.

A broken tag sends one customer ID for everybody ("undefined"); a crawler brings one UUID and thousands of customer IDs.
Both would tie strangers together. So this counts, over a window of time, what each ID arrives with: different UUIDs and
different client addresses a customer ID, different customer IDs a UUID.

Only what differs counts, so repeating a call does nothing, however often, and nobody is locked out that way. (Who
knows an ID and makes up a UUID for each call can get it denied; against that there are signed calls.) A call without a
UUID adds none, nor does one of an unknown address.

What differs is noted as a bit of a map of fixed size, at a place that a keyed hash gives: two that share a place count
as one. The count is never too high, and at the usual limits a little too low, see SLOTS. IDs are kept as keyed hashes,
addresses as nothing but such a bit.
"""

import threading
from collections import OrderedDict
from enum import Enum
from hashlib import blake2b

from idsync.settings import Abuse

# The share of a map that is taken grows slower than what it counts: limit 100 is passed by the 106th or so, limit 500,
# the highest that the settings allow, by some 690.
SLOTS = 1024
_BITS = tuple(1 << slot for slot in range(SLOTS))
_KEY_BYTES = 16
_MINUTE = 60_000


class Denial(Enum):
    """Whom a denial is about: the customer ID alone, or the UUID and with it the whole call."""

    CUSTOMER_ID = "customer-id"
    UUID = "uuid"


class DenyList:
    """Of one process: two workers count apart. `key`: up to 64 secret random bytes, or callers could choose who shares
    a bit.
    """

    def __init__(self, settings: Abuse, key: bytes) -> None:
        self._keyed = blake2b(key=key, digest_size=_KEY_BYTES)
        self._lock = threading.Lock()
        self._customer_ids = _Watch(settings, settings.uuids_per_customer_id, settings.addresses_per_customer_id)
        self._uuids = _Watch(settings, settings.customer_ids_per_uuid, 0)

    def seen(self, dpid: int, customer_id: str, uuid: str | None, client: str, now: int) -> Denial | None:
        """Count this pair, unless it is denied, and say so if it is, or is from now on.

        `uuid`: the one that the call brought, None where it brought none, never a new one. `client`: see
        `clients.client_address`, "" for unknown. `now` in milliseconds.
        """
        customer_key = self._hash(f"{dpid}:{customer_id}")
        uuid_key = self._hash(uuid) if uuid else b""
        client_bit = _bit(self._hash(client)) if client else 0
        with self._lock:
            if uuid_key and self._uuids.denies(uuid_key, now):
                return Denial.UUID
            if self._customer_ids.denies(customer_key, now):
                return Denial.CUSTOMER_ID
            # Both are counted before either is judged: what is known of one must not hang on the other.
            uuid_bit = _bit(uuid_key) if uuid_key else 0
            customer_denied = self._customer_ids.count(customer_key, uuid_bit, client_bit, now)
            if uuid_key and self._uuids.count(uuid_key, _bit(customer_key), 0, now):
                return Denial.UUID
            return Denial.CUSTOMER_ID if customer_denied else None

    def tracked(self) -> int:
        """Entries in memory, at most four times `tracked`: counted and denied ones, customer IDs and UUIDs."""
        with self._lock:
            return len(self._customer_ids) + len(self._uuids)

    def _hash(self, text: str) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(text.encode())
        return keyed.digest()


class _Window:
    """What one ID has arrived with since `start`, as two maps of bits."""

    __slots__ = ("first", "second", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.first = self.second = 0


class _Watch:
    """Counts two kinds of company that IDs of one kind keep, and remembers which of these IDs are denied.

    An ID that is seen abnormally often stays among the latest `tracked`, however many others pass by. Denied ones are
    kept apart, so that a flood of invented IDs does not lift a denial: to push one out takes as many denials.
    """

    def __init__(self, settings: Abuse, first_limit: int, second_limit: int) -> None:
        self._tracked = settings.tracked
        self._window, self._term = settings.window_minutes * _MINUTE, settings.deny_minutes * _MINUTE
        # 0 is no limit: there are no more bits than this.
        self._first_limit, self._second_limit = first_limit or SLOTS, second_limit or SLOTS
        self._windows: OrderedDict[bytes, _Window] = OrderedDict()
        self._denied: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows) + len(self._denied)

    def denies(self, key: bytes, now: int) -> bool:
        if key not in self._denied:
            return False
        since = self._denied[key]
        # A clock that was set back must not prolong a denial.
        if 0 <= now - since < self._term:
            return True
        del self._denied[key]
        return False

    def count(self, key: bytes, first: int, second: int, now: int) -> bool:
        """Whether `key` is to be denied from now on. `first`, `second`: the bit of its company of either kind, or 0."""
        windows = self._windows
        window = windows.get(key)
        if window is None:
            window = windows[key] = _Window(now)
            if len(windows) > self._tracked:
                windows.popitem(last=False)
        else:
            windows.move_to_end(key)
            if not 0 <= now - window.start < self._window:
                window = windows[key] = _Window(now)
        firsts, seconds = window.first | first, window.second | second
        if firsts == window.first and seconds == window.second:
            return False
        window.first, window.second = firsts, seconds
        if firsts.bit_count() <= self._first_limit and seconds.bit_count() <= self._second_limit:
            return False
        del windows[key]
        self._denied[key] = now
        if len(self._denied) > self._tracked:
            self._denied.popitem(last=False)
        return True


def _bit(key: bytes) -> int:
    """Ten bits of the hash say which."""
    return _BITS[(key[0] << 2) | (key[1] & 3)]
