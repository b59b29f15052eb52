"""The ways in which one ID is written differently by two systems. Pure.

A step undoes one difference; a rule is a set of steps, and says that two IDs are the same when the steps make them
equal. RULES are in order, the cheapest explanation first: one step, two steps, all of them.

`loosest` undoes everything at once: whatever any rule calls the same has the same loosest form. So one comparison of
whole columns finds the few pairs that are worth a look.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import NamedTuple
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc

# White space, and what prints as nothing: soft hyphen, zero-width blanks and joiners, marks of writing direction (which
# spreadsheets and phones add when an ID is copied), the byte order mark.
_ASCII_BLANKS = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f "
_INVISIBLE = "\u00ad\u180e" + "".join(
    map(chr, (*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A)))
)
BLANKS = "".join(chr(code) for code in range(0x3001) if chr(code).isspace()) + _INVISIBLE + "\ufeff"
_SIGNS_AROUND = re.compile(r"^[\W_]+|[\W_]+$")
_ENCODED_TWICE = 2
_ROUNDS = 8  # `loosest` is stable after two or three


def fold(text: str) -> str:
    """Without upper and lower case, in whatever way a program changed it: `ß`, `ẞ` and `SS` are the same.

    So is every i, with a dot and without: a program that follows Turkish rules and one that does not turn it
    differently.
    """
    return text.upper().casefold().replace("i\u0307", "i")


def strip_blanks(text: str) -> str:
    """Without blanks and invisible characters at both ends."""
    return text.strip(BLANKS)


def strip_zeros(text: str) -> str:
    """Without the zeros in front; of nothing but zeros one is left."""
    return text.lstrip("0") or text[:1]


def decoded(text: str) -> tuple[str, ...]:
    """The text, and what it is once or twice URL-decoded, with `+` as itself and as a blank.

    What would not be UTF-8 is no encoding.
    """
    found = {text: None}
    latest = [text]
    for _ in range(_ENCODED_TWICE):
        latest = [form for known in latest for form in (_unquoted(known), _unquoted(known.replace("+", " ")))]
        found |= dict.fromkeys(latest)
    return tuple(found)


def readings(text: str) -> frozenset[str]:
    """The text, and all that somebody may read it as: Unicode's special forms, URL encoding, blanks and signs around it
    and leading zeros undone, in whatever way they were put together. More than RULES call the same: to judge what an ID
    tells.
    """
    found = {text}
    for form in (text, text.replace("+", " ")):
        for _ in range(_ROUNDS):
            form = strip_blanks(unquote(_nfkc(form)))  # noqa: PLW2901
            found |= {form, strip_zeros(form), _SIGNS_AROUND.sub("", form)}
    return frozenset(found)


def _unquoted(text: str) -> str:
    if "%" not in text:
        return text
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return text


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _nfkc(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


# In the order in which they are applied, URL decoding before all of them.
_STEPS: dict[str, Callable[[str], str]] = {
    "nfc": _nfc,
    "nfkc": _nfkc,
    "blanks": strip_blanks,
    "case": fold,
    "zeros": strip_zeros,
}
PERCENT = "percent"
SINGLE = ("blanks", "case", "zeros", PERCENT, "nfc", "nfkc")
SEVERAL = "several"


class Rule(NamedTuple):
    """`name` is what reports call it: the steps with `+` between them, or SEVERAL."""

    name: str
    steps: frozenset[str]

    def forms(self, text: str) -> Iterable[str]:
        """What the steps make of the text. Nothing but blanks is no form: all blank IDs would be the same."""
        starts = decoded(text) if PERCENT in self.steps else (text,)
        return {form for form in map(self._plain, starts) if strip_blanks(form)}

    def same(self, one: str, other: str) -> bool:
        """Whether the two differ by nothing but what the steps undo. The same text is none that differs."""
        return one != other and not set(self.forms(one)).isdisjoint(self.forms(other))

    def _plain(self, text: str) -> str:
        for name, step in _STEPS.items():
            if name in self.steps:
                text = step(text)
        return text


RULES = (
    *(Rule(name, frozenset({name})) for name in SINGLE),
    *(Rule("+".join(pair), frozenset(pair)) for pair in combinations(SINGLE, 2) if pair != ("nfc", "nfkc")),
    Rule(SEVERAL, frozenset(SINGLE) - {"nfc"}),
)


def loosest(text: str) -> str:
    """The text with everything undone, to the end; "" of what is nothing but blanks and zeros."""
    for _ in range(_ROUNDS):
        before = text
        text = fold(_unquoted(_nfkc(text).replace("+", " "))).lstrip(BLANKS + "0").rstrip(BLANKS)
        if text == before:
            break
    return text


def loosest_of(column: pa.StringArray) -> pa.StringArray:
    """`loosest` of a column without nulls. Of ASCII without `%`, which is nearly all, without a step of Python each."""
    lower = pc.replace_substring(pc.ascii_lower(column), "+", " ")
    bare = pc.ascii_rtrim(pc.ascii_ltrim(lower, _ASCII_BLANKS + "0"), _ASCII_BLANKS)
    simple = pc.and_(pc.string_is_ascii(column), pc.invert(pc.match_substring(column, "%")))
    if pc.all(simple).as_py() is False:
        odd = pc.invert(simple)
        bare = pc.replace_with_mask(bare, odd, pa.array(map(loosest, column.filter(odd).to_pylist()), pa.string()))
    return bare


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# The same in SQL, of a column `id`: of what is simple in the sense of `loosest_of`. Nearly all begin with a letter or
# another digit than 0, and end in one: they need no trimming, which takes ten times as long as the rest.
IS_SIMPLE_SQL = "(strlen(id) = length(id) AND NOT contains(id, '%'))"
FORM_SQL = (
    "CASE WHEN ascii(id) > ascii('0') AND ascii(right(id, 1)) > ascii('+') AND NOT contains(id, '+') THEN lower(id)"
    f" ELSE rtrim(ltrim(replace(lower(id), '+', ' '), {_literal(_ASCII_BLANKS + '0')}), {_literal(_ASCII_BLANKS)}) END"
)


# --- one ID in its usual spellings -----------------------------------------------------------------------------------

_FEW_LENGTHS = 3


def common_lengths(texts: Iterable[str]) -> tuple[int, ...]:
    """The most frequent lengths of those that begin with a zero: up to these IDs may have been filled up."""
    counts = Counter(len(text) for text in texts if text.startswith("0"))
    return tuple(length for length, _ in counts.most_common(_FEW_LENGTHS))


def spellings(text: str, lengths: Sequence[int] = ()) -> list[str]:
    """How another system is likely to have written the ID, itself first. Proposals: RULES tell which are the same.

    URL-decoded and encoded; in each Unicode form; without blanks; in lower, upper and title case; without zeros in
    front, and with as many as come to one of `lengths`.
    """
    if not strip_blanks(text):
        return []
    found = {text: None}
    for start in (*decoded(text), quote(text, safe=""), text.replace(" ", "+")):
        for form in dict.fromkeys(unicodedata.normalize(name, start) for name in ("NFC", "NFKC", "NFD", "NFKD")):
            bare = strip_blanks(form)
            for plain in (form, bare, strip_zeros(bare), *(bare.rjust(length, "0") for length in lengths if bare)):
                found |= dict.fromkeys((plain, plain.lower(), plain.upper(), plain.title()))
    return [spelling for spelling in found if strip_blanks(spelling)]
