"""Mapping stores: `open_store` chooses by the URL's scheme."""

from pathlib import Path

from idsync.errors import StoreMisconfigured
from idsync.settings import Store
from idsync.store.base import MappingStore
from idsync.store.redis import RedisStore
from idsync.store.sqlite import SqliteStore

DAY = 86_400_000  # milliseconds


def open_store(settings: Store) -> MappingStore:
    """A store that connects when it is first used, and again in every process that inherits it by a fork."""
    lifetime = settings.mapping_ttl_days * DAY
    if settings.url.startswith("sqlite:///"):
        return SqliteStore(settings.url.removeprefix("sqlite:///"), lifetime, settings.devices_per_customer)
    password = _read_password(settings.password_file) if settings.password_file else None
    return RedisStore(settings.url, lifetime, settings.devices_per_customer, settings.buckets, password=password)


def _read_password(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise StoreMisconfigured(
            f"store.password_file {path}: {reason}",
            mend="name a readable file that holds the password and nothing else",
        ) from None
