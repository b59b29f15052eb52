"""A small world for runs: a configuration, a store with mappings, an inbox, a clock that the test sets."""

import csv
import gzip
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from pyarrow import parquet

from idsync import config
from idsync.settings import Settings
from idsync.store import open_store
from idsync.store.base import Sync
from idsync.store.optouts import OptOut
from reconcile.progress import Meter
from reconcile.run import run
from reconcile.summary import Summary
from tests.s3 import moto_s3

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

HEADER = ("id", "gender", "tier", "traits")
NOW = 1_790_000_000_000
NOW_SECONDS = NOW // 1000
DPID = 12345

TEMPLATE = """
partner = "acme"
[store]
url = "{url}"
[privacy]
gdpr_default = "does-not-apply"
[[data_sources]]
name = "crm"
dpid = 12345
[[destinations]]
name = "local"
kind = "directory"
path = "delivered"
[[destinations]]
name = "bucket"
kind = "s3"
bucket = "inbound"
endpoint_url = "http://127.0.0.1:9"
region = "us-east-1"
retry_seconds = 0
[[feeds]]
name = "daily"
data_source = "crm"
inputs = "inbox/*"
id_column = "id"
destination = "local"
"""

COUNTS = ("read", "matched", "unmatched", "rejected", "lines")  # what `figures` shows of a run
SIGNALS = 'signals = ["gender", "tier"]\ntrait_columns = ["traits"]\n'


def uuid(number: int) -> str:
    return str(number).zfill(38)


@contextmanager
def inputs_in_s3(patch: pytest.MonkeyPatch, place: str) -> Iterator[tuple["S3Client", str]]:
    """Worlds read from a bucket of S3, and a pattern in it. Its client, and what their feed has to say of it."""
    patch.setenv("AWS_ACCESS_KEY_ID", "id")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "key")
    patch.setattr(f"{__name__}.TEMPLATE", TEMPLATE.replace('inputs = "inbox/*"', f'inputs = "s3://{place}"'))
    with moto_s3() as url:
        client: S3Client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
        client.create_bucket(Bucket=place.partition("/")[0])
        yield client, f'inputs_endpoint_url = "{url}"\ninputs_region = "us-east-1"\n'


@dataclass
class World:
    """A folder with everything that a feed needs. `feed` is TOML added to the feed's table."""

    folder: Path
    feed: str = SIGNALS
    url: str = "sqlite:///idsync.db"
    now: int = NOW
    environ: Mapping[str, str] | None = None
    changes: Mapping[str, Any] | None = None  # settings of a feed that sends only changes
    last: Summary = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.inbox.mkdir(parents=True, exist_ok=True)

    @property
    def inbox(self) -> Path:
        return self.folder / "inbox"

    @property
    def delivered(self) -> Path:
        return self.folder / "delivered"

    @property
    def state(self) -> Path:
        return self.folder / "var" / "reconcile"

    @property
    def settings(self) -> Settings:
        text = TEMPLATE.format(url=self.url) + self.feed
        settings = config.parse(text, environ=self.environ or {}, base=self.folder)
        if self.changes is None:
            return settings
        feed = settings.feeds[0].model_copy(update={"changes_only": True, "max_vanished": 1.0, **self.changes})
        return settings.model_copy(update={"feeds": (feed, *settings.feeds[1:])})

    def write_config(self) -> Path:
        path = self.folder / "idsync.toml"
        path.write_text(TEMPLATE.format(url=self.url) + self.feed)
        return path

    def sync(self, *pairs: tuple[str, str], seen: int | None = None, dpid: int = DPID) -> None:
        """Store (customer ID, UUID) pairs, each a millisecond after the one before."""
        start = self.now - len(pairs) if seen is None else seen
        store = open_store(self.settings.store)
        syncs = [Sync(dpid, customer, device, device, start + at) for at, (customer, device) in enumerate(pairs)]
        store.record(syncs)
        store.close()

    def opt_out(self, *customer_ids: str, devices: Sequence[str] = (), dpid: int = DPID) -> None:
        """As on the website, but for the device that a customer was last linked to."""
        store = open_store(self.settings.store)
        store.opt_out(OptOut(tuple((dpid, name) for name in customer_ids), tuple(devices), self.now, False))
        store.close()

    def put(self, name: str, rows: Iterable[Sequence[str]], header: Sequence[str] = HEADER) -> Path:
        """A CSV in the inbox."""
        path = self.inbox / name
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
        return path

    def run(self, *, dry_run: bool = False, hold: bool = False) -> Summary:
        self.last = run(self.settings, "daily", dry_run=dry_run, hold=hold, meter=Meter(), now=lambda: self.now)
        return self.last

    def lines(self) -> list[str]:
        """Every delivered line, file by file in order of name."""
        return [line for path in sorted(self.delivered.glob("*")) for line in content(path).splitlines(keepends=True)]

    def everything(self) -> Iterator[tuple[Path, bytes]]:
        """Each file of the state folder with its bytes, and once more with what they unpack to."""
        for path in (path for path in self.state.rglob("*") if path.is_file()):
            yield path, path.read_bytes()
            if path.suffix == ".gz":
                yield path, gzip.decompress(path.read_bytes())
            if path.suffix == ".parquet":
                yield path, repr(parquet.read_table(path).to_pylist()).encode()

    def traces(self) -> dict[Path, bytes]:
        """Every file and its bytes, but for the store's."""
        paths = (path for path in self.folder.rglob("*") if path.is_file() and "idsync.db" not in path.name)
        return {path: path.read_bytes() for path in paths}

    def rejects(self) -> list[dict[str, str]]:
        """All rejected records of all runs."""
        rows: list[dict[str, str]] = []
        for path in sorted(self.state.glob("runs/*/rejects.csv.gz")):
            rows += csv.DictReader(gzip.decompress(path.read_bytes()).decode().splitlines())
        return rows


def content(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()


def figures(summary: Summary, *names: str) -> tuple[Any, ...]:
    return tuple(getattr(summary, name) for name in names)
