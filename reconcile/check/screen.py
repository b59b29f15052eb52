"""A look at many lines at once that clears nearly all of them, at memory speed.

It only ever errs to the safe side: a line that it clears breaks no rule of `reconcile.check.content` (tests hold the
two together); what it does not clear is looked at by itself there.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from idsync.ids import MAX_CUSTOMER_ID_BYTES, UUID_DIGITS, IdRules
from idsync.settings import MAX_TRAIT_DIGITS
from reconcile.check.block import WORD_BYTES, Block, Ints, Mask, kept
from reconcile.check.content import HASH, Column, Columns
from reconcile.lines import MAX_LINE_BYTES

# Items that are beyond doubt. No unquoted key starts with "d_", so d_sid and d_unsid are followed by a trait's number.
_TRAIT = rf"[1-9][0-9]{{0,{MAX_TRAIT_DIGITS - 1}}}"
_WORD = r"(?:[A-CE-Za-ce-z0-9_.][A-Za-z0-9_.]*|[Dd](?:[A-Za-z0-9.][A-Za-z0-9_.]*)?)"
_QUOTED = r'"[^"\x00-\x1f\x7f]+"'
_ADDING = rf"d_sid={_TRAIT}|(?:ic=)?{_WORD}|(?:-?{_WORD}|{_QUOTED})=(?:[A-Za-z0-9_.:/+-]+|{_QUOTED})"
_REMOVING = rf"d_unsid={_TRAIT}|{_TRAIT}:(?:0|-1)"
_REMOVAL_SIGNS = (b"_uns", b":")  # of d_unsid=24, and of 24:0 and 24:-1; a few bytes are found faster than all

_UUID = rf"[0-9]{{{UUID_DIGITS}}}"
_NOT_ZERO = "0*[1-9][0-9]*"
_ALL_ZERO = b"0" * UUID_DIGITS

_HEX_SIGNS = 64  # of the longest form
_LETTERS = np.uint64(0x4040404040404040)  # a bit that letters have, and digits and hyphens have not

_ASCII = 0x80
_COMMA, _TAB, _NEWLINE, _ZERO, _NINE, _D = (np.uint8(ord(sign)) for sign in ",\t\n09d")


class DataScreen:
    """For lines of inbound files whose user IDs are judged by `rules`."""

    def __init__(self, rules: IdRules, *, overwrite: bool) -> None:
        item = _ADDING if overwrite else f"{_ADDING}|{_REMOVING}"
        self._overwrite = overwrite
        self._line = self._ordinary = None
        self._hexadecimal = rules.shape is not None and rules.shape.hexadecimal
        if rules.ordinary is not None:
            ordinary = rules.ordinary.pattern
            user = rules.shape.pattern.pattern if rules.shape else ordinary
            self._line = rf"(?:{user})\t(?:{item})(?:,(?:{item}))*\n"
            if rules.shape and not self._hexadecimal:
                self._ordinary = rf"(?:{ordinary})\t[^\n]*\n"

    def suspects(self, block: Block) -> Mask:
        """Which lines may break a rule."""
        if self._line is None:
            return np.ones(len(block), np.bool_)
        found = _unlike(block, self._line, self._ordinary) | _not_utf8(block)
        if self._hexadecimal:
            found[_without_letter(block)] = True
        found |= block.ends - block.starts >= MAX_LINE_BYTES
        found |= block.users - block.starts > MAX_CUSTOMER_ID_BYTES
        if not self._overwrite and any(block.holds(sign) for sign in _REMOVAL_SIGNS):
            found[_contradicting(block)] = True
        return found


class IdSyncScreen:
    """For lines of ID-sync files."""

    def __init__(self, columns: Columns) -> None:
        self._shapes = None
        if all(not isinstance(column, IdRules) or column.ordinary is not None for column in columns):
            shaped = any(isinstance(column, IdRules) and column.shape for column in columns)
            self._shapes = _line([_shape(column) for column in columns])
            self._ordinary = _line([_ordinary(column) for column in columns])
            self._always_both = shaped

    def suspects(self, block: Block) -> Mask:
        """Which lines may break a rule."""
        if self._shapes is None:
            return np.ones(len(block), np.bool_)
        both = self._always_both or _ALL_ZERO in block.data
        found = _unlike(block, self._shapes, self._ordinary if both else None) | _not_utf8(block)
        return found | (block.ends - block.starts > MAX_CUSTOMER_ID_BYTES)


def _line(columns: Sequence[str]) -> str:
    return r"\t".join(f"(?:{column})" for column in columns) + r"\n"


def _shape(column: Column) -> str:
    if column == "uuid":
        return _UUID
    if column == "hash":
        return HASH.pattern
    return column.shape.pattern.pattern if column.shape else _ordinary(column)


def _ordinary(column: Column) -> str:
    if column == "uuid":
        return _NOT_ZERO
    if column == "hash":
        return HASH.pattern
    return column.ordinary.pattern if column.ordinary else ""


def _unlike(block: Block, *lines: str | None) -> Mask:
    """The lines that one of these patterns of a line does not match."""
    found = np.zeros(len(block), np.bool_)
    for line in lines:
        # one match over all lines takes half the time of one match a line, which tells the lines apart
        if line is not None and not pc.match_substring_regex(block.text(), f"^(?:{line})*$")[0].as_py():
            matches = pc.match_substring_regex(block.texts(), f"^{line}$").cast(pa.uint8())
            found |= np.frombuffer(matches.buffers()[1], np.uint8)[: len(block)] == 0  # to_numpy() may load pandas
    return found


def _without_letter(block: Block) -> Ints:
    """The lines whose first columns hold no letter, of those made of hex digits and hyphens."""
    lengths, left = block.users - block.starts, np.arange(len(block))
    for at in range(0, _HEX_SIGNS, WORD_BYTES):
        words = block.words(np.minimum(block.starts[left] + at, block.users[left])) & kept(lengths[left] - at)
        left = left[words & _LETTERS == 0]
    return left


def _not_utf8(block: Block) -> Mask:
    """Every line with a sign beyond ASCII, if the block is not valid UTF-8. RE2 is not strict about it."""
    found = np.zeros(len(block), np.bool_)
    if block.bytes.max() >= _ASCII:
        try:
            block.data.decode()
        except UnicodeDecodeError:
            found[np.searchsorted(block.ends, np.flatnonzero(block.bytes >= _ASCII))] = True
    return found


def _word(text: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(text, "little"))


def _contradicting(block: Block) -> Ints:
    """Lines that may add and remove one trait. Commas within quotes are taken for the borders of items, too."""
    signs = block.bytes
    borders = np.flatnonzero((signs == _COMMA) | (signs == _TAB) | (signs == _NEWLINE))
    opening, firsts = signs[borders[:-1]], signs[borders[:-1] + 1]
    numbers = firsts - _ZERO <= _NINE - _ZERO  # bare traits, removed ones, and the like
    told = np.flatnonzero((opening != _NEWLINE) & (numbers | (firsts == _D)))
    heads = block.words(borders[told] + 1)
    adds = heads & np.uint64((1 << 8 * len("d_sid=")) - 1) == _word(b"d_sid=")
    removes = heads == _word(b"d_unsid=")
    traits = adds | removes | numbers[told]
    told, adds, removes = told[traits], adds[traits], removes[traits]
    starts, ends = borders[told] + 1, borders[told + 1]
    tails = block.words(np.maximum(ends - 3, 0))  # the last three bytes, and what follows
    ends_in_1 = tails & np.uint64(0xFFFFFF) == _word(b":-1")
    ends_in_0 = tails >> np.uint64(8) & np.uint64(0xFFFF) == _word(b":0")
    before = adds * len("d_sid=") + removes * len("d_unsid=")
    after = ends_in_1 * len(":-1") + ends_in_0 * len(":0")
    lengths = np.clip(ends - starts - before - after, 0, MAX_TRAIT_DIGITS + 1)
    lines = np.cumsum(opening == _NEWLINE)[told]
    # what sets lines apart is in the seed, what sets removals apart in the lowest bit: one look at neighbours tells
    one = np.uint64(1)
    traits = block.hashes(starts + before, lengths, lines.astype(np.uint64) + one) & ~one
    tagged = np.sort(traits | (removes | ends_in_0 | ends_in_1).astype(np.uint64))
    both = tagged[1:][tagged[1:] == tagged[:-1] + one] & ~one
    return lines[np.isin(traits, both)] if len(both) else np.empty(0, np.int64)
