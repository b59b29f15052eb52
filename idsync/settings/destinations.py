"""The tables of destinations, one for each kind, and of whom files are encrypted for."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo

from idsync.settings.values import ConfigPath, Host, Name, Table


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
