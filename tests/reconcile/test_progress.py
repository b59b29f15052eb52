"""What a person at a terminal sees of a run: how much, how fast, how long still."""

import gzip
import hashlib
import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from reconcile import inputs
from reconcile.engine.duckdb import DuckEngine
from reconcile.feed import Plan
from reconcile.inputs import delimited
from reconcile.progress import Meter, meter
from reconcile.records import Records

PLAN = Plan("id", (), (), by_uuid=True, every_device=False, emit_unmatched=False)
ROWS = 200_000  # so that each file has several batches


def shares(paths: list[Path], tmp_path: Path) -> list[float]:
    """After each batch."""
    with DuckEngine(PLAN, tmp_path, "100MB") as engine:
        records = Records([inputs.fingerprint(path) for path in paths], PLAN, engine.schema)
        assert records.share == 0
        return [*(records.share for _ in records.batches()), records.share]


@pytest.mark.parametrize("name", ["in.csv", "in.csv.gz", "in.jsonl", "in.jsonl.gz"])
def test_records_know_how_much_of_the_files_was_read(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 1 << 18)
    ids = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(ROWS)]  # gzip can't do much with them
    rows = [f'{{"id": "{customer}"}}' for customer in ids] if "jsonl" in name else ["id", *ids]
    text = "\n".join(rows).encode()
    paths = [tmp_path / f"{number}{name}" for number in range(2)]
    for path in paths:
        path.write_bytes(gzip.compress(text, 1) if name.endswith("gz") else text)
    seen = shares(paths, tmp_path)
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert any(0 < share < 0.45 for share in seen)
    assert any(0.55 < share < 0.95 for share in seen)


def test_the_total_follows_from_the_share(tmp_path: Path) -> None:
    progress = Progress(console=Console(file=io.StringIO()))
    step = Meter(progress).step("reading records")
    totals = []
    for count, share in ((100, 0.0), (100, 0.1), (1800, 1.0)):
        step.advance(count, share)
        totals.append(progress.tasks[0].total)
    assert totals == [None, 2000, 2000]
    assert progress.tasks[0].finished


def test_a_terminal_shows_rate_and_time_left_and_a_pipe_nothing() -> None:
    shown = {}
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=160)
        with meter(console) as progress:
            step = progress.step("joining", 1_000_000)
            for _ in range(3):
                step.advance(1000)
        shown[terminal] = console.file.getvalue()  # type: ignore[attr-defined]
    assert "joining" in shown[True]
    assert "3000/1000000" in shown[True]
    assert "left" in shown[True]
    assert shown[False] == ""
