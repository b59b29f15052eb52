"""The settings: one model a table of the TOML file. `config.load` reads and checks them; README.md explains each.

Field names are the keys of the file. Descriptions are for the reader of this module; the reference is the README's,
and a test holds the two together.
"""

import re
from decimal import Decimal
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    model_validator,
)

from idsync import ids, redirect


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
    return f"sqlite:///{_beside_config(Path(rest[1:]), info)}"


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


def _memory(size: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]*\s?(MB|GB|MiB|GiB)", size):
        raise ValueError('must be a size such as "1GB" or "800MB"')
    return size


_DOMAIN = r"^([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z0-9-]*[a-z][a-z0-9-]*$"

ConfigPath = Annotated[Path, AfterValidator(_beside_config)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Dpid = Annotated[int, Field(ge=1, le=9_999_999_999)]
TraitId = Annotated[int, Field(ge=1)]
Column = Annotated[str, Field(min_length=1)]
Columns = Annotated[
    tuple[Column, ...], Field(min_length=1), BeforeValidator(lambda given: [given] if isinstance(given, str) else given)
]
SignalKey = Annotated[str, Field(pattern=r'^[^"\x00-\x1f\x7f]+$')]
ConstantText = Annotated[SignalKey, Field(max_length=1000)]


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


def _exact(number: Any) -> Any:
    """A number as it was written: a float of up to 15 digits comes back from its text unharmed."""
    if isinstance(number, float):
        if len(Decimal(repr(number)).as_tuple().digits) > FLOAT_DIGITS:
            raise ValueError(f"has more than {FLOAT_DIGITS} digits; write it in quotes")
        return Decimal(repr(number))
    if isinstance(number, bool) or (isinstance(number, str) and not re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", number)):
        raise ValueError('must be a number, such as 12, -0.5 or "12.50"')
    return number


FLOAT_DIGITS = 15
Number = Annotated[Decimal, BeforeValidator(_exact), Field(allow_inf_nan=False, max_digits=200)]


class Range(Table):
    """Both ends included; one of them may be left out."""

    min: Number | None = None
    max: Number | None = None

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("empty; give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("no number is between: min is more than max")
        return self


def _re2(pattern: str) -> str:
    """Of the engine that will use it. Imported here, since it takes its time and most processes need it not."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    try:
        pc.match_substring_regex(pa.array([""]), pattern)
    except pa.ArrowInvalid as error:
        raise ValueError(f"not a pattern of RE2: {str(error).rpartition(': ')[2]}") from None
    return pattern


TRAIT_CODE = r"[!#-+\--9<>-{}~]{1,255}"  # of ASCII, without what separates items, lists, or an item's parts
TraitCode = Annotated[str, Field(pattern=f"^{TRAIT_CODE}$")]


class TraitRule(Table):
    """`trait`, or that with the integration code `ic`, is added to records whose `column` passes the one test.

    `otherwise = "remove"` removes it from all others.
    """

    column: Column
    equals: str | None = None
    one_of: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(default=None, alias="in")
    range: Range | None = None
    regex: Annotated[str, AfterValidator(_re2)] | None = None
    present: bool | None = None
    trait: TraitId | None = None
    ic: TraitCode | None = None
    otherwise: Literal["nothing", "remove"] = "nothing"

    @model_validator(mode="after")
    def _one_test_one_trait(self) -> Self:
        tests = (self.equals, self.one_of, self.range, self.regex, self.present)
        if sum(test is not None for test in tests) != 1:
            raise ValueError("needs exactly one of equals, in, range, regex, present")
        if (self.trait is None) == (self.ic is None):
            raise ValueError("needs either trait or ic")
        if self.ic is not None and self.otherwise == "remove":
            raise ValueError('otherwise = "remove" needs trait: there is no removal by integration code')
        return self

    @property
    def adds(self) -> int | str:
        """The trait by its ID, or by its integration code."""
        return self.ic or self.trait or 0


def _of_signals(keys: dict[str, str], info: ValidationInfo) -> dict[str, str]:
    if unknown := sorted(set(keys) - set(info.data.get("signals", keys))):
        raise ValueError(f"not in signals: {', '.join(unknown)}")
    return keys


def _constant_trait(given: Any) -> Any:
    """A trait ID, or `ic=code`; kept as number or bare code."""
    if isinstance(given, str) and re.fullmatch(f"ic={TRAIT_CODE}", given):
        return given.removeprefix("ic=")
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise ValueError('must be a trait ID, such as 24, or "ic=" and an integration code')
    return given


def _with_constants(empty_overwrite: bool, info: ValidationInfo) -> bool:
    """A line without items is dropped by Audience Manager: something has to stand on it."""
    if empty_overwrite and info.data.get("mode", "overwrite") != "overwrite":
        raise ValueError('needs mode = "overwrite"')
    if empty_overwrite and not info.data.get("constants", True):
        raise ValueError("needs constants: a line without any item would be dropped by Audience Manager")
    return empty_overwrite


def _not_overwriting(changes_only: bool, info: ValidationInfo) -> bool:
    """An overwrite file replaces all traits of its users, and can remove none by name."""
    if changes_only and info.data.get("mode", "sync") != "sync":
        raise ValueError('needs mode = "sync"')
    return changes_only


def _of_changes(value: Any, info: ValidationInfo) -> Any:
    """Only where it is known what was sent before can it be taken away."""
    if value not in {False, "keep"} and not info.data.get("changes_only", True):
        raise ValueError("needs changes_only = true")
    return value


def _delimiter(sign: str) -> str:
    if sign != "auto" and (len(sign) != 1 or not sign.isascii() or sign in '\r\n\0"'):
        raise ValueError('must be "auto", or one ASCII character that is neither a quote nor a line break')
    return sign


def _quote(sign: str, info: ValidationInfo) -> str:
    if len(sign) > 1 or not sign.isascii() or (sign and (sign in "\r\n\0" or sign == info.data.get("delimiter"))):
        raise ValueError("must be one ASCII character other than the delimiter, or empty where nothing is quoted")
    return sign


def _encoding(name: str) -> str:
    """Any that Python knows for text."""
    try:
        known = name == "auto" or "a;\n".encode(name).decode(name) == "a;\n"
    except (LookupError, UnicodeError):
        known = False
    if not known:
        raise ValueError('must be "auto" or the name of an encoding, such as cp1252, latin-1 or utf-16')
    return name


def _bucket_or_glob(pattern: str) -> str:
    if "://" in pattern and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+", pattern):
        raise ValueError("must be a glob of local files, or s3://bucket/prefix*")
    return pattern


def _columns_asked_for(columns: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    """A name that nothing asks for is a slip of the pen."""
    fields = ("id_column", "signals", "trait_columns", "rules")
    if all(field in info.data for field in fields):
        asked = {info.data["id_column"], *info.data["signals"], *info.data["trait_columns"]}
        asked |= {rule.column for rule in info.data["rules"]} | {info.data.get("email_column")}
        if unknown := sorted(set(columns) - asked):
            raise ValueError(f"nothing in this feed asks for {', '.join(unknown)}")
    return columns


class Feed(Table):
    name: Name
    data_source: str
    kind: Literal["data", "email-hashes"] = "data"
    inputs: Annotated[str, AfterValidator(_bucket_or_glob), AfterValidator(_glob_beside_config)]
    inputs_endpoint_url: str | None = None
    inputs_region: str | None = None
    settle_seconds: Annotated[int, Field(ge=0, le=86_400)] = 0
    delimiter: Annotated[str, AfterValidator(_delimiter)] = "auto"
    quote: Annotated[str, AfterValidator(_quote)] = '"'
    encoding: Annotated[str, AfterValidator(_encoding)] = "auto"
    id_column: Column
    mode: Literal["sync", "overwrite"] = "sync"
    user_id: str = "uuid"
    dpid: Dpid | None = None
    target: Dpid | None = None
    devices: Literal["latest", "all"] = "latest"
    unmatched: Literal["hold", "drop", "emit"] = "hold"
    held_days: Annotated[int, Field(ge=1, le=3650)] = 120
    changes_only: Annotated[bool, AfterValidator(_not_overwriting)] = False
    vanished: Annotated[Literal["keep", "remove"], AfterValidator(_of_changes)] = "keep"
    max_vanished: Annotated[float, Field(ge=0, le=1)] = 0.1
    optout_removals: Annotated[bool, AfterValidator(_of_changes)] = False
    signals: tuple[SignalKey, ...] = ()
    trait_columns: tuple[Column, ...] = ()
    rules: tuple[TraitRule, ...] = ()
    signal_keys: Annotated[dict[Column, SignalKey], AfterValidator(_of_signals)] = {}
    constants: dict[ConstantText, ConstantText] = {}
    constant_traits: tuple[Annotated[int | str, BeforeValidator(_constant_trait)], ...] = ()
    unsendable: Literal["record", "item"] = "record"
    empty_overwrite: Annotated[bool, AfterValidator(_with_constants)] = False
    conflicts: Literal["all", "last", "first"] = "all"
    email_column: Column | None = None
    email_data_source: str | None = None
    columns: Annotated[dict[Column, Columns], AfterValidator(_columns_asked_for)] = {}
    destination: str
    compression: Literal["none", "gzip", "pgp"] = "gzip"
    max_rejected: Annotated[float, Field(ge=0, le=1)] = 0.01
    after_sync_file: bool = False
    diagnose: bool = True
    known_traits_file: ConfigPath | None = None
    expected_every_hours: Annotated[float, Field(gt=0, le=8784)] | None = None


class DirectoryDestination(Table):
    kind: Literal["directory"]
    name: Name
    path: ConfigPath


def _pair_of_kms(key: str | None, info: ValidationInfo) -> str | None:
    if key and info.data.get("sse", "aws:kms") != "aws:kms":
        raise ValueError('needs sse = "aws:kms"')
    return key


def _of_a_role(external_id: str | None, info: ValidationInfo) -> str | None:
    if external_id and info.data.get("role_arn", ...) is None:
        raise ValueError("needs role_arn")
    return external_id


class _Remote(Table):
    """A destination at the other end of a network."""

    retry_seconds: Annotated[int, Field(ge=0, le=86_400)] = 300
    parallel: Annotated[int, Field(ge=1, le=16)] = 2
    max_megabytes_per_second: Annotated[float, Field(gt=0)] | None = None


class S3Destination(_Remote):
    """`environment` fills in `bucket` where none is given."""

    kind: Literal["s3"]
    name: Name
    environment: Literal["production", "beta"] | None = None
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")] | None = None
    endpoint_url: str | None = None
    region: str | None = None
    prefix: str = ""
    role_arn: Annotated[str, Field(pattern=r"^arn:[a-z0-9-]+:iam::[0-9]{12}:role/\S+$")] | None = None
    external_id: Annotated[str | None, AfterValidator(_of_a_role)] = None
    acl: str = "bucket-owner-full-control"
    sse: Literal["AES256", "aws:kms"] | None = None
    kms_key_id: Annotated[str | None, AfterValidator(_pair_of_kms)] = None
    part_megabytes: Annotated[int, Field(ge=6, le=5000)] = 64
    request_checksum_calculation: Literal["when_supported", "when_required"] = "when_supported"


def _host_or_environment(host: str | None, info: ValidationInfo) -> str | None:
    if host is None and info.data.get("environment", ...) is None:
        raise ValueError("missing; give it, or environment")
    return host


def _plain_folder(folder: str) -> str:
    if not folder.isprintable():
        raise ValueError("holds a control character")
    return folder


def _one_password(password: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
    if password is not None and info.data.get("password_file") is not None:
        raise ValueError("stands beside password_file; give one of them")
    return password


def _only_ftps(path: Path | None, info: ValidationInfo) -> Path | None:
    if path is not None and info.data.get("kind") == "ftp":
        raise ValueError('needs kind = "ftps"')
    return path


def _fingerprint(fingerprint: str) -> str:
    if not re.fullmatch(r"SHA256:[A-Za-z0-9+/]{43}", fingerprint):
        raise ValueError("must be a fingerprint as ssh-keygen -l prints it: SHA256: and 43 characters")
    return fingerprint


def _known_host(keys: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    if not keys and info.data.get("known_hosts_file", ...) is None:
        raise ValueError("empty; give the fingerprints of the server's keys, or known_hosts_file")
    return keys


def _some_secret(key_file: Path | None, info: ValidationInfo) -> Path | None:
    if key_file is None and all(info.data.get(name, ...) is None for name in ("password_file", "password")):
        raise ValueError("missing; give it, or a password")
    return key_file


Host = Annotated[str, Field(pattern=r"^([A-Za-z0-9._-]+|[0-9A-Fa-f:]+)$")]


class _FileServer(_Remote):
    """A server with folders: `password` comes from the environment alone, `config` sees to that."""

    name: Name
    user: Annotated[str, Field(min_length=1)]
    password_file: ConfigPath | None = None
    password: Annotated[SecretStr | None, AfterValidator(_one_password)] = None
    folder: Annotated[str, AfterValidator(_plain_folder)] = ""
    compare: Literal["bytes", "size"] = "bytes"


class FtpDestination(_FileServer):
    """`environment` fills in `host` where none is given. `ftps` is FTP with AUTH TLS."""

    kind: Literal["ftp", "ftps"]
    environment: Literal["production", "beta"] | None = None
    host: Annotated[Host | None, AfterValidator(_host_or_environment)] = Field(default=None, validate_default=True)
    port: Annotated[int, Field(ge=1, le=65_535)] = 21
    tls_ca_file: Annotated[ConfigPath | None, AfterValidator(_only_ftps)] = None


class SftpDestination(_FileServer):
    """`environment` fills in `host` where none is given. `password` opens `key_file` where there is one."""

    kind: Literal["sftp"]
    environment: Literal["production"] | None = None
    host: Annotated[Host | None, AfterValidator(_host_or_environment)] = Field(default=None, validate_default=True)
    port: Annotated[int, Field(ge=1, le=65_535)] = 22
    key_file: Annotated[ConfigPath | None, AfterValidator(_some_secret)] = Field(default=None, validate_default=True)
    known_hosts_file: ConfigPath | None = None
    host_keys: Annotated[tuple[Annotated[str, AfterValidator(_fingerprint)], ...], AfterValidator(_known_host)] = Field(
        default=(), validate_default=True
    )


AnyDestination = DirectoryDestination | S3Destination | FtpDestination | SftpDestination
Destination = Annotated[AnyDestination, Field(discriminator="kind")]

# The encryption subkey of "Adobe AudienceManager", from Audience Manager's "File PGP encryption for inbound data".
AUDIENCE_MANAGER_SUBKEY = "B58D2921724A920527BC839A3AD83B2AE3F2A363"


class Pgp(Table):
    """Whom files are encrypted for: a key from a file, and in it the subkey with this fingerprint alone."""

    public_key_file: ConfigPath
    fingerprint: Annotated[str, Field(pattern=r"^([0-9A-F]{40}|[0-9A-F]{64})$")] = AUDIENCE_MANAGER_SUBKEY


def _within_run(days: int, info: ValidationInfo) -> int:
    """What lies in a run's folder goes with it at the latest."""
    if days > info.data.get("keep_runs_days", days):
        raise ValueError("must not be more than keep_runs_days: it lies in the folder of its run")
    return days


class Reconcile(Table):
    """Where the job keeps its ledger, run folders and held records, for how long, and how much memory a join takes."""

    state_dir: ConfigPath = Field(default=Path("var/reconcile"), validate_default=True)
    memory_limit: Annotated[str, AfterValidator(_memory)] = "1300MB"
    disk_check: bool = True
    keep_runs_days: Annotated[int, Field(ge=1, le=3650)] = 30
    keep_rejects_days: Annotated[int, Field(ge=1, le=3650), AfterValidator(_within_run)] = 30
    keep_files_days: Annotated[int, Field(ge=1, le=3650), AfterValidator(_within_run)] = 7
    keep_state_days: Annotated[int, Field(ge=1, le=3650)] = 365
    lease_seconds: Annotated[int, Field(ge=3, le=3600)] = 30
    mask_ids: bool = True


def _url_or_file(url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
    """The URL of a chat's webhook lets everybody write there who has it."""
    if url is None:
        return None
    if info.data.get("webhook_url_file") is not None:
        raise ValueError("stands beside webhook_url_file; give one of them")
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", url.get_secret_value()):
        raise ValueError("must be a URL of http or https")
    return url


def _from_and_to(receivers: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    missing = [name for name in ("smtp_host", "mail_from") if info.data.get(name, ...) is None]
    if receivers and missing:
        raise ValueError(f"needs {' and '.join(missing)}")
    return receivers


def _of_smtp_user(password: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
    if password is not None and info.data.get("smtp_password_file") is not None:
        raise ValueError("stands beside smtp_password_file; give one of them")
    return password


MailAddress = Annotated[str, Field(pattern=r"^[^@\s<>,]+@[^@\s<>,]+$")]


class Health(Table):
    """When `reconcile health` calls a feed ill, and whom it tells. `webhook_url` and `smtp_password` come from the
    environment alone, `config` sees to that.
    """

    stuck_hours: Annotated[float, Field(gt=0, le=8784)] = 3
    match_rate_fall: Annotated[float, Field(gt=0, le=1)] = 0.2
    compared_runs: Annotated[int, Field(ge=1, le=365)] = 7
    webhook_url_file: ConfigPath | None = None
    webhook_url: Annotated[SecretStr | None, AfterValidator(_url_or_file)] = None
    smtp_host: Host | None = None
    smtp_port: Annotated[int, Field(ge=1, le=65_535)] = 587
    smtp_security: Literal["starttls", "tls", "none"] = "starttls"
    smtp_ca_file: ConfigPath | None = None
    smtp_user: str | None = None
    smtp_password_file: ConfigPath | None = None
    smtp_password: Annotated[SecretStr | None, AfterValidator(_of_smtp_user)] = None
    mail_from: MailAddress | None = None
    mail_to: Annotated[tuple[MailAddress, ...], AfterValidator(_from_and_to)] = ()


class Settings(Table):
    partner: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = None
    store: Store
    endpoint: Endpoint = Endpoint()
    privacy: Privacy
    abuse: Abuse = Abuse()
    data_sources: tuple[DataSource, ...]
    feeds: tuple[Feed, ...] = ()
    destinations: tuple[Destination, ...] = ()
    pgp: Pgp | None = None
    health: Health = Health()
    reconcile: Reconcile

    @cached_property
    def sources_by_dpid(self) -> dict[int, DataSource]:
        return {source.dpid: source for source in self.data_sources}

    @cached_property
    def sources_by_code(self) -> dict[str, DataSource]:
        """By integration code, those that have one."""
        return {source.integration_code: source for source in self.data_sources if source.integration_code}

    def data_source(self, name: str) -> DataSource | None:
        return next((source for source in self.data_sources if source.name == name), None)

    def feed(self, name: str) -> Feed | None:
        return next((feed for feed in self.feeds if feed.name == name), None)

    def destination(self, name: str) -> AnyDestination | None:
        return next((destination for destination in self.destinations if destination.name == name), None)
