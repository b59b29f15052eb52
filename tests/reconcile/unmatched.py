"""Stores with customers, and the look why records are not among them."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pyarrow as pa
from hypothesis import strategies as st

from idsync.store import open_store
from reconcile.why import Diagnosis, diagnose
from reconcile.why.forms import RULES
from tests.reconcile.samples import NOW, SIGNALS, World, uuid

SECOND_SOURCE = '[[data_sources]]\nname = "web"\ndpid = 777\n[[data_sources]]\nname = "app"\ndpid = 888\n'
NBSP, ZERO_WIDTH, ACUTE = "\u00a0", "\u200b", "\u0301"
BY_NAME = {rule.name: rule for rule in RULES}
ODD = st.text(st.sampled_from(f"aAbB0 1+%25e4É{ACUTE}é{NBSP}{ZERO_WIDTH}ßıİſ２²-"), max_size=8)
NUMBERS = [str(number) for number in range(1000, 1200, 7)]


def world(folder: Path, url: str = "sqlite:///idsync.db") -> World:
    return World(folder, feed=SIGNALS + SECOND_SOURCE, url=url)


def know(there: World, *names: str, dpid: int = 12345, seen: int | None = None) -> None:
    there.sync(*((name, uuid(number)) for number, name in enumerate(names, 1)), dpid=dpid, seen=seen)


def look(
    there: World, records: Sequence[str], *, batch: int = 1000, sample_ids: int | None = 100_000, **more: object
) -> Diagnosis:
    scratch = there.folder / "scratch"
    scratch.mkdir(exist_ok=True)
    chunks = [records[start : start + batch] for start in range(0, len(records), batch)]
    batches = [pa.record_batch({"id": pa.array(chunk, pa.string())}) for chunk in chunks]
    with closing(open_store(there.settings.store)) as store:
        found = diagnose(
            batches,
            store,
            there.settings,
            there.settings.data_sources[0],
            NOW,
            scratch=scratch,
            memory_limit="300MB",
            sample_ids=sample_ids,
            **more,  # type: ignore[arg-type]
        )
    assert list(scratch.iterdir()) == []
    assert sum(finding.records for finding in found.findings) + found.unexplained == found.unmatched == len(records)
    return found


def counted(found: Diagnosis) -> dict[str, int]:
    counts: dict[str, int] = {}
    for finding in found.findings:
        counts[finding.rule] = counts.get(finding.rule, 0) + finding.records
    return counts
