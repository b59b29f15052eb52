"""Encrypting lines for Audience Manager, through GnuPG: OpenPGP, AES-256, one key that is pinned, nothing compressed.

Limits, from Audience Manager's documentation, "File PGP encryption for inbound data": AES only; a name that ends in
.gpg or .pgp; a file that is encrypted must not be gzipped.

GnuPG rather than a library: Audience Manager's key is of 2013, and its self-signatures are made with SHA-1, which
libraries with a current policy refuse. Which key is right is not told by signatures here, but by the fingerprint in
the settings. Encryption takes a new session key each time, so no two encryptions are alike: what is frozen is kept, and
never encrypted again.
"""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory, TemporaryFile
from threading import Thread
from typing import IO, NamedTuple

from idsync.errors import ConfigError
from idsync.settings import Pgp

_CHUNK = 1 << 16
_STOP_SECONDS = 60
_OPTIONS = (
    *("gpg", "--no-options", "--batch", "--no-tty", "--quiet", "--no-autostart", "--no-auto-key-locate"),
    # RFC 4880 as everybody reads it; with keys of today GnuPG would else choose newer packets
    *("--rfc4880", "--no-greeting", "--lock-never"),
    # of keys whose signatures are made with SHA-1; see above
    "--allow-weak-key-signatures",
)
_ENCRYPT = (
    *("--trust-model", "always", "--no-encrypt-to", "--cipher-algo", "AES256"),
    *("--compress-algo", "none", "-z", "0", "--output", "-", "--encrypt"),
)
_CAN_ENCRYPT = "e"
# Field 2 of a key's line with --with-colons, from GnuPG's doc/DETAILS.
_UNUSABLE = {"e": "has expired", "r": "was revoked", "d": "is disabled", "i": "is invalid", "n": "is invalid"}


class Recipient:
    """Somebody whose key has been seen to be the right one, and can be encrypted for."""

    def __init__(self, home: Path, fingerprint: str) -> None:
        self._home, self._fingerprint = home, fingerprint
        self._packers: list[PgpPacker] = []

    def packer(self) -> "PgpPacker":
        """For one file. Used like a compressor."""
        # the exclamation mark: with this very subkey, not with the one that GnuPG likes best
        made = PgpPacker((*_command(self._home), *_ENCRYPT, "--recipient", f"{self._fingerprint}!"))
        self._packers.append(made)
        return made

    def close(self) -> None:
        """Stop what has not come to its end."""
        for packer in self._packers:
            packer.drop()


@contextmanager
def opened(pgp: Pgp) -> Iterator[Recipient]:
    """The recipient of the settings, from a key ring that is made for this and goes at the end.

    Raises ConfigError: no GnuPG, a file that holds no key or not the one that is pinned, a key that can't be used.
    """
    if shutil.which("gpg") is None:
        raise _fault('feeds with compression = "pgp" need GnuPG: install the program gpg (package gnupg)')
    try:
        key = pgp.public_key_file.read_bytes()
    except OSError as error:
        raise _fault(f"pgp.public_key_file = {pgp.public_key_file}: {error.strerror}") from None
    with TemporaryDirectory(prefix="idsync-gpg-", ignore_cleanup_errors=True) as home:  # made with mode 700
        done = _run(Path(home), ("--import",), key)
        if done.returncode and not _keys(Path(home)):
            raise _fault(
                f"pgp.public_key_file = {pgp.public_key_file}: holds no OpenPGP key that gpg can read{_last(done)}"
            )
        if problem := _problem(_keys(Path(home)), pgp.fingerprint):
            raise _fault(f"pgp.fingerprint = {pgp.fingerprint}: {problem}, in {pgp.public_key_file}")
        recipient = Recipient(Path(home), pgp.fingerprint)
        try:
            yield recipient
        finally:
            recipient.close()


class PgpPacker:
    """One encryption under way, with the calls of a compressor: text in, whatever is ready out."""

    def __init__(self, command: Sequence[str]) -> None:
        self._complaints: IO[bytes] = TemporaryFile()  # noqa: SIM115 - closed by `drop`
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints, bufsize=0
        )
        self._ready: SimpleQueue[bytes] = SimpleQueue()
        self._reader = Thread(target=self._read, name="gpg", daemon=True)
        self._reader.start()

    def compress(self, text: bytes | memoryview) -> bytes:
        """Take `text`; the ciphertext that has come out since the last call."""
        try:
            left = memoryview(text)
            while left:
                left = left[self._stdin.write(left) :]
        except BrokenPipeError:
            raise self._failed() from None
        return self._come_out()

    def flush(self) -> bytes:
        """The rest of the ciphertext. Raises ConfigError where gpg did not encrypt to the end."""
        self._stdin.close()
        self._reader.join()
        if self._process.wait(_STOP_SECONDS):
            raise self._failed()
        rest = self._come_out()
        self.drop()
        return rest

    def drop(self) -> None:
        """Stop, if need be in the middle."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout, self._complaints):
            if pipe is not None:
                pipe.close()

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None  # noqa: S101 - it was asked for
        return self._process.stdin

    def _read(self) -> None:
        pipe = self._process.stdout
        while pipe and (piece := pipe.read(_CHUNK)):
            self._ready.put(piece)

    def _come_out(self) -> bytes:
        return b"".join(self._ready.get_nowait() for _ in range(self._ready.qsize()))

    def _failed(self) -> ConfigError:
        status = self._process.wait(_STOP_SECONDS)
        self._complaints.seek(0)
        said = self._complaints.read().decode(errors="replace").strip()
        self.drop()
        return _fault(f"gpg ended with status {status} while it encrypted{f': {said}' if said else ''}")


class _Key(NamedTuple):
    """A primary key or subkey as gpg lists it; `primary` is the place in the list of the key that it belongs to."""

    primary: int
    validity: str
    abilities: str
    fingerprint: str


def _problem(keys: Sequence[_Key], fingerprint: str) -> str | None:
    """Why nothing can be encrypted for the key with this fingerprint, if so."""
    usable = [key for key in keys if _CAN_ENCRYPT in key.abilities and key.validity not in _UNUSABLE]
    found = next((key for key in keys if key.fingerprint == fingerprint), None)
    if found is None:
        shown = ", ".join(key.fingerprint for key in usable) or "none"
        return (
            f"no such key (subkeys there that can encrypt: {shown}). If the recipient has a new key, see by another "
            "way that it is theirs, and put its fingerprint into the settings"
        )
    for key in (found, keys[found.primary]):
        if key.validity in _UNUSABLE:
            return f"the key {_UNUSABLE[key.validity]}; ask the recipient for the current one"
    if _CAN_ENCRYPT not in found.abilities:
        shown = ", ".join(key.fingerprint for key in usable if key.primary == found.primary) or "none"
        return f"this key can't encrypt; give the fingerprint of its encryption subkey ({shown})"
    return None


def _keys(home: Path) -> list[_Key]:
    """Source of the format: GnuPG's doc/DETAILS."""
    listing = _run(home, ("--with-colons", "--with-fingerprint", "--with-subkey-fingerprint", "--list-keys"))
    keys: list[_Key] = []
    primary = 0
    for line in listing.stdout.decode(errors="replace").splitlines():
        fields = line.split(":")
        if fields[0] in {"pub", "sub"}:
            primary = len(keys) if fields[0] == "pub" else primary
            own = "".join(letter for letter in fields[11] if letter.islower())  # capitals are of the key as a whole
            keys.append(_Key(primary, fields[1], own, ""))
        elif fields[0] == "fpr":
            keys[-1] = keys[-1]._replace(fingerprint=fields[9])
    return keys


def _run(home: Path, arguments: Sequence[str], given: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([*_command(home), *arguments], input=given, capture_output=True, check=False)


def _command(home: Path) -> tuple[str, ...]:
    return (_OPTIONS[0], "--homedir", str(home), *_OPTIONS[1:])


def _last(done: "subprocess.CompletedProcess[bytes]") -> str:
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return f" ({lines[-1]})" if lines else ""


def _fault(problem: str) -> ConfigError:
    return ConfigError("encryption", [problem])
