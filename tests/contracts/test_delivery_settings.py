"""The settings of destinations: what they stand for, and what does not go together."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from idsync.settings import AUDIENCE_MANAGER_SUBKEY, DirectoryDestination, Pgp
from reconcile.delivery import connect
from tests.contracts.destinations import s3_table, settings_of

FTP = {"kind": "ftp", "name": "server", "user": "acme", "host": "ftp.example.com"}
PIN = "SHA256:" + "A" * 43
SFTP = FTP | {"kind": "sftp", "key_file": "/key", "host_keys": [PIN]}
S3 = s3_table("http://127.0.0.1:9")


def without(table: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key not in keys}


@pytest.mark.parametrize(
    ("table", "where"),
    [
        (FTP, "ftp://ftp.example.com:21"),
        (FTP | {"environment": "beta"}, "ftp://ftp.example.com:21"),
        (without(FTP, "host") | {"environment": "production"}, "ftp://ftp-in.demdex.com:21"),
        (without(FTP, "host") | {"environment": "beta", "kind": "ftps"}, "ftps://sandbox-ftp-in.demdex.com:21"),
        (without(SFTP, "host") | {"environment": "production", "port": 2222}, "sftp://ftp-in-gtw.demdex.com:2222"),
    ],
)
def test_an_environment_stands_for_a_host(table: dict[str, Any], where: str) -> None:
    assert connect(settings_of(table), "")._where == where  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        (without(FTP, "host"), "missing; give it, or environment"),
        (FTP | {"tls_ca_file": "/ca.pem"}, 'needs kind = "ftps"'),
        (FTP | {"password_file": "/p", "password": "open sesame"}, "stands beside password_file"),
        (FTP | {"folder": "in\r\nDELE x"}, "holds a control character"),
        (FTP | {"host": "ftp://example.com"}, "String should match pattern"),
        (without(SFTP, "key_file"), "missing; give it, or a password"),
        (without(SFTP, "host_keys"), "give the fingerprints of the server's keys, or known_hosts_file"),
        (SFTP | {"host_keys": ["MD5:aa:bb"]}, "as ssh-keygen -l prints it"),
        (without(SFTP, "host") | {"environment": "beta"}, "Input should be 'production'"),
        (S3 | {"kms_key_id": "k", "sse": "AES256"}, 'needs sse = "aws:kms"'),
        (S3 | {"kms_key_id": "k"}, 'needs sse = "aws:kms"'),
        (S3 | {"external_id": "e"}, "needs role_arn"),
        (S3 | {"role_arn": "aam-delivery"}, "String should match pattern"),
    ],
)
def test_what_does_not_go_together_is_told(table: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError) as caught:
        settings_of(table)
    assert fault in str(caught.value)


def test_audience_managers_key_is_pinned_unless_another_is() -> None:
    assert Pgp(public_key_file=Path("key")).fingerprint == AUDIENCE_MANAGER_SUBKEY
    with pytest.raises(ValidationError):
        Pgp(public_key_file=Path("key"), fingerprint="E3F2A363")


def test_a_directory_needs_no_patience() -> None:
    assert "retry_seconds" not in DirectoryDestination.model_fields
