"""The temporary deny list: IDs that no single visitor can be behind.

A broken tag sends one customer ID for everybody ("undefined"); a crawler brings one UUID and thousands of customer IDs.
Both would tie strangers together. So this counts, over a window of time, what each ID arrives with: different UUIDs and
different client addresses a customer ID, different customer IDs a UUID.

Only what differs counts, so repeating a call does nothing, however often, and nobody is locked out that way. (Who
knows an ID and makes up a UUID for each call can get it denied; against that there are signed calls.) A call without a
UUID adds none, nor does one of an unknown address.

What differs is noted as a bit of a map of fixed size, at a place that a keyed hash gives: two that share a place count
as one. The count is never too high, and at the usual limits a little too low, see SLOTS.

Nearly all IDs are only ever seen in one company. Of those nothing is kept but a note of it, in a seat that the next ID
of this place takes over: a map for each would cost a call four times as much. IDs are kept as keyed hashes, addresses
as nothing but such a bit or hash.
"""

import threading
from collections import OrderedDict
from enum import Enum

from idsync.settings import Abuse

# The share of a map that is taken grows slower than what it counts: limit 100 is passed by the 106th or so, limit 500,
# the highest that the settings allow, by some 690.
SLOTS = 1024
_MINUTE = 60_000
_NOBODY = 0


class Denial(Enum):
    """Whom a denial is about: the customer ID alone, or the UUID and with it the whole call."""

    CUSTOMER_ID = "customer-id"
    UUID = "uuid"


class DenyList:
    """Of one process: two workers count apart. `key` is secret and random, or callers could choose who shares a bit.

    Hashes are Python's own, which each process seeds anew, too, unless PYTHONHASHSEED says otherwise.
    """

    def __init__(self, settings: Abuse, key: bytes) -> None:
        self._key = key
        self._lock = threading.Lock()
        self._customer_ids = _Watch(settings, settings.uuids_per_customer_id, settings.addresses_per_customer_id)
        self._uuids = _Watch(settings, settings.customer_ids_per_uuid, 0)

    def seen(self, dpid: int, customer_id: str, uuid: str | None, client: str, now: int) -> Denial | None:
        """Count this pair, unless it is denied, and say so if it is, or is from now on.

        `uuid`: the one that the call brought, None where it brought none, never a new one. `client`: see
        `clients.client_address`, "" for unknown. `now` in milliseconds.
        """
        customer_key = hash((self._key, dpid, customer_id))
        uuid_key = hash((self._key, uuid)) if uuid else _NOBODY
        client_key = hash((self._key, client)) if client else _NOBODY
        with self._lock:
            if uuid_key and self._uuids.denies(uuid_key, now):
                return Denial.UUID
            if self._customer_ids.denies(customer_key, now):
                return Denial.CUSTOMER_ID
            # Both are counted before either is judged: which call comes first must not decide what is known of an ID.
            customer_denied = self._customer_ids.count(customer_key, uuid_key, client_key, now)
            if uuid_key and self._uuids.count(uuid_key, customer_key, _NOBODY, now):
                return Denial.UUID
            return Denial.CUSTOMER_ID if customer_denied else None

    def tracked(self) -> int:
        """Entries in memory, at most six times `tracked`: noted, counted and denied ones, customer IDs and UUIDs."""
        with self._lock:
            return len(self._customer_ids) + len(self._uuids)


# An ID, its company of either kind, and since when. A plain tuple of numbers is nothing to the garbage collector, which
# would else look through all of them again and again.
_Seat = tuple[int, int, int, int]


class _Window:
    """What one ID has arrived with since `start`, as two maps of bits."""

    __slots__ = ("first", "second", "start")

    def __init__(self, start: int, first: int, second: int) -> None:
        self.start, self.first, self.second = start, first, second


class _Watch:
    """Counts two kinds of company that IDs of one kind keep, and remembers which of these IDs are denied.

    Of the IDs that were seen in more than one company the latest `tracked` are counted, however many others pass by.
    Denied ones are kept apart, so that a flood of invented IDs does not lift a denial: to push one out takes as many
    denials.
    """

    def __init__(self, settings: Abuse, first_limit: int, second_limit: int) -> None:
        self._tracked = settings.tracked
        self._window, self._term = settings.window_minutes * _MINUTE, settings.deny_minutes * _MINUTE
        # 0 is no limit: there are no more bits than this.
        self._first_limit, self._second_limit = first_limit or SLOTS, second_limit or SLOTS
        self._seats: list[_Seat | None] = [None] * settings.tracked
        self._windows: OrderedDict[int, _Window] = OrderedDict()
        self._denied: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows) + len(self._denied) + len(self._seats) - self._seats.count(None)

    def denies(self, key: int, now: int) -> bool:
        if not self._denied or key not in self._denied:
            return False
        since = self._denied[key]
        # A clock that was set back must not prolong a denial.
        if 0 <= now - since < self._term:
            return True
        del self._denied[key]
        return False

    def count(self, key: int, first: int, second: int, now: int) -> bool:
        """Whether `key` is to be denied from now on. `first`, `second`: its company of either kind, or _NOBODY."""
        window = self._windows.get(key) or self._counted(key, first, second, now)
        if window is None:
            return False
        if not 0 <= now - window.start < self._window:
            window.start, window.first, window.second = now, 0, 0
        self._windows.move_to_end(key)
        window.first |= _bit(first)
        window.second |= _bit(second)
        if window.first.bit_count() <= self._first_limit and window.second.bit_count() <= self._second_limit:
            return False
        del self._windows[key]
        self._denied[key] = now
        if len(self._denied) > self._tracked:
            self._denied.popitem(last=False)
        return True

    def _counted(self, key: int, first: int, second: int, now: int) -> _Window | None:
        """The maps of an ID that has left the one company that it was noted with; None while it has not."""
        place = key % self._tracked
        seat = self._seats[place]
        if seat is None or seat[0] != key or not 0 <= now - seat[3] < self._window:
            self._seats[place] = (key, first, second, now)
            return None
        _, noted_first, noted_second, start = seat
        if first in {noted_first, _NOBODY} and second in {noted_second, _NOBODY}:
            return None
        self._seats[place] = None
        window = self._windows[key] = _Window(start, _bit(noted_first), _bit(noted_second))
        if len(self._windows) > self._tracked:
            self._windows.popitem(last=False)
        return window


def _bit(key: int) -> int:
    return 1 << (key % SLOTS) if key != _NOBODY else 0
