"""Settings and identifiers that the tests of the endpoint share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from idsync import config
from idsync.service import Service, open_spool
from idsync.settings import Settings
from idsync.store import open_store

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
cors_origins = ["https://www.example.com"]

[privacy]
gdpr_default = "{gdpr_default}"

[[data_sources]]
name = "crm"
dpid = 12345
integration_code = "acme-crm"

[[data_sources]]
name = "shop"
dpid = 777
integration_code = "acme shöp"

[[data_sources]]
name = "closed"
dpid = 888
denied = true

[[data_sources]]
name = "android"
dpid = 20914
id_type = "device-advertising-id"

[[data_sources]]
name = "ios"
dpid = 20915
id_type = "device-advertising-id"
"""


def configuration(*, identity: str = "mint", gdpr_default: str = "does-not-apply") -> str:
    return CONFIGURATION.format(identity=identity, gdpr_default=gdpr_default)


def settings(base: Path = Path(), *, identity: str = "mint", gdpr_default: str = "does-not-apply") -> Settings:
    return config.parse(configuration(identity=identity, gdpr_default=gdpr_default), environ={}, base=base)


@contextmanager
def serving_in_process(base: Path, store: Any = None, **options: Any) -> Iterator[Service]:
    """A service under `base`: on the SQLite store there, or on `store`. Options: of the settings, clock and entropy."""
    chosen = settings(base, **{name: options.pop(name) for name in ("identity", "gdpr_default") if name in options})
    options = {"clock": lambda: NOW, "entropy": lambda size: ENTROPY[:size]} | options
    service = Service(chosen, store or open_store(chosen.store), open_spool(chosen), **options)
    try:
        yield service
    finally:
        service.close()
