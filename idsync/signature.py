"""Signed syncs: proof that the site itself names this customer ID, and not just any page that knows the endpoint's URL.

    d_sig=<key ID>.<expiry>.<mac>         expiry: UTC seconds, decimal
                                          mac: HMAC-SHA-256 in base64url without padding, over UTF-8 of the lines

    idsync-sync-v1
    <DPID>
    <customer ID>
    <UUID>                                d_uuid of the call; empty where it has none
    <expiry>

A signature holds for one ID. One without a UUID holds for every device: until it expires, whoever has it can tie that
ID to the device of anybody whom they bring to call the URL. So it expires soon, and it cannot be made to last.

Keys are read from a file, one a line, `<key ID> <secret in hex>`. The first signs, all verify: a new key is put first,
and the old one leaves when all that it has signed has expired.
"""

import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Protocol
from urllib.parse import quote

from idsync.errors import ConfigError
from idsync.settings import DataSource

# Long enough for a link in a newsletter; a URL that leaks into a log or a Referer is worth nothing a week later.
MAX_VALID_SECONDS = 7 * 86_400
# As many as a call may carry customer IDs: the work that a stranger can cause has an end.
MAX_SIGNATURES = 10

_SIGNATURE = re.compile(r"([A-Za-z0-9_-]{1,32})\.([1-9][0-9]{0,9})\.([A-Za-z0-9_-]{43})")
# As long as the hash, and no longer secret is any safer.
_KEY = re.compile(r"([A-Za-z0-9_-]{1,32})[ \t]+((?:[0-9A-Fa-f]{2}){32,})")
# Others may not read a secret, and only its owner may put one of theirs in. A group that reads is how services get it.
_FORBIDDEN_MODE = 0o027


class Reason(Enum):
    """Why a customer ID is not proven; `explanation` is for the caller. In the order of how far a signature came."""

    MISSING = ("missing", "d_sig is missing; this data source takes signed calls only")
    MALFORMED = ("malformed", f"d_sig must be <key ID>.<expiry>.<mac>, {MAX_SIGNATURES} times at most")
    UNKNOWN_KEY = ("unknown-key", "d_sig names a key that this data source does not have")
    MISMATCH = ("mismatch", "d_sig is not for this DPID, customer ID, UUID and expiry, or made with another secret")
    EXPIRED = ("expired", "d_sig has expired; sign when the page is made, or for longer")
    TOO_FAR_AHEAD = ("too-far-ahead", f"d_sig may expire {MAX_VALID_SECONDS // 86_400} days from now at the latest")

    def __init__(self, label: str, explanation: str) -> None:
        self.label = label
        self.explanation = explanation


_PROGRESS = tuple(Reason)


@dataclass(frozen=True, slots=True)
class Keys:
    """Secrets by key ID, at least one; the first signs. What is printed of it tells none."""

    secrets: Mapping[str, bytes] = field(repr=False)


class KeyFile(Protocol):
    """What of a Path is needed here."""

    def read_bytes(self) -> bytes: ...
    def stat(self) -> "_Status": ...


class _Status(Protocol):
    @property
    def st_mode(self) -> int: ...


def verify(  # noqa: PLR0917  in the order of the message
    keys: Keys, signatures: Sequence[str], dpid: int, customer_id: str, uuid: str, now_seconds: int
) -> Reason | None:
    """None if one of `signatures` proves the ID; else the reason of the one that came nearest to it.

    `customer_id` and `uuid` ("" for none) have passed the rules of `ids`: with no line break in them a message can be
    read in one way only.
    """
    if not signatures:
        return Reason.MISSING
    if len(signatures) > MAX_SIGNATURES:
        return Reason.MALFORMED
    reasons = [_fault(keys, signature, dpid, customer_id, uuid, now_seconds=now_seconds) for signature in signatures]
    return None if None in reasons else max(filter(None, reasons), key=_PROGRESS.index)


def sign(keys: Keys, dpid: int, customer_id: str, uuid: str, expires: int) -> str:
    """The value of d_sig, made with the first key; `expires` in UTC seconds, `uuid` "" for none."""
    key_id, secret = next(iter(keys.secrets.items()))
    return f"{key_id}.{expires}.{_mac(secret, dpid, customer_id, uuid, str(expires))}"


def query(dpid: int, customer_id: str, uuid: str, signature: str) -> str:
    """The parameters of a signed call, as they stand behind `/sync?` or `/ibs:`."""
    parameters = {"dpid": str(dpid), "dpuuid": customer_id, "d_uuid": uuid, "d_sig": signature}
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items() if value)


def read_all(sources: Sequence[DataSource]) -> dict[int, Keys]:
    """The keys by DPID of the data sources that verify. Raises ConfigError with the faults of all files at once."""
    keys, faults = {}, []
    for source in sources:
        if source.signature == "off" or source.signing_keys_file is None:
            continue
        try:
            keys[source.dpid] = read_keys(source.signing_keys_file)
        except ConfigError as error:
            faults += [f'signing_keys_file of data source "{source.name}": {fault}' for fault in error.faults]
    if faults:
        raise ConfigError("signing keys", faults)
    return keys


def read_keys(file: KeyFile) -> Keys:
    """The keys in `file`, which is read once. Raises ConfigError with every fault; no fault quotes a line."""
    try:
        mode, content = file.stat().st_mode, file.read_bytes()
    except OSError as error:
        raise ConfigError(str(file), [f"can't be read: {error.strerror}"]) from None
    faults = []
    if mode & _FORBIDDEN_MODE:
        faults.append(f"open to others (mode {mode & 0o777:04o}): whoever reads a key can sign; chmod 600 or 640")
    secrets: dict[str, bytes] = {}
    # Bytes that are no UTF-8 become characters that no key has.
    for number, line in _lines(content.decode(errors="replace")):
        if not (match := _KEY.fullmatch(line)):
            faults.append(f"line {number}: must be a key ID of A-Z a-z 0-9 _ -, a space, and 64 or more hex digits")
        elif match[1] in secrets:
            faults.append(f"line {number}: the key ID stands on an earlier line too")
        elif (secret := bytes.fromhex(match[2])) in secrets.values():
            faults.append(f"line {number}: the secret is that of an earlier line; draw a new one: openssl rand -hex 32")
        else:
            secrets[match[1]] = secret
    if not secrets and not faults:
        faults.append("holds no key; a line is a key ID, a space, and what `openssl rand -hex 32` prints")
    if faults:
        raise ConfigError(str(file), faults)
    return Keys(MappingProxyType(secrets))


# --- parts -----------------------------------------------------------------------------------------------------------


def _fault(keys: Keys, signature: str, dpid: int, customer_id: str, uuid: str, *, now_seconds: int) -> Reason | None:
    match = _SIGNATURE.fullmatch(signature)
    if match is None:
        return Reason.MALFORMED
    key_id, expiry, mac = match.groups()
    secret = keys.secrets.get(key_id)
    if secret is None:
        return Reason.UNKNOWN_KEY
    # As text: base64 has several spellings of one value, and a signature is to have one.
    if not hmac.compare_digest(mac, _mac(secret, dpid, customer_id, uuid, expiry)):
        return Reason.MISMATCH
    if int(expiry) <= now_seconds:
        return Reason.EXPIRED
    if int(expiry) > now_seconds + MAX_VALID_SECONDS:
        return Reason.TOO_FAR_AHEAD
    return None


def _mac(secret: bytes, dpid: int, customer_id: str, uuid: str, expiry: str) -> str:
    message = f"idsync-sync-v1\n{dpid}\n{customer_id}\n{uuid}\n{expiry}"
    return urlsafe_b64encode(hmac.digest(secret, message.encode(), "sha256")).rstrip(b"=").decode()


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of the lines that are neither blank nor a comment."""
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip(" \t\r")
        if stripped and not stripped.startswith("#"):
            yield number, stripped
