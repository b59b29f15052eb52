"""Amazon S3, or a server that speaks its protocol (`endpoint_url`)."""

import base64
import hashlib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)

from idsync.settings import S3Destination
from reconcile.delivery import multipart
from reconcile.delivery.aws import s3_client
from reconcile.delivery.bandwidth import MEGABYTE, Bandwidth
from reconcile.delivery.base import CONFLICT_MEND, INCOMPARABLE, LATER, conflict, damaged, see_whole
from reconcile.delivery.multipart import Measured, Part, Upload
from reconcile.errors import DeliveryConflict, DestinationRefused, DestinationUnavailable
from reconcile.files import FrozenFile
from reconcile.names import s3_key

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# Audience Manager's buckets, from "About Amazon S3 inbound data" and "Inbound data: beta environment".
BUCKETS = {"production": "demdex-s2s-clients", "beta": "demdex-s2s-client-sandbox-us-east-1"}

_BUFFER_BYTES = 1 << 18

_TAKEN = 412
_RACE = 409
_MISSING = 404
_FORBIDDEN = 403
_TOO_MANY = 429
_SERVER_FAULT = 500
_LATER = {
    *(
        "SlowDown",
        "RequestTimeout",
        "RequestTimeTooSkewed",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
    ),
    *("InternalError", "ServiceUnavailable", "OperationAborted", "NoSuchKey"),  # the last: deleted while we put
}
# What arrived is not what was sent, or not all of it.
_MANGLED = {"BadDigest", "InvalidDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
# The parts can't be put together: from the first one again.
_USELESS = {"NoSuchUpload", "InvalidPart", "InvalidPartOrder", "EntityTooSmall", *_MANGLED}


class S3Delivery:
    """A name is offered by one conditional call, which succeeds only if the key is free, and S3 checks what arrives.

    Small files are one PUT with their SHA-256. Larger ones go in parts; they appear, under a CRC-64/NVME of the whole,
    when the parts are put together. S3 has no SHA-256 of the whole for parts.
    """

    def __init__(self, destination: S3Destination, partner: str) -> None:
        self._destination, self._partner = destination, partner
        self._bucket = destination.bucket or BUCKETS[destination.environment or "production"]
        self._part_bytes = destination.part_megabytes * MEGABYTE
        self._checksums = destination.request_checksum_calculation == "when_supported"
        self._bandwidth = Bandwidth(destination.max_megabytes_per_second)
        self._made: S3Client | None = None
        self._making = Lock()

    def reach(self) -> None:
        """Whether a server answers. What it answers says little: who may put need not be allowed to look."""
        where = f"s3://{self._bucket}"
        with self._telling(where):
            try:
                self._client().head_bucket(Bucket=self._bucket)
            except ClientError as error:
                if _status(error) >= _SERVER_FAULT or error.operation_name == "AssumeRole":
                    raise

    def deliver(self, path: Path, file: FrozenFile, planned_at: int) -> str:
        key = s3_key(self._partner, self._destination.prefix, planned_at, file.name)
        where = f"s3://{self._bucket}/{key}"
        with self._telling(where):
            if file.bytes <= self._part_bytes:
                self._put(path, file, key, where)
            else:
                self._put_parts(path, file, key, where)
        return where

    # --- in one piece ----------------------------------------------------------------------------------------------

    def _put(self, path: Path, file: FrozenFile, key: str, where: str) -> None:
        checksum = base64.b64encode(bytes.fromhex(file.sha256)).decode()
        how: dict[str, Any] = {"ChecksumSHA256": checksum} if self._checksums else {"ContentMD5": _md5(path)}
        try:
            with _Body(path, 0, file.bytes, self._bandwidth) as body:
                told = self._client().put_object(
                    Bucket=self._bucket,
                    Key=key,
                    Body=body,  # type: ignore[arg-type]
                    ContentLength=file.bytes,
                    IfNoneMatch="*",
                    **how,
                    **self._kind(),
                )
        except ClientError as error:
            if _status(error) == _TAKEN:
                # by an earlier try of ours whose answer got lost, or by somebody else
                self._compare(path, file, key, where)
                return
            if _code(error) in _MANGLED:
                see_whole(path, file)
            raise
        if told.get("ChecksumSHA256") != checksum:  # a server that does not say what it has taken
            self._compare(path, file, key, where)

    # --- in parts --------------------------------------------------------------------------------------------------

    def _put_parts(self, path: Path, file: FrozenFile, key: str, where: str) -> None:
        measured = multipart.measure(path, self._part_bytes, sha256=not file.crc, md5s=not self._checksums)
        if not measured.is_of(file):
            raise damaged(path)
        upload = multipart.saved(path, self._bucket, key, self._part_bytes)
        if upload is None:
            if self._is_there(key):
                self._compare(path, file, key, where)
                return
            upload = self._begin(path, key)
        try:
            for part in measured.parts:
                if str(part.number) not in upload.etags:
                    upload.etags[str(part.number)] = self._put_part(path, part, upload)
                    upload.save(path)
            told = self._put_together(measured, file, upload)
        except ClientError as error:
            taken = _status(error) == _TAKEN
            if not (taken or _status(error) == _RACE or _code(error) in _USELESS):
                raise
            # After a 409 S3 wants a new upload, too. An upload that is gone may have been put together by an earlier
            # try whose answer got lost: the next try looks whether the key is there.
            self._drop(path, upload)
            if taken:
                self._compare(path, file, key, where)
                return
            raise DestinationUnavailable(f"{where}: {_text(error)}; the upload starts anew", mend=LATER) from None
        multipart.forget(path)
        if told != measured.crc:
            self._compare(path, file, key, where)

    def _begin(self, path: Path, key: str) -> Upload:
        """A new upload; what earlier tries left unfinished under this key goes: its parts cost as much as objects."""
        with suppress(ClientError):  # to list and to abort are rights of their own, and cleaning up is no duty
            left = self._client().list_multipart_uploads(Bucket=self._bucket, Prefix=key).get("Uploads", [])
            for old in left:
                if old.get("Key") == key:
                    self._client().abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=old["UploadId"])
        kind = self._kind()
        if self._checksums:
            kind |= {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"}
        begun = self._client().create_multipart_upload(Bucket=self._bucket, Key=key, **kind)
        upload = Upload(self._bucket, key, self._part_bytes, begun["UploadId"])
        upload.save(path)
        return upload

    def _put_part(self, path: Path, part: Part, upload: Upload) -> str:
        """The ETag by which S3 knows it."""
        how: dict[str, Any] = {"ChecksumCRC64NVME": part.crc} if self._checksums else {"ContentMD5": part.md5}
        with _Body(path, part.offset, part.length, self._bandwidth) as body:
            told = self._client().upload_part(
                Bucket=self._bucket,
                Key=upload.key,
                UploadId=upload.upload_id,
                PartNumber=part.number,
                Body=body,  # type: ignore[arg-type]
                ContentLength=part.length,
                **how,
            )
        return told["ETag"]

    def _put_together(self, measured: Measured, file: FrozenFile, upload: Upload) -> str | None:
        """The checksum that S3 has for the whole."""
        parts: list[Any] = [
            {"PartNumber": part.number, "ETag": upload.etags[str(part.number)]}
            | ({"ChecksumCRC64NVME": part.crc} if self._checksums else {})
            for part in measured.parts
        ]
        how: dict[str, Any] = {}
        if self._checksums:
            how = {"ChecksumCRC64NVME": measured.crc, "ChecksumType": "FULL_OBJECT", "MpuObjectSize": file.bytes}
        return (
            self._client()
            .complete_multipart_upload(
                Bucket=self._bucket,
                Key=upload.key,
                UploadId=upload.upload_id,
                MultipartUpload={"Parts": parts},
                IfNoneMatch="*",
                **how,
            )
            .get("ChecksumCRC64NVME")
        )

    def _drop(self, path: Path, upload: Upload) -> None:
        multipart.forget(path)
        with suppress(ClientError):
            self._client().abort_multipart_upload(Bucket=self._bucket, Key=upload.key, UploadId=upload.upload_id)

    def _kind(self) -> dict[str, Any]:
        """What the object is to be, beside its bytes."""
        destination = self._destination
        kind: dict[str, Any] = {"ACL": destination.acl}
        if destination.sse:
            kind["ServerSideEncryption"] = destination.sse
        if destination.kms_key_id:
            kind["SSEKMSKeyId"] = destination.kms_key_id
        return kind

    # --- what lies there -------------------------------------------------------------------------------------------

    def _is_there(self, key: str) -> bool:
        """As far as we may know: without the right to list, S3 says 403 for what is missing."""
        try:
            self._client().head_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if _status(error) in {_MISSING, _FORBIDDEN}:
                return False
            raise
        return True

    def _compare(self, path: Path, file: FrozenFile, key: str, where: str) -> None:
        """Raise unless the object holds the file's bytes: as S3 attests, or else as they are read back."""
        try:
            same = self._holds(path, file, key)
        except ClientError as error:
            if _status(error) == _MISSING:
                raise DestinationUnavailable(f"{where}: was there, and is gone", mend=LATER) from None
            if _status(error) == _FORBIDDEN:
                raise DestinationRefused(
                    f"{where} {INCOMPARABLE}",
                    mend=f"let them s3:GetObject under {where.rpartition('/')[0]}/, then run again",
                ) from None
            raise
        if not same:
            see_whole(path, file)
            raise DeliveryConflict(conflict(where), mend=CONFLICT_MEND)

    def _holds(self, path: Path, file: FrozenFile, key: str) -> bool:
        head = self._client().head_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED")
        if head["ContentLength"] != file.bytes:
            return False
        attested = head.get("ChecksumSHA256", "")
        if attested and "-" not in attested:  # with one: a checksum of the parts' checksums
            return base64.b64decode(attested).hex() == file.sha256
        if head.get("ChecksumType") == "FULL_OBJECT" and (crc := head.get("ChecksumCRC64NVME")):
            return crc == (file.crc or multipart.measure(path, self._part_bytes).crc)
        digest = hashlib.sha256()
        for piece in self._client().get_object(Bucket=self._bucket, Key=key)["Body"].iter_chunks(1 << 20):
            digest.update(piece)
        return digest.hexdigest() == file.sha256

    # --- failures --------------------------------------------------------------------------------------------------

    @contextmanager
    def _telling(self, where: str) -> Iterator[None]:
        """Errors of the client become ours."""
        try:
            yield
        except ClientError as error:
            raise self._told(error, where) from None
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise DestinationRefused(
                f"{where}: {error}", mend="give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role"
            ) from None
        except (ConnectionError, HTTPClientError, IncompleteReadError, CredentialRetrievalError) as error:
            if _distrusts(error):
                raise DestinationRefused(
                    f"{where}: {error}", mend="mend the server's certificate, or name its authority in AWS_CA_BUNDLE"
                ) from None
            raise DestinationUnavailable(f"{where}: {error}", mend=LATER) from None
        except BotoCoreError as error:
            raise DestinationRefused(
                f"{where}: {error}", mend="mend the destination's settings and run again"
            ) from None

    def _told(self, error: ClientError, where: str) -> DestinationRefused | DestinationUnavailable:
        code, status = _code(error), _status(error)
        problem = f"{where}: {_text(error)}"
        if status >= _SERVER_FAULT or status in {_RACE, _TOO_MANY} or code in _LATER | _MANGLED:
            return DestinationUnavailable(problem, mend=LATER)
        if error.operation_name == "AssumeRole":
            role = self._destination.role_arn
            return DestinationRefused(
                problem,
                mend=f"let these credentials sts:AssumeRole {role}, and let the role trust them; then run again",
            )
        below = f"{where.rpartition('/')[0]}/"
        rights = "s3:PutObject and s3:PutObjectAcl" + (", kms:GenerateDataKey and kms:Decrypt" * bool(self._sse_kms))
        mends = {
            "NoSuchBucket": "mend the destination's bucket",
            "AccessDenied": f"let these credentials {rights} under {below}",
            "InvalidAccessKeyId": "mend AWS_ACCESS_KEY_ID",
            "SignatureDoesNotMatch": "mend AWS_SECRET_ACCESS_KEY",
            "ExpiredToken": "renew the session's credentials",
            "PermanentRedirect": "mend the destination's region",
            "AuthorizationHeaderMalformed": "mend the destination's region",
        }
        return DestinationRefused(problem, mend=f"{mends.get(code, 'mend the destination')}; then run again")

    @property
    def _sse_kms(self) -> bool:
        return self._destination.sse == "aws:kms"

    def _client(self) -> "S3Client":
        with self._making:
            if self._made is None:
                self._made = s3_client(self._destination)
                self._made.meta.events.register_first("before-send.s3", _pace)
        return self._made


class _Body:
    """A stretch of a file. It is read twice, to sign it and to send it: only the second time is the bandwidth's."""

    def __init__(self, path: Path, offset: int, length: int, bandwidth: Bandwidth) -> None:
        self._file, self._offset, self._length = path.open("rb", buffering=_BUFFER_BYTES), offset, length
        self._bandwidth = bandwidth
        self._at = 0  # reckoned, not asked for: it is read in tens of thousands of small pieces
        self._file.seek(offset)
        self.paced = False

    def __enter__(self) -> "_Body":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._length

    def read(self, size: int | None = -1) -> bytes:
        left = self._length - self._at
        data = self._file.read(left if size is None or size < 0 or size > left else size)
        self._at += len(data)
        if self.paced:
            self._bandwidth.take(len(data))
        return data

    def seek(self, position: int, whence: int = 0) -> int:
        start = (0, self._at, self._length)[whence]
        self._at = self._file.seek(self._offset + start + position) - self._offset
        return self._at

    def tell(self) -> int:
        return self._at


def _pace(request: Any, **_: object) -> None:
    if isinstance(request.body, _Body):
        request.body.paced = True


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return base64.b64encode(digest.digest()).decode()


def _distrusts(error: BaseException | None) -> bool:
    """Whether a certificate that can't be verified is at the bottom of it."""
    inner = getattr(error, "kwargs", {}).get("error") if error else None
    seen = [error, inner, *getattr(inner, "args", ()), getattr(inner, "reason", None)]
    seen += [argument for each in seen for argument in getattr(each, "args", ())]
    return any(isinstance(each, ssl.SSLCertVerificationError) for each in seen)


def _status(error: ClientError) -> int:
    metadata: Any = error.response.get("ResponseMetadata", {})
    return int(metadata.get("HTTPStatusCode", 0))


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")


def _text(error: ClientError) -> str:
    return f"{_code(error)} {error.response.get('Error', {}).get('Message', '')}".rstrip()
