"""SQL for a feed's plan: pure text, run by `engine.duckdb`.

Column i of the plan is called v<i>. Column names of the input never become identifiers; where one is sent as the key of
a signal it is a string literal.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import TypeGuard

from idsync import ids
from idsync.settings import MAX_TRAIT_DIGITS
from reconcile import lines
from reconcile.conflicts import SEPARATOR
from reconcile.feed import (
    Item,
    Matching,
    OneOf,
    Plan,
    Present,
    RuleItem,
    SignalItem,
    Test,
    TraitItem,
    TraitsItem,
    Within,
)

# Lines that are packed are half full at least, and a list of traits becomes four times as long at most.
_LONG_BYTES = lines.MAX_LINES_PER_USER * lines.MAX_LINE_BYTES // 10


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def reader(name: str, paths: Iterable[str], *options: str) -> str:
    """DuckDB's reader of that name, for these very files: it would take `*` in a path for a pattern, and a folder
    called `seen=7` for a column that every row has.
    """
    files = ", ".join(literal(re.sub(r"([*?[])", r"[\1]", path)) for path in paths)
    return f"{name}([{files}], {', '.join(('hive_partitioning = false', *options))})"


def told_by(metadata: Mapping[str, str]) -> str:
    """What a Parquet file tells of itself, as an option of COPY."""
    return f"KV_METADATA {{{', '.join(f'{literal(name)}: {literal(value)}' for name, value in metadata.items())}}}"


def record_columns(plan: Plan) -> list[str]:
    """The columns of the table `records`: sequence number, customer ID, values."""
    return ["seq", "id", *(f"v{index}" for index in range(len(plan.columns)))]


def opt_out_token(dpid: int, column: str = "id") -> str:
    """The token of a customer, as `store.optouts.customer_token` makes it."""
    return f"concat('{dpid}:', sha1(concat('{dpid}:', {column})))"


def value_fault(plan: Plan) -> str:
    """The reason why a record's values are refused, or NULL; the first that applies. IDs are judged in Python."""
    if plan.spares_records:
        return "NULL"
    cases = []
    if signals := plan.positions(SignalItem):
        # one search over all values: no pattern can match across a border, since it matches single characters
        values = f"concat({', '.join(f'v{index}' for index in signals)})"
        cases.append(f"WHEN regexp_matches({values}, {literal(lines.UNSENDABLE)}) THEN 'value-unsendable'")
    cases += [
        f"WHEN {_too_long(plan, item)} THEN 'line-too-long'" for item in plan.items if isinstance(item, SignalItem)
    ]
    for index in plan.positions(TraitsItem):
        pattern = literal(lines.TRAIT_ENTRIES)
        cases.append(f"WHEN v{index} <> '' AND NOT regexp_matches(v{index}, {pattern}) THEN 'trait-not-a-number'")
    return f"CASE {' '.join(cases)} END" if cases else "NULL"


def item_faults(plan: Plan) -> list[tuple[int, str, str]]:
    """What items can't be sent, where records are spared: column, reason, how many of a record."""
    if not plan.spares_records:
        return []
    faults = []
    for item in dict.fromkeys(plan.items):
        if isinstance(item, SignalItem):
            unsendable = _unsendable(item)
            faults += [(item.column, "value-unsendable", f"({unsendable})::BIGINT")]
            faults += [(item.column, "line-too-long", f"({_too_long(plan, item)} AND NOT {unsendable})::BIGINT")]
        elif isinstance(item, TraitsItem):
            bad = f"len(list_filter({_entries(item)}, lambda entry: NOT {_IS_ENTRY}))"
            faults += [(item.column, "trait-not-a-number", f"CASE WHEN v{item.column} <> '' THEN {bad} ELSE 0 END")]
    return faults


def _too_long(plan: Plan, item: SignalItem) -> str:
    user = f"{longest_user(plan)}" if plan.by_uuid or plan.other else "strlen(id)"
    room = lines.MAX_LINE_BYTES - len(f'\t"{item.key}"=""\n'.encode())
    return f"strlen(v{item.column}) + {user} > {room}"


def longest_user(plan: Plan) -> int:
    """In bytes."""
    return ids.UUID_DIGITS if plan.by_uuid else ids.MAX_CUSTOMER_ID_BYTES


def long_records(plan: Plan) -> str:
    """Records that may need more lines than a user may have, with their items as one text."""
    size = " + ".join(f"strlen(v{index})" for index in range(len(plan.columns)))
    text = text_of(plan, SEPARATOR)
    return f"SELECT seq, id, {text} AS text FROM records WHERE {size or '0'} > {_LONG_BYTES}"


def _unsendable(item: SignalItem) -> str:
    return f"regexp_matches(v{item.column}, {literal(lines.UNSENDABLE)})"


_IS_ENTRY = f"regexp_full_match(entry, {literal(lines.TRAIT_ENTRY)})"


def _entries(item: TraitsItem) -> str:
    """The column's list, as it stands, without the blanks around its entries."""
    split = f"string_split(replace(replace(v{item.column}, '|', ','), ';', ','), ',')"
    return f"list_transform({split}, lambda entry: trim(entry, ' '))"


def _are_numbers(plan: Plan, item: TraitsItem) -> str:
    """Whether a column that is not empty holds nothing but numbers, whose items are quicker made."""
    if plan.spares_records:
        return f"regexp_matches(v{item.column}, {literal(lines.TRAIT_LIST)})"
    return f"NOT (contains(v{item.column}, '=') OR contains(v{item.column}, ':'))"


def _mixed_items(plan: Plan, item: TraitsItem) -> str:
    """The list of items of a column that holds not only numbers."""
    wanted = [_IS_ENTRY] * plan.spares_records + ["NOT contains(entry, ':')"] * (not item.removes)
    entries = _entries(item)
    if wanted:
        entries = f"list_filter({entries}, lambda entry: {' AND '.join(wanted)})"
    return (
        f"list_transform({entries}, lambda entry: CASE WHEN entry[1] = 'i' THEN entry WHEN contains(entry, ':')"
        " THEN concat('d_unsid=', split_part(entry, ':', 1)) ELSE concat('d_sid=', entry) END)"
    )


def _trait_ids(column: str) -> str:
    """A checked list of trait IDs with commas as its only separators."""
    return f"replace(replace(replace({column}, ' ', ''), '|', ','), ';', ',')"


def _constants(plan: Plan) -> list[str]:
    return [f'"{key}"="{value}"' for key, value in plan.constants]


def _adding(trait: int | str) -> str:
    return f"d_sid={trait}" if isinstance(trait, int) else f"ic={trait}"


def _passes(column: str, test: Test) -> str:
    match test:
        case OneOf(values):
            return f"{column} IN ({', '.join(map(literal, values))})"
        case Within(least, most):
            return _within(column, least, most)
        case Matching(pattern):
            return f"regexp_full_match({column}, {literal(pattern)})"
        case Present(wanted):
            return f"{'' if wanted else 'NOT '}regexp_matches({column}, '[^ \\t-\\r]')"


def _within(column: str, least: Decimal | None, most: Decimal | None) -> str:
    """Numbers are compared as texts of digits, of any length: no type that holds them all is exact.

    Of two without zeros around them, the one with more digits before the point is larger, else the one whose digits
    come later, first those before the point, then those behind.
    """
    whole = f"ltrim(regexp_extract({column}, '^[+-]?([0-9]*)', 1), '0')"
    part = f"rtrim(regexp_extract({column}, '[.]([0-9]*)$', 1), '0')"
    size = f"(strlen({whole}), {whole}, {part})"
    negative = f"({column}[1] = '-' AND ({whole} <> '' OR {part} <> ''))"
    tests = [f"regexp_full_match({column}, '[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)')"]
    if least is not None:
        other = _size(least)
        tests.append(f"(NOT {negative} OR {size} <= {other})" if least < 0 else f"NOT {negative} AND {size} >= {other}")
    if most is not None:
        other = _size(most)
        tests.append(f"{negative} AND {size} >= {other}" if most < 0 else f"({negative} OR {size} <= {other})")
    return f"({' AND '.join(tests)})"


def _size(number: Decimal) -> str:
    """The texts that a number is compared by, without its sign."""
    whole, _, part = f"{number.copy_abs():f}".partition(".")
    whole = whole.lstrip("0")
    return f"({len(whole)}, '{whole}', '{part.rstrip('0')}')"


def _item(plan: Plan, item: Item, mark: str, *, lead: bool = True) -> str:
    """`mark` goes before each item, before the first only with `lead`; NULL where there is nothing to say. The parts
    are handed to one concat(): each `||` would copy all before it.
    """
    first = mark if lead else ""
    match item:
        case SignalItem(index, key):
            before = literal(f'{first}"{key}"="')
            return f"CASE WHEN {_says(plan, item)} THEN concat({before}, v{index}, '\"') END"
        case TraitsItem(index):
            column = f"v{index}"
            one = f"concat('{first}d_sid=', {column})"
            if plan.clean:
                return f"CASE WHEN {column} <> '' THEN {one} END"
            is_one = f"regexp_full_match({column}, '[0-9]{{1,{MAX_TRAIT_DIGITS}}}')"
            several = f"concat('{first}d_sid=', replace({_trait_ids(column)}, ',', '{mark}d_sid='))"
            mixed = f"'{first}' || nullif(array_to_string({_mixed_items(plan, item)}, '{mark}'), '')"
            return (
                f"CASE WHEN {column} = '' THEN NULL WHEN {is_one} THEN {one}"
                f" WHEN {_are_numbers(plan, item)} THEN {several} ELSE {mixed} END"
            )
        case RuleItem(index, test, trait, removes):
            otherwise = f" ELSE '{first}d_unsid={trait}'" if removes else ""
            return f"CASE WHEN {_passes(f'v{index}', test)} THEN {_once(plan, item, first)}{otherwise} END"
        case TraitItem():
            return _once(plan, item, first)


def _is_plain(item: Item, plan: Plan) -> TypeGuard[SignalItem]:
    """Whether what the item says is its column as it stands, in quotes: parts that need no text of their own."""
    return isinstance(item, SignalItem) and (plan.clean or not plan.spares_records)


def _quoted(plan: Plan, item: SignalItem, before: str) -> list[str]:
    """What a plain item comes to, part by part; `before` is SQL for all up to the first quote."""
    said = _says(plan, item)
    return [f"CASE WHEN {said} THEN {before} END", f"v{item.column}", f"CASE WHEN {said} THEN '\"' END"]


def _says(plan: Plan, item: SignalItem) -> str:
    """Whether a signal is sent."""
    spared = plan.spares_records and not plan.clean
    sendable = f" AND NOT {_unsendable(item)} AND NOT {_too_long(plan, item)}" if spared else ""
    return f"v{item.column} <> ''{sendable}"


def _once(plan: Plan, item: RuleItem | TraitItem, mark: str) -> str:
    """The trait that is added, the mark before it, or NULL if an item before this one has added it; where the last one
    counts, always.
    """
    trait, added, before = item.trait, literal(mark + _adding(item.trait)), []
    for earlier in plan.items[: plan.items.index(item)] if plan.policy != "last" else ():
        match earlier:
            case TraitsItem(index):
                before.append(_names(f"v{index}", trait))
            case RuleItem(index, test, other) if other == trait:
                before.append(_passes(f"v{index}", test))
            case TraitItem(other) if other == trait:
                before.append("true")
    return f"CASE WHEN NOT ({' OR '.join(before)}) THEN {added} END" if before else added


def _names(column: str, trait: int | str) -> str:
    """Whether a list has an entry that adds the trait."""
    entry = str(trait) if isinstance(trait, int) else _adding(trait)
    pattern = literal(f"(^|[,|;]) *{re.escape(entry)} *($|[,|;])")
    return f"(contains({column}, {literal(entry)}) AND regexp_matches({column}, {pattern}))"


def text_of(plan: Plan, mark: str = ",") -> str:
    """All items of a record, each with the mark before it; empty where it has nothing to say."""
    parts = []
    for item in plan.items:
        if _is_plain(item, plan):
            parts += _quoted(plan, item, literal(f'{mark}"{item.key}"="'))
        else:
            parts.append(_item(plan, item, mark))
    constants = literal("".join(mark + text for text in _constants(plan)))
    if plan.constants and plan.speaks_always:
        parts.append(constants)
    said = f"concat({', '.join(parts)})"
    if not plan.constants or plan.speaks_always:
        return said
    if plan.withholds:  # a removal alone brings no constants
        sent = text_of(replace(plan.as_sent(), constants=()), mark)
        return f"concat({said}, CASE WHEN {sent} <> '' THEN {constants} END)"
    return f"coalesce(nullif({said}, '') || {constants}, '')"


def with_line(plan: Plan, rows: str, user: str) -> str:
    """A query's rows, which have `sent`, with their `line`: user, items, newline; NULL where there is nothing to send.

    Which item is the first to say something is found out before, so that all is copied once: to make a text of the
    items, each with a comma, and then take off the first one, takes twice as long. What a signal consists of goes into
    the line as it is; other items have a column of their own, t<i>.
    """
    texts, says, parts = [], [], []
    for at, item in enumerate(plan.items):
        if _is_plain(item, plan):
            said, key = _says(plan, item), f'"{item.key}"="'
            before = f"CASE WHEN first < {at} THEN {literal(f',{key}')} ELSE {literal(key)} END"
            parts += _quoted(plan, item, before)
        else:
            texts.append(f", CASE WHEN sent THEN {_item(plan, item, ',', lead=False)} END AS t{at}")
            said = f"t{at} IS NOT NULL"
            parts += [f"CASE WHEN first < {at} AND {said} THEN ',' END", f"t{at}"]
        says.append(f"WHEN {said} THEN {at}")
    due = "first IS NOT NULL"
    if plan.constants:
        parts += ["CASE WHEN first IS NOT NULL THEN ',' END", literal(",".join(_constants(plan)))]
        due = "true" if plan.speaks_always else due
    line = f"CASE WHEN sent AND {due} THEN concat({', '.join([user, 'chr(9)', *parts, 'chr(10)'])}) END"
    with_texts = f"SELECT *{''.join(texts)} FROM ({rows})"
    return f"SELECT *, {line} AS line FROM (SELECT *, CASE {' '.join(says)} END AS first FROM ({with_texts}))"


def traits_in_force(plan: Plan) -> str:
    """The IDs of traits that a record adds, with commas between them; by integration code none can be taken away."""
    parts = []
    for item in plan.items:
        match item:
            case TraitsItem(index):
                numbers = f"nullif({_trait_ids(f'v{index}')}, '')"
                added = f"list_filter({_mixed_items(plan, item)}, lambda item: starts_with(item, 'd_sid='))"
                mixed = f"nullif(replace(array_to_string({added}, ','), 'd_sid=', ''), '')"
                parts.append(f"CASE WHEN v{index} = '' OR {_are_numbers(plan, item)} THEN {numbers} ELSE {mixed} END")
            case RuleItem(index, test, int(trait), _):
                parts.append(f"CASE WHEN {_passes(f'v{index}', test)} THEN '{trait}' END")
            case TraitItem(int(trait)):
                parts.append(f"'{trait}'")
    return f"concat_ws(',', {', '.join(parts)})" if parts else "''"


def contradicts_itself(plan: Plan) -> str:
    """Whether a record may say things that can't all be sent: errs to the safe side only. "false" where none can."""
    tests = [_may_be_removed_and_added(plan, item) for item in plan.items if getattr(item, "removes", False)]
    if plan.policy != "all":
        tests += _keys_said_twice(plan)
    return " OR ".join(f"({test})" for test in tests if test) or "false"


def _may_be_removed_and_added(plan: Plan, remover: Item) -> str:
    if isinstance(remover, TraitsItem):
        return "" if plan.clean else f"contains(v{remover.column}, ':')"
    if not isinstance(remover, RuleItem):
        return ""
    adders = []
    for item in plan.items:
        match item:
            case TraitsItem(index):
                adders.append(f"contains(v{index}, '{remover.trait}')")
            case RuleItem(index, test, trait) if trait == remover.trait and item != remover:
                adders.append(_passes(f"v{index}", test))
            case TraitItem(trait) if trait == remover.trait:
                adders.append("true")
    return f"NOT {_passes(f'v{remover.column}', remover.test)} AND ({' OR '.join(adders)})" if adders else ""


def _keys_said_twice(plan: Plan) -> list[str]:
    """Of signals with one key, whatever its case, each two at a time."""
    constant = {key.lower() for key, _ in plan.constants}
    found = []
    signals = [item for item in plan.items if isinstance(item, SignalItem)]
    for at, item in enumerate(signals):
        said = f"v{item.column} <> ''"
        if item.key.lower() in constant:
            found.append(said)
        alike = [other for other in signals[:at] if other.key.lower() == item.key.lower()]
        found += [f"{said} AND v{other.column} <> ''" for other in alike]
    return found


# A UUID is two numbers in the join, see `halves`.
OPT_OUT_OF_DEVICE = "concat('uuid:', sha1(unhex(concat(lpad(high::VARCHAR, 19, '0'), lpad(low::VARCHAR, 19, '0')))))"
# lpad takes several times as long as all else, and most halves begin with no zero.
_HALF = "CASE WHEN {0} >= 1000000000000000000 THEN {0}::VARCHAR ELSE lpad({0}::VARCHAR, 19, '0') END"
UUID = f"concat({_HALF.format('high')}, {_HALF.format('low')})"
