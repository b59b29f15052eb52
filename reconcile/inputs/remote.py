"""What is remembered of inputs in a bucket. Apart from `bucket`, which loads boto3: most feeds have no use for that."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from reconcile import durable

SCHEME = "s3://"


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """What a listing tells of an object. Other content under the same key has another `etag`."""

    url: str
    key: str
    etag: str
    size: int
    modified: str

    @property
    def modified_ms(self) -> int:
        """In milliseconds since the epoch."""
        return int(datetime.fromisoformat(self.modified).timestamp() * 1000)


class Memory:
    """The SHA-256 of objects that were read before, so that what is known need not be copied again.

    Only a convenience: without it an object is copied once more, and then found to be known.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}
        if path and path.exists():
            try:
                self._known = json.loads(path.read_bytes())
            except ValueError:
                self._known = {}

    def sha256(self, source: RemoteObject) -> str | None:
        entry = self._known.get(source.url, {})
        return str(entry["sha256"]) if entry.get("object") == asdict(source) else None

    def keep(self, digests: Mapping[RemoteObject, str]) -> None:
        """Remember these objects, and no other: what is no longer listed is forgotten."""
        if self._path is None:
            return
        known = {source.url: {"object": asdict(source), "sha256": sha256} for source, sha256 in digests.items()}
        if known != self._known:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            durable.write(self._path, json.dumps(known).encode())
