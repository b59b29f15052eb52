"""A client of S3 as the destination's settings ask for it: server, checksums, credentials or an assumed role."""

from functools import partial
from typing import TYPE_CHECKING

import boto3
import botocore.session
from botocore.auth import AUTH_TYPE_MAPS, S3SigV4Auth
from botocore.config import Config
from botocore.credentials import (
    AssumeRoleCredentialFetcher,
    CredentialProvider,
    CredentialResolver,
    DeferredRefreshableCredentials,
)
from botocore.exceptions import NoCredentialsError

from idsync.settings import S3Destination

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# The signer in C, which comes with the library of checksums, lets no other thread work while it hashes a body.
AUTH_TYPE_MAPS["s3v4"] = S3SigV4Auth

_SESSION_NAME = "idsync-reconcile"  # as the role's owner sees it in CloudTrail
_CONNECTIONS = 16  # as many as `parallel` may be
_CONNECT_SECONDS = 10
_ANSWER_SECONDS = 120


def s3_client(destination: S3Destination) -> "S3Client":
    """Tries each call once: `courier` tries again. Safe to share between threads. Raises BotoCoreError."""
    once = Config(
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_ANSWER_SECONDS,
        max_pool_connections=_CONNECTIONS,
        # nothing but what a call asks for by itself: servers other than Amazon's may not know the newer trailers
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    core = botocore.session.get_session()
    if destination.role_arn:
        provider = _Role(core, destination, once)
        core = botocore.session.get_session()
        core.register_component("credential_provider", CredentialResolver([provider]))
    return boto3.session.Session(botocore_session=core).client(
        "s3", endpoint_url=destination.endpoint_url, region_name=destination.region, config=once
    )


class _Role(CredentialProvider):
    """Credentials of the role, asked for when first needed and again before each session ends."""

    METHOD = "idsync-role"

    def __init__(self, own: botocore.session.Session, destination: S3Destination, config: Config) -> None:
        super().__init__()
        self._own, self._destination, self._config = own, destination, config

    def load(self) -> DeferredRefreshableCredentials:
        destination = self._destination
        source = self._own.get_credentials()
        if source is None:
            raise NoCredentialsError
        arguments = {"RoleSessionName": _SESSION_NAME}
        if destination.external_id:
            arguments["ExternalId"] = destination.external_id
        fetcher = AssumeRoleCredentialFetcher(
            partial(self._own.create_client, region_name=destination.region, config=self._config),
            source,
            str(destination.role_arn),
            extra_args=arguments,
        )
        return DeferredRefreshableCredentials(fetcher.fetch_credentials, self.METHOD)
