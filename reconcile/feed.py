"""What a feed asks for, worked out from its settings: the columns to read and the items that each record becomes."""

from dataclasses import dataclass
from decimal import Decimal

from idsync.ids import DEFAULT_RULES, IdRules
from idsync.settings import DataSource, Feed, TraitRule
from reconcile.names import InboundName, Suffix

_SUFFIXES: dict[str, Suffix] = {"none": "", "gzip": "gz", "pgp": "gpg"}


@dataclass(frozen=True, slots=True)
class SignalItem:
    """`"key"="value"`, where the value is not empty."""

    column: int
    key: str


@dataclass(frozen=True, slots=True)
class TraitsItem:
    """An item for each entry of the column: `d_sid=…`, `ic=…`, and, where it `removes`, `d_unsid=…`."""

    column: int
    removes: bool


@dataclass(frozen=True, slots=True)
class OneOf:
    """The value is one of these, byte for byte."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Within:
    """The value is a decimal number between these, both included: `12`, `-3.50`, `+.5`; no exponent, no blanks."""

    least: Decimal | None
    most: Decimal | None


@dataclass(frozen=True, slots=True)
class Matching:
    """The whole value fits a pattern of RE2."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Present:
    """The value is not blank, or, if not `wanted`, blank: nothing but ASCII white space."""

    wanted: bool


Test = OneOf | Within | Matching | Present


@dataclass(frozen=True, slots=True)
class RuleItem:
    """The trait, by ID or integration code, where the column passes the test; else `d_unsid=trait` where `removes`."""

    column: int
    test: Test
    trait: int | str
    removes: bool


@dataclass(frozen=True, slots=True)
class TraitItem:
    """The trait, by ID or by integration code, of every record."""

    trait: int | str


Item = SignalItem | TraitsItem | RuleItem | TraitItem


@dataclass(frozen=True, slots=True)
class Plan:
    """`columns` are the value columns, each once, in order of first mention; items point into them by position.

    `id_rules` are those of the data source whose customer IDs the records carry. `constants` are signals, key and
    value, that go along with whatever a record says; where `speaks_always`, they are sent even for one that says
    nothing. Where `spares_records`, an item that can't be sent is left out, and not its whole record.
    """

    id_column: str
    columns: tuple[str, ...]
    items: tuple[Item, ...]
    by_uuid: bool
    every_device: bool
    emit_unmatched: bool
    id_rules: IdRules = DEFAULT_RULES
    constants: tuple[tuple[str, str], ...] = ()
    speaks_always: bool = False
    spares_records: bool = False

    def positions(self, kind: type[SignalItem] | type[TraitsItem]) -> list[int]:
        """The columns used by items of this kind."""
        return sorted({item.column for item in self.items if isinstance(item, kind)})


def plan(feed: Feed, source: DataSource) -> Plan:
    mentioned = [*feed.signals, *feed.trait_columns, *(rule.column for rule in feed.rules)]
    columns = tuple(dict.fromkeys(mentioned))
    removes = feed.mode == "sync"  # removals are ignored in an overwrite file, so none is written there
    items: list[Item] = [
        SignalItem(columns.index(column), feed.signal_keys.get(column, column)) for column in feed.signals
    ]
    items += [TraitsItem(columns.index(column), removes) for column in feed.trait_columns]
    items += [
        RuleItem(columns.index(rule.column), _test(rule), rule.adds, rule.otherwise == "remove" and removes)
        for rule in feed.rules
    ]
    items += [TraitItem(trait) for trait in feed.constant_traits]
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
        constants=tuple(feed.constants.items()),
        speaks_always=feed.empty_overwrite,
        spares_records=feed.unsendable == "item",
    )


def _test(rule: TraitRule) -> Test:
    if rule.equals is not None:
        return OneOf((rule.equals,))
    if rule.one_of is not None:
        return OneOf(rule.one_of)
    if rule.range is not None:
        return Within(rule.range.min, rule.range.max)
    if rule.regex is not None:
        return Matching(rule.regex)
    return Present(rule.present is not False)


def inbound_name(feed: Feed, source: DataSource, timestamp: int) -> InboundName:
    suffix = _SUFFIXES[feed.compression]
    return InboundName(feed.dpid or source.dpid, timestamp, feed.mode, target=feed.target, suffix=suffix)
