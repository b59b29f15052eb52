"""Which traits are onboarded, where a feed names a list of them, and which lines would realize none of them.

Audience Manager counts a record whose items lead to no trait as "No Trait Realized", and a trait that is not onboarded
as one that "failed validation". A signal may lead to any trait by its rules, which only Audience Manager knows: so a
line with a signal is never counted.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from idsync.errors import ConfigError
from idsync.settings import TRAIT_CODE
from reconcile.engine.duckdb import Sink

SHOWN = 10
_ENTRY = re.compile(rf"[0-9]{{1,19}}|ic={TRAIT_CODE}")
_SIGNAL = r'"[^"]*"="[^"]*"'


def known_traits(path: Path | None) -> frozenset[str]:
    """The entries of a list, one a line: `24`, or `ic=code`; blank lines and those that begin with `#` say nothing.

    Raises ConfigError for a file that can't be read or holds anything else.
    """
    if path is None:
        return frozenset()
    try:
        told = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ConfigError("feeds.known_traits_file", [f"{path}: {reason}"]) from None
    entries = {number: line.strip() for number, line in enumerate(told, 1) if line.strip() and line.strip()[0] != "#"}
    faults = [
        f"{path}, line {number}: must be a trait ID, such as 24, or ic= and an integration code"
        for number, entry in entries.items()
        if not _ENTRY.fullmatch(entry)
    ]
    if faults or not entries:
        raise ConfigError("feeds.known_traits_file", faults[:SHOWN] or [f"{path}: names no trait"])
    return frozenset(str(int(entry)) if entry.isdigit() else entry for entry in entries.values())


class TraitWatch:
    """A sink that looks at the lines on their way to the next."""

    def __init__(self, sink: Sink, known: frozenset[str]) -> None:
        self._sink, self._known = sink, known
        self._items = pa.array([entry if entry.startswith("ic=") else f"d_sid={entry}" for entry in known], pa.string())
        self._lines = self._unrealized = self._failing = 0
        self._unknown: Counter[str] = Counter()

    def write(self, text: memoryview, count: int) -> None:
        self._look(text)
        self._sink.write(text, count)

    def as_dict(self) -> dict[str, Any]:
        """`unrealized` lines have neither a signal nor a known trait to add; `failing` ones name a trait that is not
        known, `unknown` the most frequent of those with the number of lines.
        """
        most = sorted(self._unknown.items(), key=lambda entry: (-entry[1], entry[0]))[:SHOWN]
        unknown = [{"trait": trait, "lines": lines} for trait, lines in most]
        figures = {"lines": self._lines, "unrealized": self._unrealized, "failing": self._failing}
        return {"known": len(self._known), **figures, "unknown_traits": len(self._unknown), "unknown": unknown}

    def _look(self, text: memoryview) -> None:
        lines = pc.split_pattern(pa.array([bytes(text).removesuffix(b"\n")], pa.large_binary()), "\n").flatten()
        said = pc.replace_substring_regex(lines.cast(pa.large_string()), r"^[^\t]*\t", "")
        signals = pc.match_substring(said, '"')
        if pc.any(signals).as_py():
            said = pc.replace_substring_regex(said, _SIGNAL, "")
        split = pc.split_pattern(said, ",")
        items, rows = split.flatten(), pc.list_parent_indices(split)
        adds = pc.or_(pc.starts_with(items, "d_sid="), pc.starts_with(items, "ic="))
        items, rows = items.filter(adds), rows.filter(adds)
        known = pc.is_in(items, self._items.cast(items.type))
        strange = pc.invert(known)
        self._lines += len(lines)
        self._failing += len(pc.unique(rows.filter(strange)))
        by_number = pa.array(range(len(lines)), rows.type) if len(lines) else rows
        realized = pc.or_(signals, pc.is_in(by_number, pc.unique(rows.filter(known))))
        self._unrealized += len(lines) - pc.sum(realized).as_py() if len(lines) else 0
        for entry in pc.value_counts(items.filter(strange)).to_pylist():
            self._unknown[entry["values"].removeprefix("d_sid=")] += entry["counts"]
