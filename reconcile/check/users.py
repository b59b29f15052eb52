"""Users that stand on too many lines, or in several parts of a split file.

Each line leaves 64 bits on disk, in order, so a set of any size is looked through in bounded memory. Users are told
apart by these bits alone: among ten million, the chance that any two share them is one in 300,000.
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

import numpy as np

from reconcile.check.block import Block, Hashes, Ints, Mask
from reconcile.check.findings import Fault, FileReport
from reconcile.lines import MAX_HASHES_PER_CUSTOMER, MAX_LINES_PER_USER

PIECE_HASHES = 2_000_000  # 16 MB, and a few times that while it is sorted

# Lines are counted in so many slots by bits of their users' hashes: a user with too many lines fills its slot at least.
_SLOT_BITS = 21

_HASH_BYTES = 8


class _Runs(NamedTuple):
    """The places of lines, user by user, each user's in order; where each user's begin, and how many they are."""

    places: Ints
    starts: Ints
    lengths: Ints


class _Found(NamedTuple):
    """Lines at fault, by their places, with the number that the message tells."""

    rule: str
    places: Ints
    numbers: Ints


class Users:
    """The users of a set: of one file, or of the parts of a split one.

    `pairs`: of c2c_id files, where a line is a customer and a hash, and a customer's different hashes are counted.
    """

    def __init__(self, *, pairs: bool = False, piece: int = PIECE_HASHES) -> None:
        self._piece = piece
        self._hashes: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115  closed by __exit__
        self._pairs: BinaryIO | None = tempfile.TemporaryFile() if pairs else None  # noqa: SIM115
        self._count = 0
        self._slots = np.zeros(0 if pairs else 1 << _SLOT_BITS, np.uint32)
        self._reports: list[FileReport] = []
        self._firsts: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hashes.close()
        if self._pairs:
            self._pairs.close()

    def begin(self, report: FileReport) -> None:
        """The lines that follow are of this file."""
        self._reports.append(report)
        self._firsts.append(self._count)

    def add(self, block: Block) -> None:
        hashes = block.user_hashes()
        self._hashes.write(hashes.tobytes())
        if not self._pairs:
            np.add.at(self._slots, (hashes >> np.uint64(64 - _SLOT_BITS)).view(np.int64), np.uint32(1))
        else:
            self._pairs.write(block.line_hashes().tobytes())
        self._count += len(block)

    def settle(self) -> None:
        """Add what is found to the reports of the files."""
        if not self._may_find():
            return
        kept: dict[tuple[int, str], list[tuple[int, int]]] = defaultdict(list)
        counts: dict[tuple[int, str], int] = defaultdict(int)
        pieces = -(-self._count // self._piece)
        for piece in range(pieces):
            for rule, places, numbers in self._look(piece, pieces):
                files = self._files(places)
                for file in np.unique(files):
                    mine = files == file
                    limit = self._reports[file].limit
                    first = np.argsort(places[mine])[:limit]
                    kept[file, rule] += zip(places[mine][first].tolist(), numbers[mine][first].tolist(), strict=True)
                    counts[file, rule] += int(mine.sum())
        for (file, rule), found in sorted(kept.items()):
            report = self._reports[file]
            shown = sorted(found)[: report.limit]
            for place, number in shown:
                report.add(Fault(1, rule, _message(rule, number)), place - self._firsts[file] + 1)
            report.add_unseen(rule, counts[file, rule] - len(shown))

    def _may_find(self) -> bool:
        """False if no user of this one file can have too many lines, so that no hash need be compared."""
        countable = len(self._reports) <= 1 and not self._pairs and self._count <= np.iinfo(np.uint32).max
        return not countable or int(self._slots.max()) > MAX_LINES_PER_USER

    def _look(self, piece: int, pieces: int) -> Iterator[_Found]:
        """What is wrong with the users of one piece: those whose hash lies in this part of all values."""
        hashes = np.concatenate([block[mine] for _, block, mine in self._blocks(piece, pieces)])
        limit = MAX_HASHES_PER_CUSTOMER if self._pairs else MAX_LINES_PER_USER
        in_order = np.sort(hashes)
        several = len(self._reports) > 1 and not self._pairs
        apart = 1 if several else limit
        if not (in_order[apart:] == in_order[:-apart]).any():
            return  # nearly always
        places = np.concatenate([first + np.flatnonzero(mine) for first, _, mine in self._blocks(piece, pieces)])
        runs = _runs(hashes, places)
        many = runs.lengths > limit
        if self._pairs:
            yield self._many_hashes(runs, np.flatnonzero(many))
            return
        yield _Found("lines-of-user", runs.places[runs.starts[many] + limit], runs.lengths[many])
        if several:
            yield self._in_several(runs)

    def _blocks(self, piece: int, pieces: int) -> Iterator[tuple[int, Hashes, Mask]]:
        """The place of its first line, the hashes, and which of them belong to this piece, for block after block."""
        self._hashes.seek(0)
        place, width = 0, -(-(1 << 64) // pieces)
        first, last = max(piece * width, 1), min((piece + 1) * width, 1 << 64) - 1
        while data := self._hashes.read(self._piece * _HASH_BYTES):
            block = np.frombuffer(data, np.uint64)
            yield place, block, (block >= np.uint64(first)) & (block <= np.uint64(last))
            place += len(block)

    def _files(self, places: Ints) -> Ints:
        return np.asarray(np.searchsorted(self._firsts, places, side="right") - 1, np.int64)

    def _in_several(self, runs: _Runs) -> _Found:
        """The first line of a user in each part but the first."""
        files = self._files(runs.places)
        first = np.zeros(len(files), np.bool_)
        first[runs.starts] = True
        entering = np.flatnonzero(~first & (files != np.roll(files, 1)))
        return _Found("user-in-splits", runs.places[entering], np.zeros(len(entering), np.int64))

    def _many_hashes(self, runs: _Runs, many: Ints) -> _Found:
        """The line with the first hash too many of each customer of these runs."""
        places, numbers = [], []
        for start, length in zip(runs.starts[many].tolist(), runs.lengths[many].tolist(), strict=True):
            mine = runs.places[start : start + length]
            _, first = np.unique(self._pair_hashes(mine), return_index=True)
            if len(first) > MAX_HASHES_PER_CUSTOMER:
                places.append(int(mine[np.sort(first)[MAX_HASHES_PER_CUSTOMER]]))
                numbers.append(len(first))
        return _Found("hashes-of-customer", np.array(places, np.int64), np.array(numbers, np.int64))

    def _pair_hashes(self, places: Ints) -> Hashes:
        assert self._pairs is not None  # noqa: S101  for the type checker
        self._pairs.flush()
        every = np.memmap(self._pairs, np.uint64, "r", shape=(self._count,))
        return np.asarray(every[places], np.uint64)


def _runs(hashes: Hashes, places: Ints) -> _Runs:
    order = np.argsort(hashes, kind="stable")
    borders = np.flatnonzero(np.diff(hashes[order])) + 1
    starts = np.concatenate([np.zeros(1, np.int64), borders])
    return _Runs(places[order], starts, np.diff(np.concatenate([starts, [len(order)]])))


def _message(rule: str, number: int) -> str:
    if rule == "lines-of-user":
        return f"line {MAX_LINES_PER_USER + 1} of a user with {number:,} lines"
    if rule == "hashes-of-customer":
        return f"hash {MAX_HASHES_PER_CUSTOMER + 1} of a customer with {number:,} different ones"
    return "a user of an earlier part of this split file"
