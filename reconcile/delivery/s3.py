"""Amazon S3, or a server that speaks its protocol (`endpoint_url`)."""

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)

from idsync.settings import S3Destination
from reconcile.delivery.base import CONFLICT_MEND, conflict
from reconcile.errors import DeliveryConflict, DestinationRefused, DestinationUnavailable
from reconcile.files import FrozenFile
from reconcile.names import s3_key

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# Audience Manager's buckets, from "About Amazon S3 inbound data" and "Inbound data: beta environment".
BUCKETS = {"production": "demdex-s2s-clients", "beta": "demdex-s2s-client-sandbox-us-east-1"}

_TAKEN = 412
_RACE = 409
_SERVER_FAULT = 500
_LATER = {"SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "Throttling", "ThrottlingException", "InternalError"}


class S3Delivery:
    """One conditional PUT a file: it succeeds only if the key is free, and S3 checks the SHA-256 of what arrives."""

    def __init__(self, destination: S3Destination, partner: str) -> None:
        self._destination, self._partner = destination, partner
        self._bucket = destination.bucket or BUCKETS[destination.environment or "production"]
        self._made: S3Client | None = None

    def deliver(self, path: Path, file: FrozenFile, planned_at: int) -> str:
        key = s3_key(self._partner, self._destination.prefix, planned_at, file.name)
        where = f"s3://{self._bucket}/{key}"
        try:
            self._put(path, file, key, where)
        except ClientError as error:
            raise self._told(error, where) from None
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise DestinationRefused(
                f"{where}: {error}", mend="give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role"
            ) from None
        except (ConnectionError, HTTPClientError) as error:
            raise DestinationUnavailable(f"{where}: {error}", mend="the frozen files wait; run again later") from None
        except BotoCoreError as error:
            raise DestinationRefused(
                f"{where}: {error}", mend="mend the destination's settings and run again"
            ) from None
        return where

    def _put(self, path: Path, file: FrozenFile, key: str, where: str) -> None:
        checksum = base64.b64encode(bytes.fromhex(file.sha256)).decode()
        try:
            with path.open("rb") as body:
                self._client().put_object(
                    Bucket=self._bucket,
                    Key=key,
                    Body=body,
                    ContentLength=file.bytes,
                    ChecksumSHA256=checksum,
                    IfNoneMatch="*",
                    ACL=self._destination.acl,  # type: ignore[arg-type]
                )
        except ClientError as error:
            if _status(error) != _TAKEN:
                raise
            # taken: by an earlier try of ours whose answer got lost, or by somebody else
            if self._stored_sha256(key, checksum) != file.sha256:
                raise DeliveryConflict(conflict(where), mend=CONFLICT_MEND) from None

    def _stored_sha256(self, key: str, expected: str) -> str:
        """In hex, as the server attests it, or else counted over the object's bytes."""
        head = self._client().head_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED")
        if head.get("ChecksumSHA256") == expected:
            return base64.b64decode(expected).hex()
        digest = hashlib.sha256()
        for piece in self._client().get_object(Bucket=self._bucket, Key=key)["Body"].iter_chunks(1 << 20):
            digest.update(piece)
        return digest.hexdigest()

    def _told(self, error: ClientError, where: str) -> DestinationRefused | DestinationUnavailable:
        code, status = error.response.get("Error", {}).get("Code", ""), _status(error)
        problem = f"{where}: {code} {error.response.get('Error', {}).get('Message', '')}".rstrip()
        if status >= _SERVER_FAULT or status == _RACE or code in _LATER:
            return DestinationUnavailable(problem, mend="the frozen files wait; run again later")
        mends = {
            "NoSuchBucket": "mend the destination's bucket",
            "AccessDenied": f"let these credentials s3:PutObject and s3:PutObjectAcl under {where.rpartition('/')[0]}/",
            "InvalidAccessKeyId": "mend AWS_ACCESS_KEY_ID",
            "SignatureDoesNotMatch": "mend AWS_SECRET_ACCESS_KEY",
            "ExpiredToken": "renew the session's credentials",
        }
        return DestinationRefused(problem, mend=f"{mends.get(code, 'mend the destination')}; then run again")

    def _client(self) -> "S3Client":
        if self._made is None:
            self._made = boto3.session.Session().client(
                "s3",
                endpoint_url=self._destination.endpoint_url,
                region_name=self._destination.region,
                config=Config(
                    retries={"mode": "standard", "total_max_attempts": 5},
                    connect_timeout=10,
                    read_timeout=120,
                    # only what is asked for above: servers other than Amazon's may not know the newer trailers
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                ),
            )
        return self._made


def _status(error: ClientError) -> int:
    metadata: Any = error.response.get("ResponseMetadata", {})
    return int(metadata.get("HTTPStatusCode", 0))
