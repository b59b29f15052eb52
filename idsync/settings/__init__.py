"""The settings: one model a table of the TOML file. `config.load` reads and checks them; README.md explains each.

Field names are the keys of the file. Descriptions are for the reader of this module; the reference is the README's,
and a test holds the two together.
"""

from functools import cached_property
from typing import Annotated

from pydantic import Field

from idsync.ids import DEVICE_ID_CODES
from idsync.settings.destinations import (
    AUDIENCE_MANAGER_SUBKEY,
    AnyDestination,
    Destination,
    DirectoryDestination,
    FtpDestination,
    Pgp,
    S3Destination,
    SftpDestination,
)
from idsync.settings.endpoint import Abuse, DataSource, Endpoint, Placement, Privacy, Store
from idsync.settings.feeds import TRAIT_CODE, Feed, TraitRule
from idsync.settings.job import Health, Reconcile
from idsync.settings.values import MAX_TRAIT_DIGITS, Table

__all__ = [
    "AUDIENCE_MANAGER_SUBKEY",
    "MAX_TRAIT_DIGITS",
    "TRAIT_CODE",
    "Abuse",
    "AnyDestination",
    "DataSource",
    "Destination",
    "DirectoryDestination",
    "Endpoint",
    "Feed",
    "FtpDestination",
    "Health",
    "Pgp",
    "Placement",
    "Privacy",
    "Reconcile",
    "S3Destination",
    "Settings",
    "SftpDestination",
    "Store",
    "Table",
    "TraitRule",
]


class Settings(Table):
    partner: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = None
    store: Store
    endpoint: Endpoint = Endpoint()
    privacy: Privacy
    abuse: Abuse = Abuse()
    data_sources: tuple[DataSource, ...]
    feeds: tuple[Feed, ...] = ()
    destinations: tuple[Destination, ...] = ()
    pgp: Pgp | None = None
    health: Health = Health()
    reconcile: Reconcile

    @cached_property
    def sources_by_dpid(self) -> dict[int, DataSource]:
        return {source.dpid: source for source in self.data_sources}

    @cached_property
    def sources_by_code(self) -> dict[str, DataSource]:
        """By integration code: the one that is set, and for Google's and Apple's device IDs also Audience Manager's."""
        global_ = {code: self.sources_by_dpid.get(dpid) for code, dpid in DEVICE_ID_CODES.items()}
        named = {code: source for code, source in global_.items() if source}
        return named | {source.integration_code: source for source in self.data_sources if source.integration_code}

    def data_source(self, name: str) -> DataSource | None:
        return next((source for source in self.data_sources if source.name == name), None)

    def feed(self, name: str) -> Feed | None:
        return next((feed for feed in self.feeds if feed.name == name), None)

    def destination(self, name: str) -> AnyDestination | None:
        return next((destination for destination in self.destinations if destination.name == name), None)
