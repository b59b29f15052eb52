"""How an opt-out is remembered: by a token, from which the ID can't be read back. Pure.

    <DPID>:<SHA-1 of "<DPID>:<customer ID>">     of a customer
    uuid:<SHA-1 of the UUID as 19 packed bytes>  of a device

An opt-out never ends, and outlives the erasure of all else that is known of a person: so it must not hold the ID. A
hash of a guessable ID can be found by trying, which is what every sync call does: a token is a pseudonym, no more.
SHA-1, because Redis' scripts know no other and DuckDB knows it too; nothing here depends on its resistance to
collisions.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from idsync.ids import UUID_DIGITS

TAIL_DIGITS = 8
_POWERS = 10 ** np.arange(TAIL_DIGITS - 1, -1, -1)


class OptOut(NamedTuple):
    """What a person asked for. `customers` are (DPID, customer ID); `at` in milliseconds.

    `takes_devices`: the device last linked to each customer is opted out along.
    """

    customers: tuple[tuple[int, str], ...]
    uuids: tuple[str, ...]
    at: int
    takes_devices: bool


class Token(NamedTuple):
    """`tail`: the last digits of a device's UUID, by which whole columns are searched; "" of a customer. `owner`: the
    token of the customer whom a device goes along with; "" where it is opted out on its own account.
    """

    name: str
    tail: str = ""
    owner: str = ""


def customer_token(dpid: int, customer_id: str) -> Token:
    digest = hashlib.sha1(f"{dpid}:{customer_id}".encode(), usedforsecurity=False).hexdigest()
    return Token(f"{dpid}:{digest}")


def device_token(uuid: str, owner: str = "") -> Token:
    digest = hashlib.sha1(bytes.fromhex(uuid), usedforsecurity=False).hexdigest()
    return Token(f"uuid:{digest}", uuid[-TAIL_DIGITS:], owner)


class OptedOutDevices:
    """The opted-out devices of a store, to find theirs among many mappings."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        held = list(tokens)
        self._names = {token.name for token in held}
        self._tails = np.unique(np.array([int(token.tail) for token in held], dtype=np.int64))

    def __bool__(self) -> bool:
        return bool(self._names)

    def holds(self, uuid: str) -> bool:
        return device_token(uuid).name in self._names

    def among(self, uuids: pa.StringArray) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        """Which of these UUIDs, without nulls, are opted out: a look at the tails first, which clears nearly all."""
        if not self or not len(uuids):
            return np.zeros(len(uuids), dtype=np.bool_)
        start = uuids.offset * UUID_DIGITS
        text = np.frombuffer(uuids.buffers()[2], np.uint8)[start : start + len(uuids) * UUID_DIGITS]
        digits = text.reshape(-1, UUID_DIGITS)[:, -TAIL_DIGITS:] - ord("0")
        found: np.ndarray[tuple[int], np.dtype[np.bool_]] = np.isin(digits @ _POWERS, self._tails)
        for at in np.flatnonzero(found):
            found[at] = self.holds(uuids[at].as_py())
        return found


def without(batch: pa.RecordBatch, devices: OptedOutDevices) -> pa.RecordBatch:
    """The mappings of a batch of EXPORT_SCHEMA whose devices are not opted out."""
    out = devices.among(batch.column("uuid"))
    return batch.filter(pa.array(~out)) if out.any() else batch


def tokens_of(customers: Sequence[tuple[int, str]], uuids: Sequence[str]) -> list[Token]:
    return [customer_token(*customer) for customer in customers] + [device_token(uuid) for uuid in uuids]
