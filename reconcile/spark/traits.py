"""Traits of lines that are written in several places, see `reconcile.traits`."""

from collections.abc import Iterable

from reconcile.engine.duckdb import Sink
from reconcile.traits import TraitWatch


class TraitCount(TraitWatch):
    """A TraitWatch that can travel, once closed, and be added to others."""

    def close(self) -> None:
        """Let go of the sink, which stays where it is."""
        self._sink = _Closed()

    @classmethod
    def total(cls, counts: Iterable["TraitCount"], known: frozenset[str]) -> "TraitCount":
        total = cls(_Closed(), known)
        for count in counts:
            total._lines += count._lines
            total._unrealized += count._unrealized
            total._failing += count._failing
            total._unknown += count._unknown
        return total


class _Closed:
    def write(self, text: memoryview, count: int) -> None:
        raise ValueError("closed")


_: type[Sink] = _Closed
