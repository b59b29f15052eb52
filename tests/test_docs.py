"""The README says what the code does: every setting, exit status, outcome and rejection is in it, and no other."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from idsync import errors, metrics, settings
from idsync.outcomes import Outcome
from idsync.store.spool import Waiting
from reconcile import errors as reconcile_errors

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TABLES: dict[str, type[BaseModel]] = {
    "**`[store]`**": settings.Store,
    "**`[endpoint]`**": settings.Endpoint,
    "**`[privacy]`**": settings.Privacy,
    "**`[abuse]`**": settings.Abuse,
    "**`[[data_sources]]`**": settings.DataSource,
    "**`[[feeds]]`**": settings.Feed,
    '**`[[destinations]]`** of `kind = "directory"`': settings.DirectoryDestination,
    '**`[[destinations]]`** of `kind = "s3"`': settings.S3Destination,
    '**`[[destinations]]`** of `kind = "ftp"`': settings.FtpDestination,
    '**`[[destinations]]`** of `kind = "sftp"`': settings.SftpDestination,
    "**`[pgp]`**": settings.Pgp,
    "**`[reconcile]`**": settings.Reconcile,
    "**`[health]`**": settings.Health,
}


def documented(heading: str) -> dict[str, str]:
    """Key and default of each row of the first table below a heading."""
    table = README.split(heading, 1)[1].split("|---|", 1)[1].split("\n\n", 1)[0]
    rows = re.findall(r"^\| `(\w+)` \|\s*([^|]*?)\s*\|", table, re.MULTILINE)
    assert rows, heading
    return dict(rows)


@pytest.mark.parametrize("heading", TABLES)
def test_every_setting_is_in_the_readme_with_its_default(heading: str) -> None:
    model, rows = TABLES[heading], documented(heading)
    assert set(rows) == set(model.model_fields)
    for name, field in model.model_fields.items():
        assert matches(rows[name], field.default, required=field.is_required()), (name, rows[name], field.default)


def matches(shown: str, default: Any, *, required: bool) -> bool:
    shown = shown.replace("`", "").replace(",", "").replace("'", "")
    if required or default is PydanticUndefined:
        return shown == "required"
    if default is None:
        return shown == "" or "'s" in shown or shown.endswith("s")  # nothing, or where it is taken from
    if default in ((), ""):
        return shown in {"none", "empty"}
    if isinstance(default, tuple):
        return shown.split() == [str(member) for member in default]
    return shown == (str(default).lower() if isinstance(default, bool) else str(default))


def test_the_top_level_has_no_other_key() -> None:
    tables = {"store", "endpoint", "privacy", "abuse", "data_sources", "feeds", "destinations", "reconcile"}
    tables |= {"pgp", "health"}
    assert set(settings.Settings.model_fields) == tables | {"partner"}
    assert "| `partner` |" in README


def all_errors(kind: type[errors.IdsyncError]) -> set[type[errors.IdsyncError]]:
    return {kind} | {found for child in kind.__subclasses__() for found in all_errors(child)}


def test_every_exit_status_is_in_the_readme() -> None:
    table = README.split("| exit status |", 1)[1].split("\n\n", 1)[0]
    shown = {int(status) for status in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert shown == {0} | {kind.exit_status for kind in all_errors(errors.IdsyncError)}


@pytest.mark.parametrize("module", [errors, reconcile_errors])
def test_the_tree_of_errors_is_drawn_as_it_is(module: Any) -> None:
    drawn = dict(re.findall(r"[├└]── (\w+) +(\d+)", module.__doc__))
    own = {kind for kind in all_errors(errors.IdsyncError) if kind.__module__ == module.__name__}
    assert drawn == {kind.__name__: str(kind.exit_status) for kind in own - {errors.IdsyncError}}


def test_every_outcome_of_a_call_is_in_the_readme() -> None:
    table = README.split("| case | status | `X-Error` |", 1)[1].split("\n\n", 1)[0]
    shown = {int(code) for code in re.findall(r"\b(\d{3})\b", table)}
    assert {outcome.code for outcome in Outcome if outcome.code} <= shown
    assert {outcome.status for outcome in Outcome} <= shown


def test_every_metric_is_in_the_readme_with_its_type() -> None:
    metrics.Metrics([])
    body, _ = metrics.expose(lambda: Waiting(0, 0.0, 0))
    shown = dict(re.findall(r"^# TYPE (\S+) (\S+)$", body.decode(), re.MULTILINE))
    assert documented("### Metrics\n") == shown


def test_every_file_that_the_readme_names_is_there() -> None:
    for path in re.findall(r"\b(?:deploy|tests)/[\w./-]+\w", README):
        assert (ROOT / path).exists(), path


def test_every_link_within_the_readme_leads_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([\w-]+)\)", README)) <= anchors


def test_nothing_refers_to_where_it_was_made() -> None:
    """No path of a developer's machine in what is committed."""
    hidden = {".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "var", "__pycache__"}
    files = [path for path in ROOT.rglob("*") if path.is_file() and not hidden & set(path.relative_to(ROOT).parts)]
    for path in files:
        text = path.read_bytes()
        for trace in (b"/wo" + b"rk/", b"/ro" + b"ot/", b"../sha" + b"red"):
            assert trace not in text, path
