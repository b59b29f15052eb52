"""What a feed asks for, worked out from its settings: the columns to read and the items that each record becomes."""

from dataclasses import dataclass

from idsync.ids import DEFAULT_RULES, IdRules
from idsync.settings import DataSource, Feed
from reconcile.names import InboundName, Suffix

_SUFFIXES: dict[str, Suffix] = {"none": "", "gzip": "gz", "pgp": "gpg"}


@dataclass(frozen=True, slots=True)
class SignalItem:
    """`"column"="value"`, where the value is not empty."""

    column: int


@dataclass(frozen=True, slots=True)
class TraitsItem:
    """`d_sid=…` for each trait ID in the column."""

    column: int


@dataclass(frozen=True, slots=True)
class RuleItem:
    """`d_sid=trait` where the column equals `equals`; else `d_unsid=trait` where `removes`, else nothing."""

    column: int
    equals: str
    trait: int
    removes: bool


Item = SignalItem | TraitsItem | RuleItem


@dataclass(frozen=True, slots=True)
class Plan:
    """`columns` are the value columns, each once, in order of first mention; items point into them by position.

    `id_rules` are those of the data source whose customer IDs the records carry.
    """

    id_column: str
    columns: tuple[str, ...]
    items: tuple[Item, ...]
    by_uuid: bool
    every_device: bool
    emit_unmatched: bool
    id_rules: IdRules = DEFAULT_RULES

    def positions(self, kind: type[Item]) -> list[int]:
        """The columns used by items of this kind."""
        return sorted({item.column for item in self.items if isinstance(item, kind)})


def plan(feed: Feed, source: DataSource) -> Plan:
    mentioned = [*feed.signals, *feed.trait_columns, *(rule.column for rule in feed.rules)]
    columns = tuple(dict.fromkeys(mentioned))
    items: list[Item] = [SignalItem(columns.index(column)) for column in feed.signals]
    items += [TraitsItem(columns.index(column)) for column in feed.trait_columns]
    items += [
        # removals are ignored in an overwrite file, so none is written there
        RuleItem(
            columns.index(rule.column), rule.equals, rule.trait, rule.otherwise == "remove" and feed.mode == "sync"
        )
        for rule in feed.rules
    ]
    by_uuid = feed.user_id == "uuid"
    return Plan(
        id_column=feed.id_column,
        columns=columns,
        items=tuple(items),
        by_uuid=by_uuid,
        # a file of customer IDs has one user a customer, however many devices that customer has
        every_device=by_uuid and feed.devices == "all",
        emit_unmatched=feed.unmatched == "emit",
        id_rules=source.id_rules,
    )


def inbound_name(feed: Feed, source: DataSource, timestamp: int) -> InboundName:
    suffix = _SUFFIXES[feed.compression]
    return InboundName(feed.dpid or source.dpid, timestamp, feed.mode, target=feed.target, suffix=suffix)
