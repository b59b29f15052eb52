"""The rules of one line, each asked exactly: what `reconcile.check.screen` does not clear comes here.

Sources: Audience Manager documentation, "Contents of inbound data files" and "Name and content requirements for ID
synchronization files".
"""

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import accumulate
from typing import Literal

from idsync.ids import EXPLANATIONS, IdRules, customer_id_fault, is_uuid
from idsync.settings import MAX_TRAIT_DIGITS
from reconcile import lines
from reconcile.check.findings import Fault
from reconcile.check.naming import NameParts
from reconcile.names import AAM_UUID_DPID

RulesOf = Callable[[int], IdRules]
"""The rules of the data source with this DPID."""

Column = IdRules | Literal["uuid", "hash"]
"""What a column of an ID-sync file holds: IDs by their rules, AAM UUIDs, or SHA-256 hashes of e-mail addresses."""

Columns = Sequence[Column]

HASH = re.compile(r"[0-9a-f]{64}")

_BLANK = "\t "
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TRAIT = re.compile(
    r"-?d_(?P<un>un)?sid=(?P<number>[0-9]+)|(?P<removed>[0-9]+):(?:0|-1)|(?P<plain>[0-9]+)", re.ASCII | re.IGNORECASE
)
_TRAIT_KEYS = {"d_sid", "d_unsid"}
_ESCAPED = re.compile(r"%[0-9A-Fa-f]{2}")


def data_line(line: bytes, rules: IdRules, *, overwrite: bool) -> Iterator[Fault]:
    """What is wrong with a line of an inbound file, given without its newline."""
    text = yield from _text(line)
    if text is None:
        return
    user, tab, rest = text.partition("\t")
    if not tab:
        yield Fault(1, "no-tab", "no tab ends the user ID")
        return
    yield from id_faults(user, 1, rules)
    column = len(user) + 2
    items = rest.rstrip(_BLANK)
    if not items:
        yield Fault(column, "no-items", "nothing stands after the user ID")
        return
    if len(items) < len(rest):
        yield Fault(column + len(items), "line-end", "the line ends in a tab or a space")
    if "\t" in items:
        yield Fault(column + items.index("\t"), "second-tab", "a second tab")
        return
    yield from _item_faults(items, column, overwrite=overwrite)


def id_sync_columns(parts: NameParts, rules_of: RulesOf) -> Columns:
    """What the columns of an ID-sync file hold, by the DPIDs in its name."""
    if parts.kind == "c2c_id":
        return [rules_of(parts.dpids[0]), "hash"]
    return ["uuid" if dpid == AAM_UUID_DPID else rules_of(dpid) for dpid in parts.dpids]


def id_sync_line(line: bytes, columns: Columns) -> Iterator[Fault]:
    """What is wrong with a line of an ID-sync file, given without its newline."""
    text = yield from _text(line)
    if text is None:
        return
    kept = text.rstrip(_BLANK)
    if len(kept) < len(text):
        yield Fault(len(kept) + 1, "line-end", "the line ends in a tab or a space")
    values = kept.split("\t")
    if len(values) != len(columns):
        place = len("\t".join(values[: len(columns)])) + 1  # where one is missing, or the tab before one too many
        yield Fault(place, "column-count", f"{len(values)} columns; the name asks for {len(columns)}")
        return
    starts = accumulate((len(value) + 1 for value in values), initial=1)
    for value, column, start in zip(values, columns, starts, strict=False):
        if not value:
            yield Fault(start, "empty-column", "an empty column")
        elif column == "uuid":
            yield from _uuid_faults(value, start)
        elif column == "hash":
            if not HASH.fullmatch(value):
                case = ", but in upper case" if HASH.fullmatch(value.lower()) else ""
                yield Fault(start, "hash-shape", f"not a SHA-256 hash of 64 lower-case hex digits{case}")
        else:
            yield from id_faults(value, start, column)


def id_faults(text: str, column: int, rules: IdRules) -> Iterator[Fault]:
    """What is wrong with an ID."""
    if reason := customer_id_fault(text, rules):
        yield Fault(column, reason, EXPLANATIONS[reason])
        return
    if text != text.strip(" "):
        yield Fault(column, "id-blank", "a blank before or after the ID")
    if escaped := _ESCAPED.search(text):
        yield Fault(column + escaped.start(), "id-percent-encoded", "the ID looks percent-encoded")


def _uuid_faults(text: str, column: int) -> Iterator[Fault]:
    if not is_uuid(text):
        told = f"{len(text)} digits" if text.isascii() and text.isdecimal() else "no number"
        yield Fault(column, "uuid-shape", f"{told}; a UUID has 38 digits")
    elif not text.strip("0"):
        yield Fault(column, "id-sentinel", EXPLANATIONS["id-sentinel"])


def _text(line: bytes) -> Generator[Fault, None, str | None]:
    """What any line must be; returns its text, or None where nothing more can be said of it."""
    if len(line) + 1 > lines.MAX_LINE_BYTES:
        yield Fault(1, "line-too-long", f"the line is longer than {lines.MAX_LINE_BYTES:,} bytes")
        return None
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        yield Fault(len(line[: error.start].decode()) + 1, "encoding", "not UTF-8")
        return None
    if text.endswith("\r"):
        text = text[:-1]
        yield Fault(len(text) + 1, "carriage-return", "a carriage return before the newline")
    elif not text:
        yield Fault(1, "empty-line", "an empty line")
    return text or None


def _item_faults(items: str, column: int, *, overwrite: bool) -> Iterator[Fault]:
    try:
        parts = list(lines.split_items(items))
    except ValueError:
        yield Fault(column + items.rindex('"'), "quote", "a quote that is not closed")
        return
    traits = _Traits()
    starts = accumulate((len(part) + 1 for part in parts), initial=column)
    for part, start in zip(parts, starts, strict=False):
        if not part:
            yield Fault(start, "empty-item", "an empty item")
        elif control := _CONTROL.search(part):
            yield Fault(start + control.start(), "control-character", "a control character")
        elif trait := _TRAIT.fullmatch(part):
            yield from traits.take(trait, start, overwrite=overwrite)
        else:
            yield from _other_item_faults(part, start)


class _Traits:
    """The traits that a line adds and removes. A bare number is an integration code, which only N:0 takes back."""

    def __init__(self) -> None:
        self._added: set[int] = set()
        self._removed: set[int] = set()
        self._plain: set[int] = set()
        self._plain_removed: set[int] = set()

    def take(self, trait: re.Match[str], column: int, *, overwrite: bool) -> Iterator[Fault]:
        digits = trait["number"] or trait["removed"] or trait["plain"]
        if trait["plain"] is None and len(digits) > MAX_TRAIT_DIGITS:
            yield Fault(column, "trait-id", f"a trait ID of {len(digits)} digits")
            return
        number = int(digits[: MAX_TRAIT_DIGITS + 1])
        removal = trait["un"] is not None or trait["removed"] is not None
        if removal and overwrite:
            yield Fault(
                column, "removal-in-overwrite", f"the removal of trait {number} is ignored in an overwrite file"
            )
        if trait["plain"]:
            contradicts = number in self._plain_removed
            self._plain.add(number)
        elif removal:
            contradicts = number in self._added or (trait["removed"] is not None and number in self._plain)
            self._removed.add(number)
            if trait["removed"]:
                self._plain_removed.add(number)
        else:
            contradicts = number in self._removed
            self._added.add(number)
        if contradicts and not overwrite:
            yield Fault(column, "add-and-remove", f"trait {number} is added and removed on one line")


def _other_item_faults(part: str, column: int) -> Iterator[Fault]:
    try:
        lines.parse_item(part)
    except ValueError:
        yield Fault(column, "item", "not an item")
        return
    key = part.partition("=")[0].strip(" ").removeprefix("-").lower()
    if key in _TRAIT_KEYS:
        yield Fault(column, "trait-id", f"{key} without a trait's number right after it")
    elif part != part.strip(" "):
        yield Fault(column, "item-blank", "an item starts or ends in a blank, which is taken for a part of it")
