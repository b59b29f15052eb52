"""A server that speaks SFTP. It must show a host key that is known: nothing is sent to one that is not."""

import base64
import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import paramiko
from paramiko.ssh_exception import IncompatiblePeer, NoValidConnectionsError

from idsync.settings import SftpDestination
from reconcile.delivery import byname
from reconcile.delivery.bandwidth import Bandwidth
from reconcile.delivery.base import LATER
from reconcile.delivery.byname import CHUNK, CannotResume, NameTaken, Unreadable, joined
from reconcile.delivery.secret import password_of, see_private
from reconcile.errors import DestinationRefused, DestinationUnavailable
from reconcile.files import FrozenFile

# From Audience Manager's "Set up SFTP for inbound data"; no page names a host for beta.
HOSTS = {"production": "ftp-in-gtw.demdex.com"}

_TIMEOUT_SECONDS = 60
_READ_AHEAD = 64  # requests under way while reading back

# What it would tell, tracebacks of its thread included, reaches us as exceptions.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class SftpDelivery:
    """One connection a file. A cut one is gone on with where the server can."""

    def __init__(self, destination: SftpDestination) -> None:
        self._destination = destination
        self._host = destination.host or HOSTS[destination.environment or "production"]
        self._bandwidth = Bandwidth(destination.max_megabytes_per_second)
        self._where = f"sftp://{self._host}:{destination.port}"

    @property
    def host(self) -> str:
        return self._host

    @property
    def where(self) -> str:
        """The server, as a URL."""
        return self._where

    @contextmanager
    def session(self) -> Iterator[paramiko.SFTPClient]:
        """For who reads there. Raises as a delivery does."""
        with self._connected(self._where) as client, self._telling(self._where):
            yield client

    def reach(self) -> None:
        with self._connected(self._where) as client, self._telling(self._where):
            client.stat(self._destination.folder or ".")

    def deliver(self, path: Path, file: FrozenFile, planned_at: int) -> str:
        folder = self._destination.folder
        where = f"{self._where}/{joined(folder, file.name).lstrip('/')}"
        with self._connected(where) as client, self._telling(where):
            byname.deliver(
                _Folder(client, folder),
                path,
                file,
                where,
                bandwidth=self._bandwidth,
                compare=self._destination.compare,
                read_back=False,  # SSH guards the bytes on their way
            )
        return where

    @contextmanager
    def _connected(self, where: str) -> Iterator[paramiko.SFTPClient]:
        destination = self._destination
        password = password_of(destination.name, destination.password, destination.password_file)
        key = self._key(password)
        with paramiko.SSHClient() as ssh:
            self._trust(ssh)
            try:
                ssh.connect(
                    self._host,
                    destination.port,
                    destination.user,
                    password=None if key else password,
                    pkey=key,
                    timeout=_TIMEOUT_SECONDS,
                    banner_timeout=_TIMEOUT_SECONDS,
                    auth_timeout=_TIMEOUT_SECONDS,
                    channel_timeout=_TIMEOUT_SECONDS,
                    allow_agent=False,
                    look_for_keys=False,
                )
                client = ssh.open_sftp()
            except (paramiko.BadHostKeyException, _UnknownHost) as error:
                raise DestinationRefused(
                    f"{where}: the server's key is {_shown(error.key)}, which is not one that is known",
                    mend="ask its operator for the fingerprints; if this is one of them, put it into host_keys or "
                    "known_hosts_file; if not, somebody may be in between. Nothing was sent",
                ) from None
            except paramiko.AuthenticationException as error:
                raise DestinationRefused(
                    f"{where}: {error}", mend="mend the destination's user, key_file or password; then run again"
                ) from None
            except IncompatiblePeer as error:
                raise DestinationRefused(
                    f"{where}: {error}", mend="the server speaks only what is unsafe by now: have it mended"
                ) from None
            except NoValidConnectionsError as error:
                raise DestinationUnavailable(f"{where}: {error.strerror}", mend=LATER) from None
            except (paramiko.SSHException, EOFError, OSError) as error:
                raise DestinationUnavailable(f"{where}: {_reason(error)}", mend=LATER) from None
            channel = client.get_channel()
            if channel is not None:
                channel.settimeout(_TIMEOUT_SECONDS)
            try:
                yield client
            finally:
                with suppress(paramiko.SSHException, EOFError, OSError):  # a connection that was cut can't be closed
                    client.close()

    def _trust(self, ssh: paramiko.SSHClient) -> None:
        """Only the keys that the settings name; never those of the user's own known_hosts."""
        known = self._destination.known_hosts_file
        if known:
            try:
                ssh.load_host_keys(str(known))
            except (OSError, paramiko.SSHException) as error:
                raise DestinationRefused(
                    f'destination "{self._destination.name}": known_hosts_file {known}: {_reason(error)}',
                    mend="name a readable file in the format of OpenSSH's known_hosts",
                ) from None
        ssh.set_missing_host_key_policy(_Pinned(self._destination.host_keys))

    def _key(self, passphrase: str | None) -> paramiko.PKey | None:
        file = self._destination.key_file
        if file is None:
            return None
        see_private(self._destination.name, "key_file", file)
        try:
            secret: Any = passphrase.encode() if passphrase else None  # the stubs want str, the cryptography bytes
            return paramiko.PKey.from_path(file, secret)
        except Exception:  # noqa: BLE001 - it lets errors of the cryptography below through, of many kinds
            which = "with the passphrase given" if passphrase else "without a passphrase"
            raise DestinationRefused(
                f'destination "{self._destination.name}": key_file {file}: can\'t be read as a private key {which}',
                mend="name a private key in OpenSSH's format; its passphrase, if it has one, comes in password_file "
                "or the environment",
            ) from None

    @contextmanager
    def _telling(self, where: str) -> Iterator[None]:
        """Errors of a session become ours."""
        try:
            yield
        except (PermissionError, FileNotFoundError) as error:
            raise DestinationRefused(
                f"{where}: {_reason(error)}",
                mend="let the user write there, or mend the destination's folder; then run again",
            ) from None
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise DestinationUnavailable(f"{where}: {_reason(error)}", mend=LATER) from None


class _UnknownHost(Exception):
    def __init__(self, key: paramiko.PKey) -> None:
        super().__init__()
        self.key = key


class _Pinned(paramiko.MissingHostKeyPolicy):
    """For hosts that known_hosts does not name: the key's fingerprint must be among these."""

    def __init__(self, fingerprints: tuple[str, ...]) -> None:
        self._fingerprints = fingerprints

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        if _fingerprint(key) not in self._fingerprints:
            raise _UnknownHost(key)


class _Folder:
    def __init__(self, client: paramiko.SFTPClient, folder: str) -> None:
        self._client, self._folder = client, folder

    def size(self, name: str) -> int | None:
        try:
            return self._client.stat(self._path(name)).st_size
        except FileNotFoundError:
            return None

    def read(self, name: str) -> Iterator[bytes]:
        try:
            with self._client.open(self._path(name), "rb") as file:
                file.prefetch(max_concurrent_requests=_READ_AHEAD)
                while piece := file.read(CHUNK):
                    yield piece
        except PermissionError:
            raise Unreadable from None

    def write(self, name: str, pieces: Iterator[bytes], offset: int) -> None:
        try:
            file = self._client.open(self._path(name), "r+b" if offset else "wb")
        except OSError:
            if offset:
                raise CannotResume from None
            raise
        with file:
            file.set_pipelined(True)
            file.seek(offset)
            for piece in pieces:
                file.write(piece)

    def rename(self, old: str, new: str) -> None:
        """The protocol's own rename, which must not replace; OpenSSH's extension, posix-rename, would."""
        try:
            self._client.rename(self._path(old), self._path(new))
        except PermissionError:
            raise
        except OSError:
            if self.size(new) is not None:
                raise NameTaken from None
            raise

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._client.remove(self._path(name))

    def _path(self, name: str) -> str:
        return joined(self._folder, name)


def _fingerprint(key: paramiko.PKey) -> str:
    """As ssh-keygen -l prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")


def _shown(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {_fingerprint(key)}"


def _reason(error: Exception) -> str:
    return str(error) or "the connection was cut"
