"""What the status page remembers of a day, and what it reads of the job."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from idsync import consent, feedruns, metrics
from idsync.feedruns import Told
from idsync.history import DAY_MINUTES, History, Sample, increases
from idsync.metrics import BOUNDS_SECONDS
from idsync.outcomes import Outcome
from tests.idsync.status_samples import facts, read, run


def test_one_worker_a_minute_writes(tmp_path: Path) -> None:
    one, other = History(tmp_path, 2), History(tmp_path, 2)
    assert one.note(100, lambda: (5.0, 1.0))
    assert not other.note(100, lambda: pytest.fail("was summed up"))
    assert other.note(101, lambda: (7.0, 1.0))
    assert one.read() == other.read() == [Sample(99, (0, 0)), Sample(100, (5, 1)), Sample(101, (7, 1))]


def test_sums_never_go_down(tmp_path: Path) -> None:
    history = History(tmp_path, 2)
    for minute, row in ((11, (5.0, 1.0)), (12, (3.0, 4.0)), (13, (6.0, 4.0))):
        history.note(minute, partial(tuple[float, ...], row))
    assert [sample.sums for sample in history.read()] == [(0, 0), (5, 1), (5, 4), (6, 4)]


def test_the_file_keeps_a_day_and_never_grows(tmp_path: Path) -> None:
    history = History(tmp_path, 1)
    sizes = set()
    for minute in range(1_000, 1_000 + 2 * DAY_MINUTES, 7):
        history.note(minute, partial(tuple[float, ...], [float(minute)]))
        sizes.add((tmp_path / "status.ring").stat().st_size)
    held = history.read()
    assert held[-1].minute - held[0].minute >= DAY_MINUTES
    assert len(held) < DAY_MINUTES // 7 + 10
    assert max(sizes) <= (DAY_MINUTES + 16) * 16
    assert [sample.sums[0] for sample in held] == [sample.minute for sample in held]


def test_a_torn_end_and_a_clock_set_back(tmp_path: Path) -> None:
    history = History(tmp_path, 2)
    history.note(100, lambda: (1.0, 1.0))
    with (tmp_path / "status.ring").open("ab") as ring:
        ring.write(b"\x01" * 13)
    assert [sample.minute for sample in history.read()] == [99, 100]
    history.note(50, lambda: (2.0, 1.0))
    assert history.read() == [Sample(49, (1, 1)), Sample(50, (2, 1))]


def test_no_history_of_an_earlier_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    History(tmp_path, 2).note(100, lambda: (1.0, 1.0))
    (tmp_path / "status-count.json").touch()
    metrics.prepare(tmp_path)
    assert not [*tmp_path.iterdir()]


def test_increases_by_interval() -> None:
    samples = [Sample(9, (0,)), Sample(10, (2,)), Sample(11, (5,)), Sample(14, (9,)), Sample(15, (9,))]
    assert increases(samples, 8, 1, 8) == [None, (2,), (3,), None, None, (4,), (0,), None]
    assert increases(samples, 0, 5, 4) == [None, (2,), (7,), None]
    assert increases([], 0, 5, 2) == [None, None]


def test_the_sums_are_those_of_the_metrics() -> None:
    made = metrics.Metrics([])
    before = metrics.sums().counted
    made.called(Outcome.CONSENT_DENIED, None, 0.003, (), "tcf")
    made.called(Outcome.STORED, None, 100)
    made.store_failed()
    made.spooled(4)
    made.queue(9)
    after = metrics.sums()
    grown = [
        [now - then for now, then in zip(*pair, strict=True)]
        for pair in zip(after.counted[:3], before[:3], strict=True)
    ]
    assert grown[0] == [float(each in {Outcome.CONSENT_DENIED, Outcome.STORED}) for each in Outcome]
    assert grown[1] == [float(word == "tcf") for word in consent.DENIALS]
    assert grown[2] == [*(float(bound >= 0.005) for bound in BOUNDS_SECONDS), 2]
    assert after.counted.store_failures - before.store_failures == 1
    assert after.counted.spooled - before.spooled == 4
    assert after.queue == 9


# --- the reconciler's file -------------------------------------------------------------------------------------------


def entry(**changes: Any) -> dict[str, Any]:
    return {**run(3)._asdict(), **changes}


BROKEN = [3, entry(feed=7), entry(read="x"), entry(read=-1), entry(matched=True)]
OUTSIZE = [entry(planned_at=1e300), entry(planned_at=10**30), entry(feed="x" * 200)]


@pytest.mark.parametrize(
    ("content", "runs", "problem"),
    [
        (json.dumps({"runs": [entry()], "later": 1}), 1, ""),
        (json.dumps({"runs": []}), 0, ""),
        (json.dumps({"runs": [entry(finished_at=None)]}), 1, ""),
        ("", 0, "damaged"),
        ("{", 0, "damaged"),
        ("[1]", 0, "damaged"),
        ("null", 0, "damaged"),
        ('{"runs": 3}', 0, "damaged"),
        ("\xff", 0, "damaged"),
        ("[" * 100_000, 0, "damaged"),
        (json.dumps({"runs": [entry(), *BROKEN]}), 1, "5 of the 6"),
        (json.dumps({"runs": OUTSIZE}), 0, "3 of the 3"),
        (json.dumps({"runs": [entry(planned_at=2**52)]}), 1, ""),
        ('{"runs": [{}], "x": "' + "x" * 5_000_000 + '"}', 0, "larger than"),
    ],
)  # fmt: skip
def test_the_file_of_the_job(tmp_path: Path, content: str, runs: int, problem: str) -> None:
    (tmp_path / feedruns.FILE).write_bytes(content.encode("latin-1"))
    told = feedruns.read(tmp_path)
    assert len(told.runs) == runs
    assert problem in told.problem
    assert bool(told.problem) == bool(problem)
    read(facts(told=told))


def test_without_a_file_nothing_is_wrong(tmp_path: Path) -> None:
    assert feedruns.read(tmp_path) == feedruns.read(tmp_path / "nowhere") == Told()
    (tmp_path / feedruns.FILE).mkdir()
    assert "can't be read" in feedruns.read(tmp_path).problem
