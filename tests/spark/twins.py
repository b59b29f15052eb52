"""The feed tests of one machine, on both engines: where a test runs its world, a copy of it runs on Spark first.

Both then have the same lines, left out records, records on hold and figures, or fail with the same words. The next step
starts from what DuckDB has left, so that either engine goes on where the other has ended.
"""

import importlib
import json
from collections.abc import Iterator
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from gzip import BadGzipFile
from pathlib import Path
from shutil import copytree, rmtree
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import is_hypothesis_test
from pyarrow import parquet

from idsync.errors import IdsyncError
from reconcile.progress import Meter
from reconcile.run import Engine, run
from reconcile.summary import Summary
from tests.reconcile.samples import World

COPY = "-on-spark"
EVERY_CASE = "--every-case"


@dataclass(frozen=True)
class Twins:
    """Where it stands in a module of tests, the tests with these names of another module are collected: `TwinsOf`."""

    module: str
    names: frozenset[str]


class TwinsOf(pytest.Module):
    """Some tests of a module with all of its fixtures, on both engines. Of one with many cases the first, and none with
    cases made by chance, unless all are asked for: they differ in what a feed says, which one function renders on
    either engine.
    """

    def __init__(self, *, of: Twins, **known: Any) -> None:
        super().__init__(**known)
        self._of = of

    def collect(self) -> list[pytest.Item | pytest.Collector]:
        found = list(super().collect())
        if self.config.getoption(EVERY_CASE):
            return found
        first: dict[str, pytest.Item | pytest.Collector] = {}
        for item in found:
            if not is_hypothesis_test(getattr(item, "obj", None)):
                first.setdefault(getattr(item, "originalname", item.name), item)
        return list(first.values())

    def _getobj(self) -> ModuleType:
        whole = vars(importlib.import_module(self._of.module))
        found = ModuleType(self._of.module)
        kept = {name: value for name, value in whole.items() if not name.startswith("test") or name in self._of.names}
        vars(found).update(kept, on_both_engines=on_both_engines)
        return found


@pytest.fixture(autouse=True)
def on_both_engines(request: pytest.FixtureRequest, spark: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    compared: list[World] = []

    def run_twice(world: World, **options: bool) -> Summary:
        compared.append(world)
        return twice(world, **options)

    monkeypatch.setattr("reconcile.spark.join._shares", lambda _: 2)  # even of little
    monkeypatch.setattr(World, "run", run_twice)
    yield
    assert compared or not isinstance(request.node.parent, TwinsOf), "this test runs no feed by World.run"


def twice(world: World, **options: bool) -> Summary:
    """In place of World.run. Where a test plays the death of this process, executors may not come by there: of such a
    step the outcome is not compared, but that of the steps after it is.
    """
    before = {path.name for path in (world.state / "runs").glob("*")}
    twin = copy(world)
    twin.folder = world.folder.with_name(world.folder.name + COPY)
    copytree(world.folder, twin.folder, symlinks=True)
    there = _found(twin, _run(twin, "spark", **options), before)
    rmtree(twin.folder)
    error = _run(world, "duckdb", **options)
    if error is None or isinstance(error, IdsyncError):
        here = _found(world, error, before)
        differing = {name for name in there.keys() | here.keys() if there.get(name) != here.get(name)}
        assert not differing, [(name, there.get(name), here.get(name)) for name in sorted(differing)]
    if error:
        raise error
    return world.last


def _run(world: World, engine: Engine, *, dry_run: bool = False, hold: bool = False) -> Exception | None:
    meter = Meter()
    try:
        world.last = run(
            world.settings, "daily", dry_run=dry_run, hold=hold, meter=meter, now=lambda: world.now, engine=engine
        )
    except Exception as raised:  # noqa: BLE001  it is raised again once both have ended
        return raised
    return None


def _rows(table: Path) -> list[str]:
    """Of one that a test has damaged, what there is."""
    try:
        return sorted(map(str, parquet.read_table(table).to_pylist()))
    except (pa.ArrowException, OSError):
        return [table.read_bytes().hex()]


def _found(world: World, error: Exception | None, before: set[str]) -> dict[str, Any]:
    """What a run has made of the world, without where it lies and how lines are spread over files."""
    found: dict[str, Any] = {} if error else world.last.as_dict()
    for name in ("steps", "files"):
        found.pop(name, None)
    found["error"] = f"{type(error).__name__}: {error}" if error else ""
    with suppress(BadGzipFile):  # of somebody else
        found["lines"] = sorted(world.lines())
    found["left out"] = [tuple(row.values()) for row in world.rejects()]
    for name in ("held", "sent"):
        table = world.state / name / "daily.parquet"
        found[f"rows {name}"] = _rows(table) if table.exists() else None
    found["runs"] = sorted(path.name for path in (world.state / "runs").glob("*") if path.name not in before)
    text = json.dumps(found, default=str).replace(COPY, "")  # a copy also has accounts of earlier runs, made elsewhere
    plain: dict[str, Any] = json.loads(text.replace(_text(world.folder).removesuffix(COPY), ""))
    plain["left out"].sort()
    return plain


def _text(path: Path) -> str:
    return json.dumps(str(path))[1:-1]
