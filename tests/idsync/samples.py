"""Settings and identifiers that the tests of the endpoint share."""

from pathlib import Path

from idsync import config
from idsync.settings import Settings

UUID = "01234567890123456789012345678901234567"
OTHER_UUID = "98765432109876543210987654321098765432"
NOW = 1_795_491_420_123  # 2026-11-24T03:37:00.123Z
ENTROPY = bytes(range(24))

CONFIGURATION = """
[store]
url = "sqlite:///idsync.db"

[endpoint]
public_url = "https://sync.example.com"
identity = "{identity}"
redirect_hosts = ["dpm.demdex.net", ".partner.example", "localhost", "127.0.0.1"]

[privacy]
gdpr_default = "{gdpr_default}"

[[data_sources]]
name = "crm"
dpid = 12345

[[data_sources]]
name = "shop"
dpid = 777
"""


def configuration(*, identity: str = "mint", gdpr_default: str = "does-not-apply") -> str:
    return CONFIGURATION.format(identity=identity, gdpr_default=gdpr_default)


def settings(base: Path = Path(), *, identity: str = "mint", gdpr_default: str = "does-not-apply") -> Settings:
    return config.parse(configuration(identity=identity, gdpr_default=gdpr_default), environ={}, base=base)
