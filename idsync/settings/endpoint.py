"""The tables of the endpoint and of what it shares with the job: the store and the data sources."""

import re
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo

from idsync import ids, redirect
from idsync.settings.values import ConfigPath, Dpid, Name, Table, beside_config


def _http_url(url: str) -> str:
    if not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", url):
        raise ValueError("must be scheme and host only, such as https://sync.example.com")
    return url


def _origin(url: str) -> str:
    """As browsers send it: lower case, no default port, nothing after it."""
    if not re.fullmatch(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?", url) or re.fullmatch(
        r"http:.*:80|https:.*:443", url
    ):
        raise ValueError("must be an origin as browsers send it, such as https://www.example.com")
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
    return f"sqlite:///{beside_config(Path(rest[1:]), info)}"


def _redirect_host(host: str) -> str:
    if not re.fullmatch(r"\.?([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]*[a-z0-9])?|\[::1\]", host):
        raise ValueError('must be a lower-case host, "dpm.demdex.net", or ".example.com" for it and its subdomains')
    return host


def _redirect_entry(entry: str) -> str:
    if reason := redirect.entry_fault(entry):
        raise ValueError(reason)
    return entry


def _signable(signature: str, info: ValidationInfo) -> str:
    """The file stands before it in the model; a file that is wrong itself has its own fault."""
    if signature != "off" and info.data.get("signing_keys_file", ...) is None:
        raise ValueError("needs signing_keys_file, whose keys verify the calls")
    return signature


def _seen_with(status: str, info: ValidationInfo) -> str:
    """The file stands before it in the model; a file that is wrong itself has its own fault."""
    if status == "token" and info.data.get("status_token_file", ...) is None:
        raise ValueError("needs status_token_file, which holds the token")
    return status


def _proxy(entry: str) -> str:
    """To trust everybody is to let each caller choose its address."""
    if entry == "unix":
        return entry
    try:
        network = ip_network(entry)
    except ValueError:
        raise ValueError('must be an address, a network such as 10.0.0.0/8, or "unix"') from None
    if not network.prefixlen:
        raise ValueError("trusts every address; name those of the proxies")
    return entry


def _country(code: str) -> str:
    if code not in ids.COUNTRIES:
        raise ValueError(f"must be one of {', '.join(sorted(ids.COUNTRIES))}")
    return code


_DOMAIN = r"^([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z0-9-]*[a-z][a-z0-9-]*$"


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
    redirect_hosts: tuple[Annotated[str, AfterValidator(_redirect_entry)], ...] = ()
    cookie_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "idsync"
    cookie_domain: Annotated[str, Field(pattern=_DOMAIN)] | None = None
    cookie_partitioned: bool = False
    cors_origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = ()
    bind: Annotated[str, Field(pattern=r"^(\S+:[0-9]{1,5}|unix:\S+)$")] = "127.0.0.1:8000"
    workers: Annotated[int, Field(ge=1, le=256)] = 2
    spool: ConfigPath = Field(default=Path("var/spool.db"), validate_default=True)
    status_token_file: ConfigPath | None = None
    status: Annotated[Literal["off", "loopback", "token"], AfterValidator(_seen_with)] = "off"


class Privacy(Table):
    """`vendor_id` must have consent, and each of `purposes`, where the IAB's TCF is in force."""

    gdpr_default: Literal["applies", "does-not-apply"]
    vendor_id: Annotated[int, Field(ge=1, le=65_535)] = 565
    purposes: Annotated[tuple[Annotated[int, Field(ge=1, le=24)], ...], Field(min_length=1)] = (1, 10)
    optout_on_denial: bool = False


class Abuse(Table):
    """Limits are for each worker. 0 switches a limit off."""

    trusted_proxies: tuple[Annotated[str, AfterValidator(_proxy)], ...] = ()
    calls_per_minute: Annotated[int, Field(ge=0, le=1_000_000)] = 1200
    uuids_per_customer_id: Annotated[int, Field(ge=0, le=500)] = 100
    addresses_per_customer_id: Annotated[int, Field(ge=0, le=500)] = 300
    customer_ids_per_uuid: Annotated[int, Field(ge=0, le=500)] = 100
    window_minutes: Annotated[int, Field(ge=1, le=1440)] = 60
    deny_minutes: Annotated[int, Field(ge=1, le=1440)] = 60
    tracked: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    ignore_bots: bool = True


class Placement(Table):
    kind: Literal["cookie", "js", "meta", "attribute"]
    name: Annotated[str, Field(min_length=1)]


class DataSource(Table):
    name: Name
    dpid: Dpid
    integration_code: str | None = None
    id_type: Literal["cookie", "device-advertising-id", "cross-device"] = "cross-device"
    placement: Placement | None = None
    denied: bool = False
    referers: tuple[Annotated[str, AfterValidator(_redirect_host)], ...] = ()
    signing_keys_file: ConfigPath | None = None
    signature: Annotated[Literal["off", "optional", "required"], AfterValidator(_signable)] = "off"
    format: ids.Format = "any"
    unchecked: tuple[ids.CheckName, ...] = ()
    national_ids: tuple[Annotated[str, AfterValidator(_country)], ...] = ()

    @cached_property
    def id_rules(self) -> ids.IdRules:
        """What its customer IDs must be like."""
        return ids.id_rules(self.dpid, self.format, self.unchecked, self.national_ids)
