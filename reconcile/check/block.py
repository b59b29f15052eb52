"""A piece of a file as whole lines, with their borders in arrays, so that rules can be asked of all lines at once."""

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from reconcile.lines import MAX_LINE_BYTES

Ints = np.ndarray[tuple[int], np.dtype[np.int64]]
Hashes = np.ndarray[tuple[int], np.dtype[np.uint64]]
Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]

BLOCK_BYTES = 2_000_000

WORD_BYTES = 8

_NEWLINE, _TAB = 10, 9
# A multiplier that is odd, and a shift: each step maps 64 bits to 64 bits one to one, so IDs that differ in one word
# never share a hash.
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)
_KEEP = np.array([(1 << 8 * count) - 1 for count in range(WORD_BYTES + 1)], np.uint64)


class Block:
    """`data` is whole lines, each with its newline. `starts` and `ends` (of the newlines) are positions in it.

    `users` are the ends of the first columns: the first tab of each line, or the line's start where it has none.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._padded = data + bytes(WORD_BYTES)
        self.bytes = np.frombuffer(data, np.uint8)
        self.ends, tabs = self._borders()
        self.starts: Ints = np.concatenate([np.zeros(1, np.int64), self.ends[:-1] + 1])
        self.users = self._first_tabs() if tabs is None else tabs

    def __len__(self) -> int:
        return len(self.ends)

    def line(self, index: int) -> bytes:
        """Without its newline."""
        return self.data[self.starts[index] : self.ends[index]]

    def text(self) -> pa.StringArray:
        """All lines as one text, without a copy. It may not be valid UTF-8."""
        return self._strings(np.array([0, len(self.data)]))

    def texts(self) -> pa.StringArray:
        """The lines, newlines included, without a copy. They may not be valid UTF-8."""
        return self._strings(np.concatenate([self.starts, self.ends[-1:] + 1]))

    def holds(self, text: bytes) -> bool:
        """Whether `text` stands anywhere; where its letters are common, this is much faster than `in`."""
        last = len(self.bytes) - len(text) + 1
        found = np.ones(max(last, 0), np.bool_)
        for at, letter in enumerate(text):
            found &= self.bytes[at : at + len(found)] == letter
        return bool(found.any())

    def words(self, positions: Ints) -> Hashes:
        """The eight bytes from each position on, the first the lowest; zeros follow the end of the data."""
        padded = np.frombuffer(self._padded, np.uint8)
        every = np.lib.stride_tricks.as_strided(
            padded[:WORD_BYTES].view("<u8"), shape=(len(self.data) + 1,), strides=(1,), writeable=False
        )
        return np.asarray(every[positions], np.uint64)

    def hashes(self, starts: Ints, lengths: Ints, seeds: Hashes | None = None) -> Hashes:
        """64 bits of each range of bytes; never 0. Equal bytes and seeds have equal hashes."""
        found = lengths.astype(np.uint64) * _FACTOR
        if seeds is not None:
            found = _mix(found ^ seeds)
        at = int(lengths.min()) // WORD_BYTES * WORD_BYTES if len(lengths) else 0
        for whole in range(0, at, WORD_BYTES):  # words that no range ends in
            found = _mix(found ^ self.words(starts + whole))
        active = np.flatnonzero(lengths > at)
        while len(active):
            words = self.words(starts[active] + at) & kept(lengths[active] - at)
            found[active] = _mix(found[active] ^ words)
            at += WORD_BYTES
            active = active[lengths[active] > at]
        return np.asarray(np.maximum(found, np.uint64(1)))

    def user_hashes(self) -> Hashes:
        """A hash of each line's first column; 0 where there is none, or where the line is too long to be read."""
        lengths = self.users - self.starts
        counted = (lengths > 0) & (self.ends - self.starts < MAX_LINE_BYTES)
        if counted.all():
            return self.hashes(self.starts, lengths)
        return np.where(counted, self.hashes(self.starts, np.where(counted, lengths, 0)), np.uint64(0))

    def line_hashes(self) -> Hashes:
        return self.hashes(self.starts, np.minimum(self.ends - self.starts, MAX_LINE_BYTES))

    def _strings(self, borders: Ints) -> pa.StringArray:
        buffers = [None, pa.py_buffer(borders.astype(np.int32)), pa.py_buffer(self.data)]
        return pa.Array.from_buffers(pa.string(), len(borders) - 1, buffers, null_count=0)

    def _borders(self) -> tuple[Ints, Ints | None]:
        """The newlines; and the tabs, if each line has one."""
        marks = np.flatnonzero((self.bytes == _NEWLINE) | (self.bytes == _TAB))
        are_ends = self.bytes[marks] == _NEWLINE
        if len(marks) % 2 == 0 and are_ends[1::2].all() and not are_ends[::2].any():
            return marks[1::2].copy(), marks[::2].copy()
        return marks[are_ends], None

    def _first_tabs(self) -> Ints:
        tabs = np.flatnonzero(self.bytes == _TAB)
        first = np.searchsorted(tabs, self.starts)
        found = np.concatenate([tabs, [len(self.data)]])[first]
        return np.where(found < self.ends, found, self.starts)


def kept(lengths: Ints) -> Hashes:
    """The bits of so many bytes of a word, at most all of them."""
    return np.asarray(_KEEP[np.clip(lengths, 0, WORD_BYTES)], np.uint64)


def _mix(values: Hashes) -> Hashes:
    values = values * _FACTOR
    return values ^ (values >> _SHIFT)


class Blocks:
    """The lines of a stream, block by block. `taken` is how many bytes were read for the blocks so far; `terminated`,
    known at the end, is False if the last newline is missing.

    Memory stays bounded whatever the stream holds: of a line that is too long, no more is kept than shows that.
    """

    def __init__(self, stream: BinaryIO, first: bytes = b"", size: int = BLOCK_BYTES) -> None:
        self._stream, self._first, self._size = stream, first, size
        self.taken = 0
        self.terminated = True

    def __iter__(self) -> Iterator[Block]:
        carry, part = b"", self._first or self._stream.read(self._size)
        while part:
            self.taken += len(part)
            cut = part.rfind(b"\n") + 1
            if cut:
                yield Block(carry + part[:cut])
                carry = part[cut:]
            else:
                carry += part
            carry = carry[:MAX_LINE_BYTES] if len(carry) > MAX_LINE_BYTES else carry
            part = self._stream.read(self._size)
        if carry:
            self.terminated = False
            yield Block(carry + b"\n")
