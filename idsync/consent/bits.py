"""The bits of base64url text, field by field. What is not there is never made up: a field cut off is Unreadable.

The decoders at hand read a missing bit as 0 or 1, or a missing field as its default, and so find consent in half a
string.
"""

import re
from base64 import urlsafe_b64decode

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
_BITS_A_CHARACTER = 6
_BITS_A_BYTE = 8
_BITS_A_GROUP = 24
# F(24) is past every ID of 16 bits.
_FIBONACCI = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597, 2584, 4181, 6765, 10946, 17711, 28657)


class Unreadable(ValueError):
    """`args[0]` ends the sentence "it …" and quotes nothing of the text."""


class Bits:
    """A reader of one segment, from its first bit to its last. Every method raises Unreadable."""

    __slots__ = ("_left", "_total", "_value")

    def __init__(self, text: str) -> None:
        if not _BASE64URL.fullmatch(text):
            raise Unreadable("is empty in a place, or has a character outside base64url")
        # Python's decoder wants whole groups of four characters, where GPP ends a string at any.
        missing = -len(text) % 4
        whole = int.from_bytes(urlsafe_b64decode(text + "A" * missing), "big")
        self._value = whole >> _BITS_A_CHARACTER * missing
        self._total = self._left = _BITS_A_CHARACTER * len(text)

    def integer(self, bits: int) -> int:
        """The next `bits`, first the most significant."""
        self._left -= bits
        if self._left < 0:
            raise Unreadable("is cut off")
        return (self._value >> self._left) & ((1 << bits) - 1)

    def flag(self) -> bool:
        return self.integer(1) == 1

    def fibonacci(self) -> int:
        """A number of 1 or more, as the GPP header has them: a bit for each Fibonacci number, then one more 1."""
        number, last = 0, 0
        for term in _FIBONACCI:
            bit = self.integer(1)
            if bit and last:
                return number
            number, last = number + bit * term, bit
        raise Unreadable("has a number past every ID")

    def end(self, *, groups: bool) -> None:
        """Nothing may follow but zeros, and of these no more than fill the last character, or the last byte and then
        the last character; with `groups`, also the last group of four characters, as the TCF's own encoder does.
        """
        read = self._total - self._left
        ends = {_up(read, _BITS_A_CHARACTER), _up(_up(read, _BITS_A_BYTE), _BITS_A_CHARACTER)}
        if groups:
            ends.add(_up(read, _BITS_A_GROUP))
        if self._total not in ends or self.integer(self._left):
            raise Unreadable("goes on after its end")


def _up(bits: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-bits // unit) * unit
