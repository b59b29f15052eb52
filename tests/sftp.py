"""OpenSSH's server on 127.0.0.1, as a process of the user who runs the tests, with keys of its own."""

import base64
import getpass
import hashlib
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import paramiko
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_SUCCEEDED

from tests.servers import START_SECONDS, free_port, wait_until

PASSPHRASE = "open sesame"


@dataclass
class Sftp:
    """`folder` is where files go. `key` opens the door, `locked_key` too, with PASSPHRASE; `wrong_key` does not."""

    folder: Path
    port: int
    host_key: str  # its fingerprint
    known_hosts: Path
    key: Path
    locked_key: Path
    wrong_key: Path
    user: str


def _key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return path


def public(key: Path) -> str:
    return key.with_name(f"{key.name}.pub").read_text()


def fingerprint(key: Path) -> str:
    shown = subprocess.run(["ssh-keygen", "-l", "-f", key], check=True, capture_output=True, text=True, timeout=60)
    return shown.stdout.split()[1]


@contextmanager
def sftp_server(folder: Path, *, denied: Sequence[str] = (), host_kind: str = "ed25519") -> Iterator[Sftp]:
    """`denied`: requests of the protocol that it refuses, as sftp-server names them."""
    home, port = folder / "sshd", free_port()
    inbox = folder / "inbox"
    for each in (home, inbox):
        each.mkdir(parents=True)
    host, key, locked, wrong = (
        _key(home / name, kind, passphrase)
        for name, kind, passphrase in (
            ("host", host_kind, ""),
            ("key", "ed25519", ""),
            ("locked", "ed25519", PASSPHRASE),
            ("wrong", "ed25519", ""),
        )
    )
    (home / "authorized").write_text(public(key) + public(locked))
    (home / "known").write_text(f"[127.0.0.1]:{port} {public(host)}")
    options = f" -P {','.join(denied)}" if denied else ""
    (home / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host}\nAuthorizedKeysFile {home / 'authorized'}\n"
        "StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication yes\nKbdInteractiveAuthentication no\n"
        f"PermitRootLogin yes\nUseDNS no\nSubsystem sftp internal-sftp{options}\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd locks its unprivileged half in; a service's start makes it
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", home / "config"], stdout=log, stderr=log)
    try:
        wait_until(lambda: _answers(process, port, home), "sshd's start")
        known, user = home / "known", getpass.getuser()
        yield Sftp(inbox, port, fingerprint(host), known, key, locked, wrong, user)
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _answers(process: "subprocess.Popen[bytes]", port: int, home: Path) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"sshd ended: {(home / 'log').read_text()[-500:]}")
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class _Door(paramiko.ServerInterface):
    """Opens to one user with one password."""

    def __init__(self, user: str, password: str) -> None:
        self._known = (user, password)

    def get_allowed_auths(self, username: str) -> str:
        return "password"

    def check_auth_password(self, username: str, password: str) -> int:
        return AUTH_SUCCESSFUL if (username, password) == self._known else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED


class _Nothing(paramiko.SFTPServerInterface):
    def stat(self, path: str) -> paramiko.SFTPAttributes | int:
        return paramiko.SFTPAttributes()


@contextmanager
def password_server(user: str, password: str) -> Iterator[tuple[int, str]]:
    """Port and host key's fingerprint of a server that holds nothing, and takes this password."""
    key = paramiko.RSAKey.generate(2048)
    listener = socket.create_server(("127.0.0.1", 0))
    sessions: list[paramiko.Transport] = []

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            session = paramiko.Transport(client)
            session.add_server_key(key)
            session.set_subsystem_handler("sftp", paramiko.SFTPServer, _Nothing)
            session.start_server(server=_Door(user, password))
            sessions.append(session)

    thread = Thread(target=serve, daemon=True)
    thread.start()
    try:
        shown = base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")
        yield listener.getsockname()[1], f"SHA256:{shown}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for session in sessions:
            session.close()
