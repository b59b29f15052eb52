"""What a feed asks for, worked out from its settings: the columns to read and the items that each record becomes."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import NamedTuple

from idsync.ids import DEFAULT_RULES, DEVICE_ID_SHAPES, IdRules
from idsync.settings import DataSource, Feed, TraitRule
from reconcile import conflicts
from reconcile.conflicts import Policy
from reconcile.names import FileName, IdSyncName, InboundName, Suffix

BYTE_ORDER_MARK = "id-byte-order-mark"
USER_IDS = ("uuid", "customer-id")  # anything else names a data source

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


class OtherIds(NamedTuple):
    """The data source whose IDs of the same devices stand in the file, in place of the records' own."""

    dpid: int
    rules: IdRules


@dataclass(frozen=True, slots=True)
class Plan:
    """`columns` are the value columns, each once, in order of first mention; items point into them by position.

    `id_rules` are those of the data source whose customer IDs the records carry. `constants` are signals, key and
    value, that go along with whatever a record says; where `speaks_always`, they are sent even for one that says
    nothing. Where `spares_records`, an item that can't be sent is left out, and not its whole record. Users are UUIDs
    (`by_uuid`), IDs of `other`, or else the records' customer IDs. `dpid` is that of the file's name: whose IDs stand
    in its first column. Of a file of e-mail hashes there are no items, and one column; `email_dpid` is that of hashes.
    Where it `withholds` removals, they only have a say in what contradicts what: an overwrite file holds none.
    Where the records are known to be `clean` in the sense of `screen.is_clean`, less is asked of each.
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
    policy: Policy = "all"
    other: OtherIds | None = None
    dpid: int = 0
    email_dpid: int = 0
    withholds: bool = False
    clean: bool = False

    def as_sent(self) -> "Plan":
        """Without the removals that are withheld."""
        if not self.withholds:
            return self
        removers = (TraitsItem, RuleItem)
        items = (replace(item, removes=False) if isinstance(item, removers) else item for item in self.items)
        return replace(self, items=tuple(items), withholds=False)

    def positions(self, kind: type[SignalItem] | type[TraitsItem]) -> list[int]:
        """The columns used by items of this kind."""
        return sorted({item.column for item in self.items if isinstance(item, kind)})


def plan(feed: Feed, source: DataSource, sources: Iterable[DataSource] = ()) -> Plan:
    """`source` is the feed's own, `sources` are all that there are: it may name another."""
    by_name = {known.name: known for known in sources}
    if feed.email_column is not None and feed.email_data_source is not None:
        return Plan(
            id_column=feed.id_column,
            columns=(feed.email_column,),
            items=(),
            by_uuid=False,
            every_device=False,
            emit_unmatched=False,
            id_rules=_as_in_file(source.id_rules, source.dpid),
            dpid=source.dpid,
            email_dpid=by_name[feed.email_data_source].dpid,
        )
    other = None if feed.user_id in USER_IDS else by_name[feed.user_id]
    dpid = feed.dpid or (other or source).dpid
    mentioned = [*feed.signals, *feed.trait_columns, *(rule.column for rule in feed.rules)]
    columns = tuple(dict.fromkeys(mentioned))
    # removals are ignored in an overwrite file, so none is written there
    withholds = feed.mode == "overwrite" and feed.conflicts != "all"
    removes = feed.mode == "sync" or withholds
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
        every_device=(by_uuid or other is not None) and feed.devices == "all",
        emit_unmatched=feed.unmatched == "emit",
        id_rules=source.id_rules if by_uuid or other else _as_in_file(source.id_rules, dpid),
        constants=_constants(feed),
        speaks_always=feed.empty_overwrite,
        spares_records=feed.unsendable == "item",
        policy=feed.conflicts,
        other=OtherIds(other.dpid, _as_in_file(other.id_rules, dpid)) if other else None,
        dpid=dpid,
        withholds=withholds,
    )


def _as_in_file(rules: IdRules, dpid: int) -> IdRules:
    """An ID of the wrong shape for a global device data source is refused by Audience Manager, so it is never sent. Nor
    is one that begins with a byte order mark: with it the first line would make a file that does.
    """
    checks = (*rules.checks, (BYTE_ORDER_MARK, _begins_with_mark))
    return rules._replace(checks=checks, shape=DEVICE_ID_SHAPES.get(dpid, rules.shape))


def _begins_with_mark(customer_id: str) -> bool:
    return customer_id.startswith("\ufeff")


def _constants(feed: Feed) -> tuple[tuple[str, str], ...]:
    """Those that are left where two have one key, which is a contradiction of its own."""
    texts = {f'"{key}"="{value}"': (key, value) for key, value in feed.constants.items()}
    return tuple(texts[text] for text in conflicts.resolve(texts, feed.conflicts).items)


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


def file_name(feed: Feed, plan: Plan, timestamp: int) -> FileName:
    if plan.email_dpid:
        name = IdSyncName("c2c_id", (plan.dpid, plan.email_dpid), timestamp)
        return replace(name, suffix="gz") if feed.compression == "gzip" else name
    suffix = _SUFFIXES[feed.compression]
    return InboundName(plan.dpid, timestamp, feed.mode, target=feed.target, suffix=suffix)
