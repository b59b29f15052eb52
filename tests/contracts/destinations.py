"""The kinds of destination that the delivery contract runs on, each on a real server or a strict stand-in."""

import base64
import datetime
import hashlib
import ipaddress
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import boto3
from awscrt.checksums import crc64nvme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import TypeAdapter

from idsync.settings import AnyDestination, Destination
from reconcile.delivery import connect
from reconcile.delivery.base import Delivery
from reconcile.delivery.courier import Courier, Patience
from reconcile.files import FrozenFile
from tests.ftp import PASSWORD, USER, ftp_server
from tests.s3 import strict_s3
from tests.servers import free_port
from tests.sftp import sftp_server

KINDS = ("directory", "directory without links", "strict S3", "moto", "ftp", "ftps", "sftp")
PLANNED_AT = 1_790_000_000_000  # 2026-09-21 in UTC
NAME = "ftp_dpm_12345_1790000000.sync.gz"
KEY = f"acme/date=2026-09-21/{NAME}"
PARTNER = "acme"
PART_MEGABYTES = 6
MEGABYTE = 1_000_000

# Delivers one file and says where it lies. For tests that kill it.
_DELIVER = """
import json, sys
from pathlib import Path
from tests.contracts.destinations import PARTNER, PLANNED_AT, settings_of
from reconcile.delivery import connect
from reconcile.files import FrozenFile
table, path, file = json.loads(sys.argv[1])
print(connect(settings_of(table), PARTNER).deliver(Path(path), FrozenFile(**file), PLANNED_AT))
"""


@dataclass
class Kind:
    """`table` is its TOML table. `held`: what lies there by now, by name. `put`: somebody else takes NAME.

    `growing`: how many bytes of a file that is not whole have arrived. `wrong`: settings with credentials that are not
    taken. `away`: settings with which there is nobody.
    """

    table: dict[str, Any]
    held: Callable[[], Mapping[str, bytes]]
    put: Callable[[bytes], object]
    growing: Callable[[], int] = lambda: 0
    wrong: Mapping[str, Any] = field(default_factory=dict)
    away: Mapping[str, Any] = field(default_factory=dict)

    def delivery(self, **changes: Any) -> Delivery:
        """Tries once."""
        return connect(settings_of(self.table | changes), PARTNER)

    def courier(self, **changes: Any) -> Courier:
        """Tries again for a bounded time, hardly pausing."""
        return Courier(self.delivery(**changes), Patience(60, time.monotonic, chance=lambda: 0.001))

    def start(self, path: Path, file: FrozenFile, **changes: Any) -> "subprocess.Popen[bytes]":
        """A process that delivers."""
        told = json.dumps([self.table | changes, str(path), asdict(file)])
        return subprocess.Popen([sys.executable, "-c", _DELIVER, told], stdout=subprocess.PIPE)


def frozen(folder: Path, data: bytes, name: str = NAME) -> tuple[Path, FrozenFile]:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(data)
    crc = base64.b64encode(crc64nvme(data).to_bytes(8, "big")).decode()
    return path, FrozenFile(name, len(data), len(data), 1, hashlib.sha256(data).hexdigest(), crc=crc)


def large() -> bytes:
    """Three parts for S3, the last one short."""
    return random.Random(1).randbytes(2 * PART_MEGABYTES * MEGABYTE + 77_777)


def settings_of(table: Mapping[str, Any]) -> AnyDestination:
    found: AnyDestination = TypeAdapter(Destination).validate_python(table)
    return found


@contextmanager
def opened(kind: str, folder: Path, moto: Callable[[], str]) -> Iterator[Kind]:
    if kind in _OPEN:
        with _OPEN[kind](folder) as made:
            yield made
        return
    yield _moto(moto(), folder)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*")} if folder.exists() else {}


def _grown(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob(".*"))


@contextmanager
def _directory(folder: Path) -> Iterator[Kind]:
    out = folder / "out" / "deep"

    def take(data: bytes) -> None:
        out.mkdir(parents=True)
        (out / NAME).write_bytes(data)

    (folder / "a-file").write_text("no folder")
    yield Kind(
        {"kind": "directory", "name": "local", "path": str(out)},
        lambda: files(out),
        take,
        wrong={"path": str(folder / "a-file")},
    )


def s3_table(url: str, bucket: str = "inbound") -> dict[str, Any]:
    about = {"kind": "s3", "name": "s3", "bucket": bucket, "endpoint_url": url, "region": "us-east-1"}
    return {**about, "part_megabytes": PART_MEGABYTES}


@contextmanager
def _strict(folder: Path) -> Iterator[Kind]:
    with strict_s3() as server:
        yield Kind(
            s3_table(server.url),
            lambda: {path.removeprefix("/inbound/"): data for path, data in server.objects.items()},
            lambda data: server.objects.update({f"/inbound/{KEY}": data}),
            lambda: sum(len(part) for upload in server.uploads.values() for part in upload.parts.values()),
            away={"endpoint_url": f"http://127.0.0.1:{free_port()}"},
            wrong={"bucket": "another-bucket"},
        )


def _moto(url: str, folder: Path) -> Kind:
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
    bucket = folder.parent.name.replace("_", "-")[:20].strip("-") + f"-{time.monotonic_ns()}"
    client.create_bucket(Bucket=bucket)

    def held() -> dict[str, bytes]:
        keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket).get("Contents", [])]
        return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    def growing() -> int:
        uploads = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        listed = [client.list_parts(Bucket=bucket, Key=each["Key"], UploadId=each["UploadId"]) for each in uploads]
        return sum(part["Size"] for parts in listed for part in parts.get("Parts", []))

    return Kind(
        s3_table(url, bucket),
        held,
        lambda data: client.put_object(Bucket=bucket, Key=KEY, Body=data),
        growing,
        away={"endpoint_url": f"http://127.0.0.1:{free_port()}"},
        wrong={"bucket": "another-bucket"},
    )


def _in_folder(folder: Path, table: dict[str, Any], wrong: Mapping[str, Any]) -> Kind:
    return Kind(
        {"name": "server", "host": "127.0.0.1", **table},
        lambda: files(folder),
        (folder / NAME).write_bytes,
        lambda: _grown(folder),
        wrong,
        {"port": free_port()},
    )


def ftp_table(folder: Path, port: int, **more: Any) -> dict[str, Any]:
    password, wrong = folder / "password", folder / "wrong-password"
    for path, text in ((password, PASSWORD), (wrong, "guessed")):
        path.write_text(f"{text}\n")
        path.chmod(0o600)
    about = {"kind": "ftp", "name": "server", "host": "127.0.0.1", "port": port, "user": USER}
    return {**about, "password_file": str(password), **more}


@contextmanager
def _ftp(folder: Path) -> Iterator[Kind]:
    with ftp_server(folder / "inbox") as server:
        table = ftp_table(folder, server.port)
        yield _in_folder(server.folder, table, {"password_file": str(folder / "wrong-password")})


@contextmanager
def _ftps(folder: Path) -> Iterator[Kind]:
    certificate = self_signed(folder)
    with ftp_server(folder / "inbox", certificate=certificate) as server:
        table = ftp_table(folder, server.port, kind="ftps", tls_ca_file=str(certificate))
        yield _in_folder(server.folder, table, {"password_file": str(folder / "wrong-password")})


@contextmanager
def _sftp(folder: Path) -> Iterator[Kind]:
    with sftp_server(folder / "server") as server:
        about = {"kind": "sftp", "port": server.port, "user": server.user, "folder": str(server.folder)}
        table = {**about, "key_file": str(server.key), "host_keys": [server.host_key]}
        yield _in_folder(server.folder, table, {"key_file": str(server.wrong_key)})


def self_signed(folder: Path) -> Path:
    """A certificate of 127.0.0.1 with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    today = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(*form))
    return path


_OPEN = {
    "directory": _directory,
    "directory without links": _directory,
    "strict S3": _strict,
    "ftp": _ftp,
    "ftps": _ftps,
    "sftp": _sftp,
}
