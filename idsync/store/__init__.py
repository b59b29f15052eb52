"""Mapping stores: `open_store` chooses by the URL's scheme."""

from pathlib import Path

from idsync.errors import StoreMisconfigured
from idsync.settings import Store
from idsync.store.base import MappingStore
from idsync.store.sqlite import SqliteStore

DAY = 86_400_000  # milliseconds


def open_store(settings: Store, *, patient: bool = True) -> MappingStore:
    """A store that connects when it is first used, and again in every process that inherits it by a fork.

    Patient, a Redis that is away is tried again and waited for some seconds. Otherwise every call ends within about a
    second and nothing is tried twice: for callers behind whom a spool stands.
    """
    lifetime = settings.mapping_ttl_days * DAY
    if settings.url.startswith("sqlite:///"):
        return SqliteStore(settings.url.removeprefix("sqlite:///"), lifetime, settings.devices_per_customer)
    # loaded where there is a Redis: the client takes a tenth of a second
    from idsync.store.connections import IMPATIENT, PATIENT, Tls  # noqa: PLC0415
    from idsync.store.redis import RedisStore  # noqa: PLC0415

    password = _read_password(settings.password_file) if settings.password_file else None
    for name in ("tls_ca_file", "tls_cert_file", "tls_key_file"):
        if path := getattr(settings, name):
            _see(name, path)
    return RedisStore(
        settings.url,
        lifetime,
        settings.devices_per_customer,
        settings.buckets,
        password=password,
        tls=Tls(settings.tls_ca_file, settings.tls_cert_file, settings.tls_key_file),
        replicas=settings.replicas,
        persistence=settings.persistence == "required",
        patience=PATIENT if patient else IMPATIENT,
    )


def _see(name: str, path: Path) -> None:
    """That a file can be read, told before any connection: a TLS library's own words name no file."""
    try:
        path.read_bytes()
    except OSError as error:
        raise StoreMisconfigured(
            f"store.{name} {path}: {error.strerror}", mend="name a PEM file that this user may read"
        ) from None


def _read_password(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise StoreMisconfigured(
            f"store.password_file {path}: {reason}",
            mend="name a readable file that holds the password and nothing else",
        ) from None
