"""SQL for a feed's plan: pure text, run by `engine.duckdb`.

Column i of the plan is called v<i>. Column names of the input never become identifiers; where one is sent as the key of
a signal it is a string literal.
"""

from decimal import Decimal

from idsync import ids
from reconcile import lines
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


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


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
    user = str(ids.UUID_DIGITS) if plan.by_uuid else "strlen(id)"
    room = lines.MAX_LINE_BYTES - len(f'\t"{item.key}"=""\n'.encode())
    return f"strlen(v{item.column}) + {user} > {room}"


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


def items(plan: Plan) -> list[str]:
    """One expression an item: its text, or NULL where the record has nothing to say. Several traits are one text."""
    return [_item(plan, item, "") for item in plan.items]


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


def _item(plan: Plan, item: Item, comma: str) -> str:
    """`comma` goes before the text. The parts are handed to one concat(): each `||` would copy all before it."""
    match item:
        case SignalItem(index, key):
            column = f"v{index}"
            sendable = f" AND NOT {_unsendable(item)} AND NOT {_too_long(plan, item)}" if plan.spares_records else ""
            before = literal(f'{comma}"{key}"="')
            return f"CASE WHEN {column} <> ''{sendable} THEN concat({before}, {column}, '\"') END"
        case TraitsItem(index):
            column = f"v{index}"
            one = f"regexp_full_match({column}, '[0-9]{{1,{lines.MAX_TRAIT_DIGITS}}}')"
            several = f"replace({_trait_ids(column)}, ',', ',d_sid=')"
            mixed = f"nullif(array_to_string({_mixed_items(plan, item)}, ','), '')"
            if comma:
                mixed = f"',' || {mixed}"
            return (
                f"CASE WHEN {column} = '' THEN NULL WHEN {one} THEN concat('{comma}d_sid=', {column})"
                f" WHEN {_are_numbers(plan, item)} THEN concat('{comma}d_sid=', {several})"
                f" ELSE {mixed} END"
            )
        case RuleItem(index, test, trait, removes):
            otherwise = f" ELSE '{comma}d_unsid={trait}'" if removes else ""
            return f"CASE WHEN {_passes(f'v{index}', test)} THEN {literal(comma + _adding(trait))}{otherwise} END"
        case TraitItem(trait):
            return literal(comma + _adding(trait))


def item_list(plan: Plan) -> str:
    """All items of a record as a list of texts, one trait an entry: what merging needs."""
    lists = []
    for item, text in zip(plan.items, items(plan), strict=True):
        if isinstance(item, TraitsItem):
            lists.append(f"coalesce(string_split({text}, ','), [])")
        else:
            lists.append(f"list_filter([{text}], lambda item: item IS NOT NULL)")
    said = f"list_concat({', '.join(lists)})" if len(lists) > 1 else lists[0]
    if not plan.constants:
        return said
    constants = f"[{', '.join(map(literal, _constants(plan)))}]"
    along = f"list_concat({said}, {constants})"
    return along if plan.speaks_always else f"CASE WHEN len({said}) > 0 THEN {along} ELSE [] END"


# A UUID is kept in the join as its two halves of 19 digits, each of which fits 64 bits: 16 bytes in place of 58, which
# saves a third of the join's memory. Nothing is ever compared or counted with them; the zeros in front come back here.
UUID_HALVES = "uuid[:19]::UBIGINT AS high, uuid[20:]::UBIGINT AS low"
OPT_OUT_OF_DEVICE = "concat('uuid:', sha1(unhex(concat(lpad(high::VARCHAR, 19, '0'), lpad(low::VARCHAR, 19, '0')))))"
UUID = "lpad(m.high::VARCHAR, 19, '0') || lpad(m.low::VARCHAR, 19, '0')"


def joined(plan: Plan, *, repeats: bool) -> str:
    """Every record with what its match says: `user_id` to send it for (NULL: nobody), `matched`, `counted`, `repeated`.

    A record has one row for each device that it is sent for; exactly one of them is `counted`. `repeated` marks users
    that may stand on several records, which are merged apart.
    """
    user = UUID if plan.by_uuid else "r.id" if plan.emit_unmatched else "m.customer_id"
    counted = "coalesce(m.latest, true)" if plan.every_device else "true"
    repeated = "r_repeated.h IS NOT NULL OR m_repeated.h IS NOT NULL" if repeats else "false"
    tables = "records r LEFT JOIN mappings m ON r.id = m.customer_id"
    if repeats:
        tables += " LEFT JOIN repeated_ids r_repeated ON r_repeated.h = hash(r.id)"
        tables += " LEFT JOIN repeated_uuids m_repeated ON m_repeated.h = hash(m.high, m.low)"
    return (
        f"SELECT r.*, {user} AS user_id, m.customer_id IS NOT NULL AS matched, {counted} AS counted,"
        f" {repeated} AS repeated FROM {tables}"
    )


def said(plan: Plan, *, repeats: bool) -> str:
    """Every record with what it says to whom, for `engine.changes`: one row for each device that it is meant for.

    `meant` for somebody, `due` unless a later file has a record of the same customer, `single` if no other record may
    be of the same customer. Of a single record: its `mark`, whether that is `known`, and, if not, customer, text and
    traits.
    """
    tables = "records r LEFT JOIN mappings m ON r.id = m.customer_id"
    if repeats:
        tables += " LEFT JOIN repeated_ids ON repeated_ids.h = hash(r.id)"
    halves = "m.high, m.low" if plan.by_uuid else "0::UBIGINT AS high, 0::UBIGINT AS low"
    counted = "coalesce(m.latest, true)" if plan.every_device else "true"
    meant = "true" if plan.emit_unmatched else "m.customer_id IS NOT NULL"
    joined = (
        f"SELECT r.*, {halves}, m.customer_id IS NOT NULL AS matched, {counted} AS counted, {meant} AS meant,"
        f" {meant} AND r.seq NOT IN (FROM outdated) AS due, {'repeated_ids.h IS NULL' if repeats else 'true'} AS single"
        f" FROM {tables}"
    )
    marked = (
        "SELECT *, CASE WHEN text <> '' THEN hash(id, high, low, text) END AS mark"
        f" FROM (SELECT *, CASE WHEN due AND single THEN {text_of(plan)} ELSE '' END AS text FROM ({joined}))"
    )
    new = ", ".join(
        f"CASE WHEN due AND single AND NOT known THEN {value} END AS {name}"
        for name, value in (("customer_id", "id"), ("text", "text"), ("traits", _traits_in_force(plan)))
    )
    return (
        f"SELECT seq, high, low, matched, counted, meant, due, single, known, mark, {new}"
        f" FROM (SELECT *, {_KNOWN} FROM ({marked}))"
    )


_KNOWN = "coalesce(mark IN (SELECT mark FROM sent WHERE mark IS NOT NULL), false) AS known"


def _traits_in_force(plan: Plan) -> str:
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


def several(plan: Plan, parts: int) -> str:
    """The due records of customers who may have more than one; a part number keeps a customer together."""
    return (
        f"SELECT r.id AS customer_id, s.high, s.low, s.seq, {text_of(plan)} AS text, hash(r.id) % {parts} AS part"
        " FROM (SELECT seq, high, low FROM said WHERE due AND NOT single) s JOIN records r USING (seq)"
    )


SEVERAL_MARKS = f"""
    SELECT *, {_KNOWN} FROM (
        SELECT customer_id, high, low, CASE WHEN text <> '' THEN hash(customer_id, high, low, text) END AS mark
        FROM (SELECT customer_id, high, low, string_agg(text, '' ORDER BY seq) AS text FROM several WHERE part = ?
              GROUP BY ALL))
"""


def new_lines(plan: Plan, user: str) -> str:
    """The lines of users of whom nothing was sent before, and of whom one record speaks."""
    user_id = UUID.replace("m.", "") if plan.by_uuid else "customer_id"
    return (
        f"SELECT concat({user_id}, chr(9), substr(text, 2), chr(10)) AS line"
        f" FROM changed ANTI JOIN woven USING ({user})"
    )


def rows_of_users(plan: Plan, user: str) -> str:
    """All that is known of the users in `woven`: what is said now (kind 0), what was said before by the same customers
    (1), what others said before (2), and what goes (3). Users one after the other."""
    key = "customer_id, high, low"
    nothing = "NULL::BIGINT AS seq, NULL::UBIGINT AS mark, NULL::VARCHAR[] AS items"
    said_now = f"{key}, seq, mark, {item_list(plan)} AS items, '' AS traits, false AS told"
    rows = (
        f"SELECT 0 AS kind, {said_now} FROM (FROM changed SEMI JOIN woven USING ({user})) JOIN records USING (seq)",
        f"SELECT 0, {said_now} FROM (SELECT {key}, several.seq, changed.mark FROM several JOIN changed USING ({key}))"
        " JOIN records USING (seq)",
        f"SELECT 1, {key}, {nothing}, traits, false FROM before",
        f"SELECT 2, {key}, {nothing}, traits, false FROM sent SEMI JOIN woven USING ({user})"
        f" ANTI JOIN changed USING ({key}) ANTI JOIN gone USING ({key})",
        f"SELECT 3, {key}, {nothing}, traits, told FROM gone",
    )
    return f"FROM ({' UNION ALL '.join(rows)}) ORDER BY {user}, kind, seq, customer_id"


def text_of(plan: Plan) -> str:
    """All items of a record, each with a comma before it; empty where it has nothing to say."""
    texts = [_item(plan, item, ",") for item in plan.items]
    constants = literal("".join(f",{text}" for text in _constants(plan)))
    if plan.constants and plan.speaks_always:
        texts.append(constants)
    said = f"concat({', '.join(texts)})"
    return f"coalesce(nullif({said}, '') || {constants}, '')" if plan.constants and not plan.speaks_always else said


def lines_of(plan: Plan, *, repeats: bool) -> str:
    """One row a joined row: seq, matched, counted, `sent` if a line is due now, and the line: NULL without items."""
    return (
        "SELECT seq, matched, counted, sent,"
        " CASE WHEN text <> '' THEN concat(user_id, chr(9), substr(text, 2), chr(10)) END AS line"
        f" FROM (SELECT *, CASE WHEN sent THEN {text_of(plan)} END AS text"
        f" FROM (SELECT *, user_id IS NOT NULL AND NOT repeated AS sent FROM ({joined(plan, repeats=repeats)})))"
    )


def repeated_records(plan: Plan, parts: int) -> str:
    """The rows left out by `lines_of`: user ID, seq, list of items, and a part number that keeps a user together."""
    return (
        f"SELECT user_id, seq, id, hash(user_id) % {parts} AS part, {item_list(plan)} AS items"
        f" FROM ({joined(plan, repeats=True)}) WHERE repeated AND user_id IS NOT NULL"
    )


MERGED_LINES = """
    WITH said AS (SELECT user_id, seq, unnest(items) AS item, generate_subscripts(items, 1) AS place
                  FROM repeats WHERE part = ?),
         once AS (SELECT user_id, item, min(seq * 1000000 + place) AS place FROM said GROUP BY user_id, item)
    SELECT user_id || chr(9) || string_agg(item, ',' ORDER BY place) || chr(10) AS line
    FROM once GROUP BY user_id ORDER BY min(place)
"""
