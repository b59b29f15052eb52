"""What of a file has been uploaded in parts: written down beside it, so that a killed upload is gone on with.

Written down rather than asked for: to list parts or uploads takes rights that the owner of the bucket need not give.
What is written is no proof. S3 checks each part when it arrives, and the whole when the parts are put together.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

from awscrt.checksums import combine_crc64nvme, crc64nvme

from reconcile import durable
from reconcile.files import FrozenFile

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes `offset` to `offset + length` of a file; `number` counts from 1. `crc` and `md5` are in base64; `md5` is
    empty where nobody asked for it: it takes longer than all else."""

    number: int
    offset: int
    length: int
    crc: str
    md5: str


@dataclass(frozen=True, slots=True)
class Measured:
    """A file read once: its parts, its CRC-64/NVME in base64 (S3's checksum of whole objects), its SHA-256 in hex.

    That is empty where nobody asked for it.
    """

    parts: tuple[Part, ...]
    crc: str
    sha256: str

    def is_of(self, file: FrozenFile) -> bool:
        return self.crc == file.crc if file.crc else self.sha256 == file.sha256


def measure(path: Path, part_bytes: int, *, sha256: bool = False, md5s: bool = False) -> Measured:
    parts: list[Part] = []
    digest, crc = hashlib.sha256() if sha256 else None, 0
    with path.open("rb") as file:
        offset = 0
        while True:
            part_crc, length, md5 = 0, 0, hashlib.md5(usedforsecurity=False) if md5s else None
            for chunk in _chunks(file, part_bytes):
                if digest:
                    digest.update(chunk)
                if md5:
                    md5.update(chunk)
                part_crc = crc64nvme(chunk, part_crc)
                length += len(chunk)
            if not length:
                break
            crc = combine_crc64nvme(crc, part_crc, length)
            told = base64.b64encode(md5.digest()).decode() if md5 else ""
            parts.append(Part(len(parts) + 1, offset, length, encoded(part_crc), told))
            offset += length
    return Measured(tuple(parts), encoded(crc), digest.hexdigest() if digest else "")


def _chunks(file: BinaryIO, limit: int) -> Iterator[bytes]:
    """The next `limit` bytes of a file, or what is left of it."""
    while limit and (chunk := file.read(min(_CHUNK, limit))):
        limit -= len(chunk)
        yield chunk


def encoded(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(8, "big")).decode()


@dataclass(slots=True)
class Upload:
    """An upload under way to one bucket and key. `etags`: what S3 answered for each part that it has, by number."""

    bucket: str
    key: str
    part_bytes: int
    upload_id: str
    etags: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        durable.write(_beside(path), json.dumps(asdict(self)).encode())


def saved(path: Path, bucket: str, key: str, part_bytes: int) -> Upload | None:
    """What was written down of this file on its way to this place in parts of this size."""
    try:
        upload = Upload(**json.loads(_beside(path).read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):  # none; or not ours, which is as good as none
        return None
    return upload if (upload.bucket, upload.key, upload.part_bytes) == (bucket, key, part_bytes) else None


def forget(path: Path) -> None:
    _beside(path).unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.upload")
