"""Inputs in a bucket of Amazon S3, or of a server that speaks its protocol: listed, and copied to be read.

A key has no folders: a `*` of the pattern stands for any characters, slashes included. One that ends in a slash names
all that begins with it.
"""

import fnmatch
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)

from idsync.errors import ConfigError, IdsyncError
from reconcile.errors import InputChanging, InputUnavailable
from reconcile.inputs.remote import SCHEME, RemoteObject

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import PaginatorConfigTypeDef

BLOCK_BYTES = 1 << 20
ATTEMPTS = 5
PAGE_KEYS = 1000  # the most that S3 gives at a time
_MAGIC = re.compile(r"[*?\[]")
_GONE = {"NoSuchKey", "PreconditionFailed", "404", "412"}
_LATER = {"SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "Throttling", "ThrottlingException", "InternalError"}
_SERVER_FAULT = 500
_MENDS = {
    "NoSuchBucket": "no such bucket; mend its name",
    "AccessDenied": "these credentials may not s3:ListBucket and s3:GetObject there; allow it",
    "InvalidAccessKeyId": "mend AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "mend AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "renew the session's credentials",
}


class Place(Protocol):
    """As the settings of a feed name it: `s3://bucket/pattern`, server and region where they are not the AWS tools'."""

    @property
    def inputs(self) -> str: ...

    @property
    def inputs_endpoint_url(self) -> str | None: ...

    @property
    def inputs_region(self) -> str | None: ...


class Bucket:
    """The objects that a pattern names. Raises ConfigError, or InputUnavailable for what may pass."""

    def __init__(self, place: Place) -> None:
        self._bucket, _, pattern = place.inputs.removeprefix(SCHEME).partition("/")
        self._pattern = f"{pattern}*" if pattern.endswith("/") else pattern
        self._place = place
        self._made: S3Client | None = None

    def objects(self) -> list[RemoteObject]:
        """Sorted by key."""
        prefix, found = self._prefix(), []
        with self._telling(self._place.inputs):
            pages = self._client().get_paginator("list_objects_v2")
            sizes: PaginatorConfigTypeDef = {"PageSize": PAGE_KEYS}
            for page in pages.paginate(Bucket=self._bucket, Prefix=prefix, PaginationConfig=sizes):
                for entry in page.get("Contents", []):
                    key = entry["Key"]
                    if fnmatch.fnmatchcase(key, self._pattern) and not key.endswith("/"):
                        url, modified = f"{SCHEME}{self._bucket}/{key}", entry["LastModified"].isoformat()
                        found.append(RemoteObject(url, key, entry["ETag"], entry["Size"], modified))
        return sorted(found, key=lambda found: found.key)

    def place(self, source: RemoteObject) -> str:
        """Its key from the folder on in which all lies that the pattern names."""
        return source.key.removeprefix(self._prefix().rpartition("/")[0]).removeprefix("/")

    def copy(self, source: RemoteObject, target: Path) -> str:
        """Write the object that was listed to a file; the SHA-256 of its bytes in hex. InputChanging if it is another
        by now.
        """
        digest, size = hashlib.sha256(), 0
        with self._telling(source.url), target.open("wb") as file:
            body = self._client().get_object(Bucket=self._bucket, Key=source.key, IfMatch=source.etag)["Body"]
            for block in body.iter_chunks(BLOCK_BYTES):
                digest.update(block)
                size += file.write(block)
        if size != source.size:
            raise InputUnavailable(
                f"{source.url}: {size:,} bytes came of {source.size:,}", mend="the transfer was cut off; run again"
            )
        return digest.hexdigest()

    def _prefix(self) -> str:
        magic = _MAGIC.search(self._pattern)
        return self._pattern[: magic.start()] if magic else self._pattern

    @contextmanager
    def _telling(self, where: str) -> Iterator[None]:
        """Errors of the client become ours."""
        try:
            yield
        except ClientError as error:
            raise _told(error, where) from None
        except (NoCredentialsError, PartialCredentialsError) as error:
            fault = f"{where}: {error}; give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role"
            raise ConfigError("feeds.inputs", [fault]) from None
        except (ConnectionError, HTTPClientError, IncompleteReadError) as error:
            raise InputUnavailable(f"{where}: {error}", mend="nothing was read; run again later") from None
        except BotoCoreError as error:
            raise ConfigError("feeds.inputs", [f"{where}: {error}"]) from None

    def _client(self) -> "S3Client":
        if self._made is None:
            self._made = boto3.session.Session().client(
                "s3",
                endpoint_url=self._place.inputs_endpoint_url,
                region_name=self._place.inputs_region,
                config=Config(
                    retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                    connect_timeout=10,
                    read_timeout=120,
                ),
            )
        return self._made


def _told(error: ClientError, where: str) -> IdsyncError:
    told: Any = error.response
    code, status = told.get("Error", {}).get("Code", ""), told.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    problem = f"{where}: {code} {told.get('Error', {}).get('Message', '')}".rstrip()
    if status >= _SERVER_FAULT or code in _LATER:
        return InputUnavailable(problem, mend="nothing was read; run again later")
    if code in _GONE:
        return InputChanging(f"{where}: was replaced or removed since it was listed", mend="run again")
    return ConfigError("feeds.inputs", [f"{problem}: {_MENDS.get(code, 'mend the feed')}"])
