"""The settings: one model a table of the TOML file. `config.load` reads and checks them; README.md explains each.

Field names are the keys of the file. Descriptions are for the reader of this module; the reference is the README's,
and a test holds the two together.
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo


def _beside_config(path: Path, info: ValidationInfo) -> Path:
    """Relative paths are relative to the configuration file."""
    base = (info.context or {}).get("base", Path())
    return Path(base) / path.expanduser()


def _glob_beside_config(pattern: str, info: ValidationInfo) -> str:
    return pattern if "://" in pattern else str(_beside_config(Path(pattern), info))


def _http_url(url: str) -> str:
    if not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", url):
        raise ValueError("must be scheme and host only, such as https://sync.example.com")
    return url


def _store_url(url: str, info: ValidationInfo) -> str:
    """Check the scheme; make the path of a sqlite URL absolute, so that every process opens one file."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in {"sqlite", "redis", "rediss", "redis+cluster", "rediss+cluster"}:
        raise ValueError("must start with sqlite:///, redis://, rediss://, redis+cluster:// or rediss+cluster://")
    if scheme != "sqlite":
        return url
    if not rest.startswith("/") or len(rest) == 1:
        raise ValueError("a sqlite URL is sqlite:///relative/path.db or sqlite:////absolute/path.db")
    return f"sqlite:///{_beside_config(Path(rest[1:]), info)}"


def _redirect_host(host: str) -> str:
    if not re.fullmatch(r"\.?([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]*[a-z0-9])?|\[::1\]", host):
        raise ValueError('must be a lower-case host, "dpm.demdex.net", or ".example.com" for it and its subdomains')
    return host


def _memory(size: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]*\s?(MB|GB|MiB|GiB)", size):
        raise ValueError('must be a size such as "1GB" or "800MB"')
    return size


ConfigPath = Annotated[Path, AfterValidator(_beside_config)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Dpid = Annotated[int, Field(ge=1, le=9_999_999_999)]
TraitId = Annotated[int, Field(ge=1)]
Column = Annotated[str, Field(min_length=1)]
SignalKey = Annotated[str, Field(pattern=r'^[^"\x00-\x1f\x7f]+$')]


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Store(Table):
    url: Annotated[str, AfterValidator(_store_url)]
    password_file: ConfigPath | None = None
    tls_ca_file: ConfigPath | None = None
    tls_cert_file: ConfigPath | None = None
    tls_key_file: ConfigPath | None = None
    persistence: Literal["required", "unchecked"] = "required"
    replicas: Annotated[int, Field(ge=0, le=16)] = 0
    mapping_ttl_days: Annotated[int, Field(ge=1, le=3650)] = 120
    devices_per_customer: Annotated[int, Field(ge=1, le=1000)] = 100
    buckets: Annotated[int, Field(ge=1, le=16_777_216)] = 16_384


class Endpoint(Table):
    public_url: Annotated[str, AfterValidator(_http_url)] = "http://127.0.0.1:8000"
    identity: Literal["mint", "audience-manager"] = "mint"
    redirect_hosts: tuple[Annotated[str, AfterValidator(_redirect_host)], ...] = ()
    cookie_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "idsync"
    bind: Annotated[str, Field(pattern=r"^(\S+:[0-9]{1,5}|unix:\S+)$")] = "127.0.0.1:8000"
    workers: Annotated[int, Field(ge=1, le=256)] = 2
    spool: ConfigPath = Field(default=Path("var/spool.db"), validate_default=True)


class Privacy(Table):
    gdpr_default: Literal["applies", "does-not-apply"]
    vendor_id: Annotated[int, Field(ge=1)] = 565
    purposes: tuple[Annotated[int, Field(ge=1, le=24)], ...] = (1, 10)


class Placement(Table):
    kind: Literal["cookie", "js", "meta", "attribute"]
    name: Annotated[str, Field(min_length=1)]


class DataSource(Table):
    name: Name
    dpid: Dpid
    integration_code: str | None = None
    id_type: Literal["cookie", "device-advertising-id", "cross-device"] = "cross-device"
    placement: Placement | None = None


class TraitRule(Table):
    """`trait` is added to records whose `column` equals `equals`; `otherwise = "remove"` removes it from all others."""

    column: Column
    equals: str
    trait: TraitId
    otherwise: Literal["nothing", "remove"] = "nothing"


class Feed(Table):
    name: Name
    data_source: str
    inputs: Annotated[str, AfterValidator(_glob_beside_config)]
    id_column: Column
    mode: Literal["sync", "overwrite"] = "sync"
    user_id: str = "uuid"
    dpid: Dpid | None = None
    target: Dpid | None = None
    devices: Literal["latest", "all"] = "latest"
    unmatched: Literal["hold", "drop", "emit"] = "hold"
    held_days: Annotated[int, Field(ge=1, le=3650)] = 120
    changes_only: bool = False
    signals: tuple[SignalKey, ...] = ()
    trait_columns: tuple[Column, ...] = ()
    rules: tuple[TraitRule, ...] = ()
    destination: str
    compression: Literal["none", "gzip", "pgp"] = "gzip"
    max_rejected: Annotated[float, Field(ge=0, le=1)] = 0.01


class DirectoryDestination(Table):
    kind: Literal["directory"]
    name: Name
    path: ConfigPath


class S3Destination(Table):
    """`environment` fills in `bucket` where none is given."""

    kind: Literal["s3"]
    name: Name
    environment: Literal["production", "beta"] | None = None
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")] | None = None
    endpoint_url: str | None = None
    region: str | None = None
    prefix: str = ""
    role_arn: str | None = None
    acl: str = "bucket-owner-full-control"


Destination = Annotated[DirectoryDestination | S3Destination, Field(discriminator="kind")]


class Reconcile(Table):
    """Where the job keeps its ledger, run folders and held records, for how long, and how much memory a join takes."""

    state_dir: ConfigPath = Field(default=Path("var/reconcile"), validate_default=True)
    memory_limit: Annotated[str, AfterValidator(_memory)] = "1300MB"
    keep_runs_days: Annotated[int, Field(ge=1, le=3650)] = 30


class Settings(Table):
    partner: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = None
    store: Store
    endpoint: Endpoint = Endpoint()
    privacy: Privacy
    data_sources: tuple[DataSource, ...]
    feeds: tuple[Feed, ...] = ()
    destinations: tuple[Destination, ...] = ()
    reconcile: Reconcile

    @cached_property
    def dpids(self) -> frozenset[int]:
        """Of all data sources."""
        return frozenset(source.dpid for source in self.data_sources)

    def data_source(self, name: str) -> DataSource | None:
        return next((source for source in self.data_sources if source.name == name), None)

    def feed(self, name: str) -> Feed | None:
        return next((feed for feed in self.feeds if feed.name == name), None)

    def destination(self, name: str) -> DirectoryDestination | S3Destination | None:
        return next((destination for destination in self.destinations if destination.name == name), None)
