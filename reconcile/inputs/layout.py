"""What a feed says of its files: how they are written, and what their columns are called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from idsync.settings import Feed

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Layout:
    """`columns`: for a column of the feed, the names that it may have in a file, the first that is there counts.

    `asked` are the feed's columns, by which a delimiter is told; without them nothing is looked for: that of the file's
    name is taken.
    """

    delimiter: str = AUTO
    quote: str = '"'
    encoding: str = AUTO
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    asked: tuple[str, ...] = ()

    def find(self, wanted: Sequence[str], names: Sequence[str], *, header: bool = True) -> list[str]:
        """The name in the file of each column that is wanted.

        Raises ValueError. One that comes of a `header` quotes its names only if some are known: else they may be IDs.
        """
        found = [next((name for name in self._names_of(column) if name in names), None) for column in wanted]
        if header and not any(found):
            sought = ", ".join(name for column in wanted for name in self._names_of(column))
            raise ValueError(f"the first line names none of the columns {sought}; is it a header?")
        where = "header" if header else "file"
        for column, name in zip(wanted, found, strict=True):
            if name is None:
                sought = " or ".join(f'"{name}"' for name in self._names_of(column))
                raise ValueError(f"no column {sought}; the {where} has: {', '.join(names)}")
            if names.count(name) > 1:
                raise ValueError(f'the column "{name}" stands in the {where} {names.count(name)} times')
        return [name for name in found if name is not None]

    def hits(self, names: Sequence[str]) -> int:
        """How many of the feed's columns are among these names."""
        return sum(any(name in names for name in self._names_of(column)) for column in self.asked)

    def alternatives(self, wanted: Sequence[str]) -> list[tuple[str, ...]]:
        """For each column the names that it may have."""
        return [self._names_of(column) for column in wanted]

    def _names_of(self, column: str) -> tuple[str, ...]:
        return self.columns.get(column, (column,))


def layout_of(feed: Feed) -> Layout:
    asked = (feed.id_column, *feed.signals, *feed.trait_columns, *(rule.column for rule in feed.rules))
    if feed.email_column:
        asked = (*asked, feed.email_column)
    return Layout(feed.delimiter, feed.quote, feed.encoding, dict(feed.columns), tuple(dict.fromkeys(asked)))
