"""An FTP server, plain or with TLS (AUTH TLS, RFC 4217). Always in binary mode: Audience Manager asks for it."""

import ftplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING

from idsync.settings import FtpDestination
from reconcile.delivery import byname
from reconcile.delivery.bandwidth import Bandwidth
from reconcile.delivery.base import LATER
from reconcile.delivery.byname import CHUNK, CannotResume, Unreadable, joined
from reconcile.delivery.secret import password_of
from reconcile.errors import DestinationRefused, DestinationUnavailable
from reconcile.files import FrozenFile

# From Audience Manager's "FTP delivery methods for inbound data" and "Inbound data: beta environment".
HOSTS = {"production": "ftp-in.demdex.com", "beta": "sandbox-ftp-in.demdex.com"}

_TIMEOUT_SECONDS = 60
_NOT_LOGGED_IN = "530"
_UNKNOWN_COMMANDS = ("500", "501", "502", "504")
_NO_FILE = "550"


class FtpDelivery:
    """One connection a file. A cut one is gone on with (REST) where the server can."""

    def __init__(self, destination: FtpDestination) -> None:
        self._destination = destination
        self._host = destination.host or HOSTS[destination.environment or "production"]
        self._bandwidth = Bandwidth(destination.max_megabytes_per_second)
        self._where = f"{destination.kind}://{self._host}:{destination.port}"

    def reach(self) -> None:
        with self._connected(self._where):
            pass

    def deliver(self, path: Path, file: FrozenFile, planned_at: int) -> str:
        where = f"{self._where}/{joined(self._destination.folder, file.name)}"
        with self._connected(where) as client:
            byname.deliver(
                _Folder(client),
                path,
                file,
                where,
                bandwidth=self._bandwidth,
                compare=self._destination.compare,
                read_back=self._destination.kind == "ftp",  # TLS guards the bytes on their way
            )
        return where

    @contextmanager
    def _connected(self, where: str) -> Iterator[ftplib.FTP]:
        """Logged in, in the destination's folder. Errors of the client become ours."""
        destination = self._destination
        password = password_of(destination.name, destination.password, destination.password_file)
        try:
            with self._client() as client:
                client.connect(self._host, destination.port, timeout=_TIMEOUT_SECONDS)
                client.login(destination.user, password or "")
                if isinstance(client, ftplib.FTP_TLS):
                    client.prot_p()
                if destination.folder:
                    client.cwd(destination.folder)
                client.voidcmd("TYPE I")
                yield client
        except ssl.SSLCertVerificationError as error:
            raise DestinationRefused(
                f"{where}: {error.verify_message or error.reason}",
                mend="mend the destination's host, or name the authority of its certificate in tls_ca_file",
            ) from None
        except ftplib.error_perm as error:
            raise self._refused(where, str(error)) from None
        except (ftplib.Error, EOFError, OSError) as error:
            reason = str(error) or "the connection was cut"
            raise DestinationUnavailable(f"{where}: {reason}", mend=LATER) from None

    def _refused(self, where: str, reply: str) -> DestinationRefused:
        mend = "let the user write there, or mend the destination's folder"
        if reply.startswith(_NOT_LOGGED_IN):
            mend = "mend the destination's user, and its password in password_file or the environment"
        elif reply.startswith(_UNKNOWN_COMMANDS):
            mend = "the server lacks what is needed" + (' (TLS: try kind "ftp")' * (self._destination.kind == "ftps"))
        return DestinationRefused(f"{where}: {reply}", mend=f"{mend}; then run again")

    def _client(self) -> ftplib.FTP:
        if self._destination.kind == "ftp":
            return ftplib.FTP()  # noqa: S321 - the owner of the server offers no more
        authority = self._destination.tls_ca_file
        try:
            return _FtpTls(context=ssl.create_default_context(cafile=authority))
        except OSError as error:
            reason = error.strerror or "no certificates"
            raise DestinationRefused(
                f'destination "{self._destination.name}": tls_ca_file {authority}: {reason}',
                mend="name a readable PEM file with the authority's certificate",
            ) from None


class _FtpTls(ftplib.FTP_TLS):
    """Data connections go on with the TLS session of the control connection: many servers refuse others."""

    def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[socket, int | None]:
        connection, size = ftplib.FTP.ntransfercmd(self, cmd, rest)  # noqa: S321
        if not TYPE_CHECKING:
            session = self.sock.session
            connection = self.context.wrap_socket(connection, server_hostname=self.host, session=session)
        return connection, size


class _Folder:
    def __init__(self, client: ftplib.FTP) -> None:
        self._client = client

    def size(self, name: str) -> int | None:
        try:
            return self._client.size(name)
        except ftplib.error_perm as error:
            if str(error).startswith(_NO_FILE):
                return None
            raise

    def read(self, name: str) -> Iterator[bytes]:
        try:
            connection = self._client.transfercmd(f"RETR {name}")
        except ftplib.error_perm:
            raise Unreadable from None
        with connection:
            while piece := connection.recv(CHUNK):
                yield piece
            _end_tls(connection)
        self._client.voidresp()

    def write(self, name: str, pieces: Iterator[bytes], offset: int) -> None:
        try:
            connection = self._client.transfercmd(f"STOR {name}", rest=offset or None)
        except ftplib.error_perm:
            if offset:
                raise CannotResume from None
            raise
        with connection:
            for piece in pieces:
                connection.sendall(piece)
            _end_tls(connection)
        self._client.voidresp()

    def rename(self, old: str, new: str) -> None:
        self._client.rename(old, new)

    def remove(self, name: str) -> None:
        with suppress(ftplib.error_perm):
            self._client.delete(name)


def _end_tls(connection: socket) -> None:
    """Say that these were all bytes: without it a cut looks like an end. Servers that don't answer it are common."""
    if isinstance(connection, ssl.SSLSocket):
        with suppress(OSError):
            connection.unwrap()
