"""The queries of the join: pure text, run by `engine.duckdb` and `engine.changes`; `sql` makes what a record says.

Users are told apart by `user_columns`; what was sent is known by `sent_key`.
"""

from typing import NamedTuple

from reconcile.conflicts import ADD, REMOVE, SEPARATOR
from reconcile.engine import sql
from reconcile.feed import Plan, SignalItem

# Of a text of so many bytes items that are there twice are told in the engine, in the square of its length.
_SHORT_BYTES = 2048


def user_columns(plan: Plan) -> str:
    return "high, low" if plan.by_uuid else "other_id" if plan.other else "customer_id"


def user_id(plan: Plan) -> str:
    """The ID in the file, made of `user_columns`."""
    return sql.UUID if plan.by_uuid else user_columns(plan)


def sent_key(plan: Plan) -> str:
    """A customer and a user whom its records are meant for; a UUID is 0 where customers are the users."""
    return "customer_id, other_id" if plan.other else "customer_id, high, low"


def device(plan: Plan) -> str:
    """What `sent_key` tells a customer's users apart by."""
    return sent_key(plan).partition(", ")[2]


def reached(plan: Plan, tables: str = "mappings JOIN others USING (high, low)") -> str:
    """Customers with the IDs of the other data source that their devices have."""
    pairs = f"customer_id, other_id FROM {tables}"
    if not plan.every_device:
        return f"SELECT {pairs}"
    latest = "row_number() OVER (PARTITION BY customer_id ORDER BY other_id) = 1 AS latest"
    return f"SELECT *, {latest} FROM (SELECT DISTINCT {pairs})"


def joined(plan: Plan, records: str, *, shared: bool) -> str:
    """Records with what their matches say: the columns of the user, if they are `meant` for one, `matched`, `counted`,
    `repeated`.

    A record has one row for each user that it is sent for; exactly one of them is `counted`. `repeated` marks users to
    whom several customers may lead, if any are `shared` so, and records that may contradict themselves.
    """
    customer = "r.id AS customer_id" if plan.emit_unmatched else "m.customer_id"
    columns = "m.high, m.low" if plan.by_uuid else "m.other_id" if plan.other else customer
    repeated = sql.contradicts_itself(plan)
    tables = f"({records}) r LEFT JOIN mappings m ON r.id = m.customer_id"
    if shared:
        repeated += " OR repeated_users.h IS NOT NULL"
        tables += f" LEFT JOIN repeated_users ON repeated_users.h = hash({_of_mapping(plan)})"
    return f"SELECT r.*, {columns}, {_fate(plan)}, {repeated} AS repeated FROM {tables}"


def _of_mapping(plan: Plan) -> str:
    return ", ".join(f"m.{column}" for column in user_columns(plan).split(", "))


def _fate(plan: Plan) -> str:
    meant = "true" if plan.emit_unmatched else "m.customer_id IS NOT NULL"
    counted = "coalesce(m.latest, true)" if plan.every_device else "true"
    return f"m.customer_id IS NOT NULL AS matched, {meant} AS meant, {counted} AS counted"


class Repeats(NamedTuple):
    """Whether there are any customers, and any users, who may stand on several records."""

    ids: bool
    users: bool


def _lone(repeats: Repeats) -> str:
    """The records of customers of whom there is no other."""
    return "FROM records" + " ANTI JOIN repeated_ids ON h = hash(id)" * repeats.ids


def lines_of(plan: Plan, repeats: Repeats) -> str:
    """One row a joined row of a lone record: seq, matched, counted, `repeated`, `sent` if a line is due now, and the
    line: NULL without items.
    """
    rows = f"SELECT *, meant AND NOT repeated AS sent FROM ({joined(plan, _lone(repeats), shared=repeats.users)})"
    lines = sql.with_line(plan.as_sent(), rows, user_id(plan))
    return f"SELECT seq, matched, counted, repeated AND meant AS repeated, sent, line FROM ({lines})"


def rows_of_several(plan: Plan) -> str:
    """Those of customers of whom there are several records, which are merged: user, seq, matched, meant, counted, and
    items as one text, NULL where the record is meant for nobody.
    """
    records = "FROM records SEMI JOIN repeated_ids ON h = hash(id)"
    return _to_merge(plan, joined(plan, records, shared=False))


def rows_left_out(plan: Plan, repeats: Repeats) -> str:
    """Those left out by `lines_of`, with the columns of `rows_of_several`."""
    rows = joined(plan, _lone(repeats), shared=repeats.users)
    return _to_merge(plan, f"FROM ({rows}) WHERE repeated AND meant")


def _to_merge(plan: Plan, rows: str) -> str:
    text = f"CASE WHEN meant THEN {sql.text_of(plan, SEPARATOR)} END AS text"
    return f"SELECT {user_columns(plan)}, seq, matched, meant, counted, {text} FROM ({rows})"


def only_removes() -> str:
    """Whether a text of items has nothing but removals."""
    return f"regexp_replace(text, '{SEPARATOR}{REMOVE}[0-9]+', '', 'g') = ''"


def merged_lines(plan: Plan) -> str:
    """The rows of `users` (see `engine.users`), each with its line, or, where that takes `conflicts`, with its items as
    one `text`; `dropped`: how many items the line lacks for others that contradict them.
    """
    items = f"string_split(text, '{SEPARATOR}')[2:] AS items"  # in a column: within a lambda it is split for each item
    if plan.policy == "all":
        settled, dropped = "list_filter(items, lambda item, place: list_position(items, item) = place)", "0"
        subjects = meanings = "NULL"
    else:
        subjects, meanings = f"list_transform(items, lambda item: {_SUBJECT})", _MEANINGS
        last = "len(items) + 1 - list_position(backwards, subjects[place])"
        chosen = "place" if plan.policy == "first" else last
        settled = f"list_transform({_firsts('subjects')}, lambda place: items[{chosen}])"
        dropped = f"len({_firsts('meanings')}) - len(settled)"
    return (
        "SELECT user_id, seqs, CASE WHEN open THEN text END AS text,"
        f" CASE WHEN open THEN 0 ELSE {dropped} END::BIGINT AS dropped,"
        " CASE WHEN NOT open THEN concat(user_id, chr(9), array_to_string(settled, ','), chr(10)) END AS line"
        f" FROM (SELECT *, CASE WHEN NOT open THEN {settled} END AS settled"
        " FROM (SELECT *, list_reverse(subjects) AS backwards"  # in a column: within a lambda it is made for each item
        f" FROM (SELECT *, CASE WHEN NOT open THEN {subjects} END AS subjects,"
        f" CASE WHEN NOT open THEN {meanings} END AS meanings"
        f" FROM (SELECT *, {user_id(plan)} AS user_id, {_open(plan)} AS open, {items} FROM users)))) ORDER BY seqs[1]"
    )


# As in `conflicts`, but that keys are compared with their case, and traits with their zeros. An item is told by the
# number of its first character, which is quicker than by the character; split_part would make a list of each item.
_SUBJECT = (
    """CASE ascii(item) WHEN ascii('"') THEN left(item, instr(item, '"='))"""
    " WHEN ascii('d') THEN substr(item, instr(item, '=') + 1) ELSE item END"
)
_MEANINGS = (
    f"CASE WHEN contains(text, '{SEPARATOR}ic=')"
    " THEN list_transform(items, lambda item: CASE WHEN ascii(item) = ascii('i') THEN item ELSE lower(item) END)"
    f" ELSE string_split(lower(text), '{SEPARATOR}')[2:] END"
)


def _firsts(texts: str) -> str:
    """The places of a list at which something stands for the first time."""
    return f"list_filter(range(1, len({texts}) + 1), lambda place: list_position({texts}, {texts}[place]) = place)"


def _open(plan: Plan) -> str:
    """Whether a text may need `conflicts`, or is long."""
    if plan.withholds:
        return "true"
    tests = [f"strlen(text) > {_SHORT_BYTES}"]
    keys = {item.key for item in plan.items if isinstance(item, SignalItem)} | {key for key, _ in plan.constants}
    if plan.policy != "all":
        if len({key.lower() for key in keys}) < len(keys):
            return "true"
        tests += [f"contains(text, '{SEPARATOR}{mark}0')" for mark in (ADD, REMOVE)]
    elif any(getattr(item, "removes", False) for item in plan.items):
        tests.append(f"contains(text, '{SEPARATOR}{REMOVE}') AND contains(text, '{SEPARATOR}{ADD}')")
    return " OR ".join(tests)


# --- changes only ----------------------------------------------------------------------------------------------------


def said(plan: Plan, *, repeats: bool) -> str:
    """Every record with what it says to whom, for `engine.changes`: one row for each user that it is meant for.

    `meant` for somebody; `single` if no other record may be of the same customer, and it does not contradict itself;
    `open` unless it is meant for nobody, a later file has a record of the same customer, or it is single and there is
    a `place`, that of the row of what was sent that has its `mark`, too. Of open records also the user, and, if they
    are single, customer, mark, text and traits.
    """
    tables = "records r LEFT JOIN mappings m ON r.id = m.customer_id"
    if repeats:
        tables += " LEFT JOIN repeated_ids ON repeated_ids.h = hash(r.id)"
    user = "m.high, m.low" if plan.by_uuid else "m.other_id" if plan.other else "0::UBIGINT AS high, 0::UBIGINT AS low"
    single = f"NOT ({sql.contradicts_itself(plan)})" + " AND repeated_ids.h IS NULL" * repeats
    rows = f"SELECT r.*, {user}, {_fate(plan)}, {single} AS single FROM {tables}"
    due = f"SELECT *, meant AND seq NOT IN (FROM outdated) AS due FROM ({rows})"
    marked = (
        f"SELECT *, CASE WHEN text <> '' THEN hash(id, {device(plan)}, text) END AS mark"
        f" FROM (SELECT *, CASE WHEN due AND single THEN {sql.text_of(plan)} ELSE '' END AS text FROM ({due}))"
    )
    opened = f"SELECT *, due AND (NOT single OR place IS NULL) AS open FROM ({placed(f'({marked})')})"
    of_open = [(name, name) for name in device(plan).split(", ")]
    of_single = [("customer_id", "id"), ("mark", "mark"), ("text", "text"), ("traits", sql.traits_in_force(plan))]
    kept = [f"CASE WHEN open THEN {value} END AS {name}" for name, value in of_open]
    kept += [f"CASE WHEN open AND single THEN {value} END AS {name}" for name, value in of_single]
    return f"SELECT seq, matched, counted, meant, single, open, place, {', '.join(kept)} FROM ({opened})"


# of two with one mark any is good: see `engine.changes`
_PLACE = "(SELECT place FROM sent WHERE sent.mark = m.mark) AS place"


def several(plan: Plan) -> str:
    """The records in `apart`: those that are due, but not single."""
    key = sent_key(plan).replace("customer_id", "r.id AS customer_id", 1)
    return (
        f"SELECT {key}, s.seq, {sql.text_of(plan)} AS text"
        f" FROM (SELECT seq, {device(plan)} FROM apart) s JOIN records r USING (seq)"
    )


def marks_of_users(plan: Plan) -> str:
    """Of customers and users in `users` (see `engine.users`): their marks."""
    key = sent_key(plan)
    return f"SELECT {key}, CASE WHEN text <> '' THEN hash({key}, text) END AS mark FROM users"


def placed(marks: str) -> str:
    """The rows of a table of marks, each with the place of the row of what was sent that has it, too."""
    return f"SELECT *, {_PLACE} FROM {marks} m"


def woven(plan: Plan) -> str:
    """Users of whom several rows speak, or one that takes `conflicts` to be compared with what was sent before."""
    key, user = sent_key(plan), user_columns(plan)
    hard = f"mark IS NULL OR contains(text, '{REMOVE}') OR strlen(text) + strlen(before.traits) > {_SHORT_BYTES}"
    return (
        f"SELECT {user} FROM gone UNION SELECT {user} FROM changed WHERE seq IS NULL"
        f" UNION SELECT {user} FROM changed GROUP BY ALL HAVING count(*) > 1"
        f" UNION SELECT {user} FROM near SEMI JOIN changed USING ({user}) ANTI JOIN before USING ({key})"
        f" UNION SELECT {user} FROM changed JOIN before USING ({key}) WHERE {hard}"
    )


def new_lines(plan: Plan) -> str:
    """The lines of changed users who are not woven: what the one record says, and the traits that it no longer does."""
    return (
        f"SELECT concat({user_id(plan)}, chr(9), substr(text, 2), {_LOST}, chr(10)) AS line"
        f" FROM (FROM changed ANTI JOIN woven USING ({user_columns(plan)}))"
        f" LEFT JOIN (SELECT {sent_key(plan)}, traits AS was FROM before) USING ({sent_key(plan)})"
    )


_NUMBERS = "list_transform(string_split(nullif({0}, ''), ','), lambda trait: trait::BIGINT)"
_LOST_NUMBERS = (
    f"list_sort(list_distinct(list_filter({_NUMBERS.format('was')}, lambda trait:"
    f" NOT coalesce(list_contains({_NUMBERS.format('traits')}, trait), false))))"
)
_LOST = (
    f"CASE WHEN was <> traits THEN array_to_string(list_transform({_LOST_NUMBERS},"
    f" lambda trait: concat(',{REMOVE}', trait)), '') END"
)


def rows_of_users(plan: Plan) -> str:
    """All that is known of the users in `woven`: what is said now (kind 0), what was said before by the same customers
    (1), what others said before (2), and what goes (3). Users one after the other."""
    key, user = sent_key(plan), user_columns(plan)
    nothing = "NULL::BIGINT AS seq, NULL::UBIGINT AS mark, NULL::VARCHAR AS text"
    said_now = f"{key}, seq, mark, {sql.text_of(plan, SEPARATOR)} AS text, '' AS traits, false AS told"
    changed = f"SELECT {key}, seq, mark FROM changed"
    rows = (
        f"SELECT 0 AS kind, {said_now} FROM ({changed} SEMI JOIN woven USING ({user})) JOIN records USING (seq)",
        f"SELECT 0, {said_now} FROM (SELECT {key}, several.seq, changed.mark FROM several JOIN changed USING ({key}))"
        " JOIN records USING (seq)",
        f"SELECT 1, {key}, {nothing}, traits, false FROM before SEMI JOIN woven USING ({user})",
        f"SELECT 2, {key}, {nothing}, traits, false FROM near SEMI JOIN woven USING ({user})"
        f" ANTI JOIN changed USING ({key}) ANTI JOIN gone USING ({key})",
        f"SELECT 3, {key}, {nothing}, traits, told FROM gone",
    )
    return f"FROM ({' UNION ALL '.join(rows)}) ORDER BY {user}, kind, seq, customer_id"
