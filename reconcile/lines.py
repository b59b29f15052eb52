"""The grammar of inbound data lines, in both directions, and of the lines of ID-sync files.

    <user ID><TAB><item>,<item>,…\n
    <ID><TAB><ID>[<TAB><ID>…]\n
    <customer ID><TAB><SHA-256 of an e-mail address>\n

Source: Audience Manager documentation, "Inbound data file contents", "Name and content requirements for ID
synchronization files", "People-based destinations: prerequisites and considerations". UTF-8 without BOM. No escape
exists for a quote, so a key or value that holds one, or a control character, can't be sent. A line that ends in a tab
or a space is dropped by Audience Manager, so neither is ever written. Keys and values are not case-sensitive there;
they are kept as given.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from idsync.settings import MAX_TRAIT_DIGITS, TRAIT_CODE

MAX_LINE_BYTES = 102_400  # the newline counts
MAX_LINES_PER_USER = 200
MAX_HASHES_PER_CUSTOMER = 10  # of e-mail addresses, in a c2c_id file

# What a key or value can't hold. Python's `re` and DuckDB's RE2 read this pattern alike.
UNSENDABLE = r'["\x00-\x1f\x7f]'
# A column of trait IDs: "24", "24,26", "24|26", "24;26", blanks around the separators allowed.
TRAIT_LIST = rf"^ *[0-9]{{1,{MAX_TRAIT_DIGITS}}} *([,|;] *[0-9]{{1,{MAX_TRAIT_DIGITS}}} *)*$"
# An entry of such a column: "24" adds a trait, "24:0" and "24:-1" remove it, "ic=code" adds one by integration code.
TRAIT_ENTRY = rf"(?:[0-9]{{1,{MAX_TRAIT_DIGITS}}}(?::0|:-1)?|ic={TRAIT_CODE})"
TRAIT_ENTRIES = rf"^ *{TRAIT_ENTRY} *([,|;] *{TRAIT_ENTRY} *)*$"

MIN_IDS = 2  # of a line of an ID-sync file

_UNSENDABLE = re.compile(UNSENDABLE)
_UNSENDABLE_ID = re.compile(r"[\x00-\x1f\x7f]| $")
_SPECIAL = r'@\s<>()\[\]:;,\\"'  # what an address holds in a quoted local part alone; @ and blanks not even there
_EMAIL = re.compile(rf'(?:[^{_SPECIAL}]+|"(?:[^@\s"\\]|\\[^@\s])+")@[^{_SPECIAL}.]+(?:\.[^{_SPECIAL}.]+)+')
_ITEM = re.compile(
    r"d_sid=(?P<add>[0-9]+)"
    r"|d_unsid=(?P<remove>[0-9]+)"
    r"|(?P<removed>[0-9]+):(?:0|-1)"
    r'|(?:ic=)?(?P<code>[^=",:\t]+)'
    r'|(?:"(?P<quoted_key>[^"]+)"|(?P<key>[^=",\t]+))=(?:"(?P<quoted_value>[^"]+)"|(?P<value>[^=",\t]+))'
)


@dataclass(frozen=True, slots=True)
class Signal:
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Trait:
    """A trait by its ID; `remove` takes it away from the user. Removals are ignored in an overwrite file."""

    trait: int
    remove: bool = False


@dataclass(frozen=True, slots=True)
class TraitCode:
    """A trait by its integration code."""

    code: str


Item = Signal | Trait | TraitCode


@dataclass(frozen=True, slots=True)
class Line:
    user: str
    items: tuple[Item, ...]


def render_item(item: Item) -> str:
    """The text of an item. Raises ValueError for a signal that can't be sent."""
    match item:
        case Trait(trait, remove):
            return f"d_unsid={trait}" if remove else f"d_sid={trait}"
        case TraitCode(code):
            return f"ic={code}"
        case Signal(key, value):
            for text in (key, value):
                if not text or _UNSENDABLE.search(text):
                    raise ValueError("a key or value that is empty or holds a quote or control character can't be sent")
            return f'"{key}"="{value}"'


def render(line: Line) -> str:
    """The line with its newline; may exceed MAX_LINE_BYTES (see `pack`)."""
    return f"{line.user}\t{','.join(render_item(item) for item in line.items)}\n"


def pack(user: str, items: Sequence[str]) -> list[str]:
    """Rendered items of one user as few lines as fit, in order. Raises ValueError where an item alone is too long."""
    overhead = len(user.encode()) + 2  # tab and newline
    packed: list[list[str]] = [[]]
    room = MAX_LINE_BYTES - overhead
    for item in items:
        size = len(item.encode())
        if size + overhead > MAX_LINE_BYTES:
            raise ValueError(f"an item of {size} bytes does not fit a line of {MAX_LINE_BYTES}")
        comma = 1 if packed[-1] else 0
        if size + comma > room:
            packed.append([])
            room, comma = MAX_LINE_BYTES - overhead, 0
        packed[-1].append(item)
        room -= size + comma
    return [f"{user}\t{','.join(part)}\n" for part in packed if part]


def parse(text: str) -> Line:
    """A line (with or without its newline) as user ID and items. Raises ValueError with the rule that it breaks."""
    body = text.removesuffix("\n")
    if len(body.encode()) + 1 > MAX_LINE_BYTES:
        raise ValueError(f"the line is longer than {MAX_LINE_BYTES} bytes")
    if body.endswith(("\t", " ")):
        raise ValueError("the line ends in a tab or a space")
    user, tab, rest = body.partition("\t")
    if not user or not tab or not rest:
        raise ValueError("not <user ID><TAB><items>")
    if "\t" in rest:
        raise ValueError("a second tab")
    return Line(user, tuple(parse_item(item) for item in split_items(rest)))


def split_items(rest: str) -> Iterable[str]:
    """The items of a line's right side: separated by commas that stand outside quotes."""
    start, quoted = 0, False
    for index, character in enumerate(rest):
        if character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            yield rest[start:index]
            start = index + 1
    if quoted:
        raise ValueError("a quote is not closed")
    yield rest[start:]


def parse_item(text: str) -> Item:
    """An item of a line. Raises ValueError for what is none."""
    match = _ITEM.fullmatch(text)
    if match is None or _UNSENDABLE.search(text.replace('"', "")):
        raise ValueError(f"{text[:80]!r} is not an item")
    part = match.groupdict()
    if part["add"] is not None:
        return Trait(int(part["add"]))
    if (removed := part["remove"] or part["removed"]) is not None:
        return Trait(int(removed), remove=True)
    if part["code"] is not None:
        return TraitCode(part["code"])
    key = part["quoted_key"] or part["key"].removeprefix("-")  # a leading "-" of a bare key is ignored
    if not key:
        raise ValueError(f"{text[:80]!r} has no key")
    return Signal(key, part["quoted_value"] or part["value"])


def render_id_sync(ids: Sequence[str]) -> str:
    """A line of an ID-sync file, with its newline: one ID for each DPID of the file's name, all of one device.

    Raises ValueError, which quotes none, for an ID that can't stand there: Audience Manager drops a line that ends in a
    tab or a space, and no ID may be missing.
    """
    if len(ids) < MIN_IDS or any(not id_ or _UNSENDABLE_ID.search(id_) for id_ in ids):
        raise ValueError(
            "a line needs two IDs or more, none empty, with a control character, or with a blank at its end"
        )
    return "\t".join(ids) + "\n"


def email_hash(address: str) -> str:
    """SHA-256 of the address, trimmed and in lower case, as 64 hex digits in lower case; no salt.

    Raises ValueError, which does not quote it, for what is no e-mail address: a hash hides any mistake. An invisible
    character is one, at the ends too: which address was meant is not for us to guess.
    """
    plain = address.strip().lower()
    if not plain.isprintable() or not _EMAIL.fullmatch(plain):
        raise ValueError("not an e-mail address")
    return hashlib.sha256(plain.encode()).hexdigest()


def render_email_hashes(customer_id: str, addresses: Iterable[str]) -> list[str]:
    """The lines of a c2c_id file that tie a customer to e-mail addresses, in their order, each once.

    Raises ValueError, which quotes nothing, for an ID or address that can't be sent, and for more than
    MAX_HASHES_PER_CUSTOMER addresses: Audience Manager would keep any of them, in no order.
    """
    hashes = dict.fromkeys(email_hash(address) for address in addresses)
    if len(hashes) > MAX_HASHES_PER_CUSTOMER:
        raise ValueError(f"more than {MAX_HASHES_PER_CUSTOMER} e-mail addresses of one customer")
    return [render_id_sync((customer_id, hashed)) for hashed in hashes]
