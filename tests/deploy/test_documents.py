"""deploy's documents: links lead somewhere, commands exist, and what the program is said to say, it says."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

from idsync import settings
from idsync.outcomes import Outcome
from reconcile.health.judging import Kind
from tests.deploy import commands
from tests.deploy.documents import FOLDER, README, RUNBOOK, anchors, headings, sections

ROOT = Path(__file__).parents[2]
DOCUMENTS = [README, RUNBOOK]


@cache
def texts_of_the_program() -> str:
    """All that stands in strings of both packages, parts of formatted ones joined by a blank sign."""
    found = []
    for path in [*(ROOT / "idsync").rglob("*.py"), *(ROOT / "reconcile").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def said() -> list[str]:
    """What the runbook quotes: behind "Says:", and in the columns of that name. What others say is marked "of"."""
    text = RUNBOOK.read_text()
    quotes = re.findall(r"\*\*Says:\*\* `([^`]+)`", text)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *rows = [line.strip("|").split("|") for line in table.splitlines()]
        columns = [at for at, cell in enumerate(head) if "**Says**" in cell]
        cells = [row[at] for row in rows for at in columns]
        quotes += [quote for cell in cells if ": of " not in cell for quote in re.findall(r"`([^`]+)`", cell)]
    return quotes


@pytest.mark.parametrize("quote", said())
def test_the_program_says_what_the_runbook_quotes(quote: str) -> None:
    assert quote in texts_of_the_program()


def test_there_is_something_to_each_symptom() -> None:
    assert len(said()) > 30
    for heading, text in sections(RUNBOOK).items():
        assert len(text.strip()) > 200, heading


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.name))
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        document = (path.parent / name).resolve() if name else path
        assert document.exists(), target
        assert not anchor or anchor in anchors(document), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.name))
def test_no_two_headings_share_an_anchor(path: Path) -> None:
    assert len(set(anchors(path))) == len(headings(path))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.name))
def test_every_command_exists(path: Path) -> None:
    named = list(commands.named_in(path.read_text()))
    assert named
    for program, arguments in named:
        commands.check(program, arguments)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.name))
def test_every_file_named_is_there(path: Path) -> None:
    for name in re.findall(r"\bdeploy/[\w./@-]+\w", path.read_text()):
        assert (ROOT / name).exists(), name


def test_every_setting_that_the_runbook_names_exists() -> None:
    """As `table.key`, and as `key = value`."""
    text = RUNBOOK.read_text()
    tables: dict[str, type[settings.Table]] = {
        "store": settings.Store,
        "endpoint": settings.Endpoint,
        "reconcile": settings.Reconcile,
    }
    named = re.findall(r"`(store|endpoint|reconcile)\.(\w+)\b", text)
    assert named
    for table, key in named:
        assert key in tables[table].model_fields, (table, key)
    models: list[type[settings.Table]] = [
        *tables.values(),
        settings.Privacy,
        settings.Abuse,
        settings.DataSource,
        settings.Feed,
    ]
    keys = {key for model in models for key in model.model_fields}
    assert set(re.findall(r"`(?:\w+\.)?([a-z_]+) = ", text)) <= keys


def test_every_outcome_and_fault_that_the_runbook_names_exists() -> None:
    """Words with a hyphen: outcomes of calls, and what `reconcile health` finds."""
    text = RUNBOOK.read_text()
    words = set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", text))
    ours, faults = {outcome.label for outcome in Outcome}, set(get_args(Kind))
    assert words & ours
    assert {word for word in words if not word.startswith("id-")} <= ours | faults
    section = text.split("## reconcile health", 1)[1].split("\n## ", 1)[0]
    assert faults <= set(re.findall(r"`([a-z-]+)`", section))


def test_every_file_below_deploy_is_in_its_readme() -> None:
    text = README.read_text()
    for path in FOLDER.iterdir():
        if path not in {README} and path.name not in {"__pycache__"}:
            assert f"`{path.name}{'/' if path.is_dir() else ''}`" in text or f"]({path.name})" in text, path.name
