"""The feed tests of one machine, on both engines: where a test runs its world, a copy of it runs on Spark first.

Both then have the same lines, left out records, records on hold and figures, or fail with the same words. The next step
starts from what DuckDB has left, so that either engine goes on where the other has ended.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from idsync.errors import IdsyncError
from reconcile.progress import Meter
from reconcile.run import Engine, run
from reconcile.summary import Summary
from tests.reconcile.samples import World

COPY = "-on-spark"


@pytest.fixture(autouse=True)
def on_both_engines(spark: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconcile.spark.join._shares", lambda _: 2)  # even of little
    monkeypatch.setattr(World, "run", twice)


def twice(world: World, *, dry_run: bool = False, hold: bool = False) -> Summary:
    """In place of World.run."""
    before = {path.name for path in (world.state / "runs").glob("*")}
    copy = world.folder.with_name(world.folder.name + COPY)
    shutil.copytree(world.folder, copy, symlinks=True)
    twin = replace(world, folder=copy)
    there = _told(twin, "spark", before, dry_run=dry_run, hold=hold)
    shutil.rmtree(twin.folder)
    error: IdsyncError | None = None
    try:
        world.last = run(world.settings, "daily", dry_run=dry_run, hold=hold, meter=Meter(), now=lambda: world.now)
    except IdsyncError as raised:
        error = raised
    here = _found(world, error, before)
    differing = {name for name in there.keys() | here.keys() if there.get(name) != here.get(name)}
    assert not differing, [(name, there.get(name), here.get(name)) for name in sorted(differing)]
    if error:
        raise error
    return world.last


def _told(world: World, engine: Engine, before: set[str], **options: bool) -> dict[str, Any]:
    error = None
    try:
        world.last = run(world.settings, "daily", meter=Meter(), now=lambda: world.now, engine=engine, **options)
    except IdsyncError as raised:
        error = raised
    return _found(world, error, before)


def _found(world: World, error: IdsyncError | None, before: set[str]) -> dict[str, Any]:
    """What a run has made of the world, without where it lies and how lines are spread over files."""
    found: dict[str, Any] = {} if error else world.last.as_dict()
    for name in ("steps", "files"):
        found.pop(name, None)
    found["error"] = f"{type(error).__name__}: {error}" if error else ""
    found["lines"] = sorted(world.lines())
    found["left out"] = [tuple(row.values()) for row in world.rejects()]
    for name in ("held", "sent"):
        table = world.state / name / "daily.parquet"
        found[f"rows {name}"] = sorted(map(str, parquet.read_table(table).to_pylist())) if table.exists() else None
    found["runs"] = sorted(path.name for path in (world.state / "runs").glob("*") if path.name not in before)
    text = json.dumps(found, default=str).replace(COPY, "")  # a copy also has accounts of earlier runs, made elsewhere
    plain: dict[str, Any] = json.loads(text.replace(_text(world.folder).removesuffix(COPY), ""))
    plain["left out"].sort()
    return plain


def _text(path: Path) -> str:
    return json.dumps(str(path))[1:-1]
