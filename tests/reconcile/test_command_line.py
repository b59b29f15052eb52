"""Both command lines as a person meets them: help, JSON, colours."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from idsync.__main__ import cli as idsync_cli
from reconcile.__main__ import cli as reconcile_cli
from tests.reconcile.samples import World, uuid

PATIENCE_SECONDS = 60
CLIS = {"idsync": idsync_cli, "reconcile": reconcile_cli}
COMMANDS = [(program, name) for program, cli in CLIS.items() for name in cli.list_commands(click.Context(cli))]
NO_FIGURES = {("idsync", "serve"), ("idsync", "tag"), ("idsync", "completion"), ("reconcile", "completion")}


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.sync(("c1", uuid(1)))
    world.put("a.csv", [("c1", "f", "", ""), ("late", "f", "", "")])
    world.write_config()
    return world


@pytest.mark.parametrize(("program", "name"), COMMANDS)
def test_help_teaches_by_example(program: str, name: str) -> None:
    told = CliRunner().invoke(CLIS[program], [name, "--help"], prog_name=f"python -m {program}")
    assert told.exit_code == 0
    example = told.output.partition("Example:\n    ")[2]
    assert f"python -m {program} {name}" in example
    assert "--config PATH" in told.output
    assert ("--json" in told.output) is ((program, name) not in NO_FIGURES)


def on_a_terminal(world: World, *command: str, **environ: str) -> tuple[str, str]:
    """What a command writes to stdout, which is a terminal, and to stderr, which is none."""
    terminal, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], "TERM": "xterm-256color", "IDSYNC_CONFIG": "idsync.toml", **environ}
        | {"PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=world.folder,
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(terminal, 65_536):
            shown += piece
    except OSError:  # Linux says so when the other side is closed
        pass
    _, told = process.communicate(timeout=PATIENCE_SECONDS)
    os.close(terminal)
    return shown.decode().replace("\r\n", "\n"), told


def test_colours_are_for_terminals_without_no_color(world: World) -> None:
    coloured, _ = on_a_terminal(world, "reconcile", "health")
    assert "\x1b[32mwell" in coloured
    plain, _ = on_a_terminal(world, "reconcile", "health", NO_COLOR="1")
    assert "well" in plain
    assert "\x1b[3" not in plain
    piped = CliRunner().invoke(reconcile_cli, ["health", "--config", str(world.folder / "idsync.toml")])
    assert "well" in piped.stdout
    assert "\x1b" not in piped.output


def test_figures_come_on_a_terminal_where_they_are_asked_for(world: World) -> None:
    shown, told = on_a_terminal(world, "reconcile", "run", "daily", "--dry-run", "--json")
    figures = json.loads(shown)
    assert (figures["matched"], figures["unmatched"]) == (1, 1)
    assert "daily · dry-run" in told
    assert "\x1b" not in told
    shown, _ = on_a_terminal(world, "reconcile", "run", "daily", "--dry-run")
    assert shown == ""


@pytest.mark.parametrize(
    "command",
    [
        ("idsync", "lookup", "crm", "c1"),
        ("idsync", "stats"),
        ("idsync", "sweep"),
        ("idsync", "opt-out", "crm", "c1"),
        ("idsync", "opt-in", "crm", "c1"),
        ("idsync", "erase", "crm", "c1"),
        ("idsync", "migrate", "sqlite:///idsync.db", "sqlite:///other.db"),
        ("reconcile", "run", "daily"),
        ("reconcile", "history"),
        ("reconcile", "feeds"),
        ("reconcile", "report"),
        ("reconcile", "health"),
        ("reconcile", "sweep"),
        ("reconcile", "sync-file", "crm", "--destination", "local"),
    ],
)
def test_stdout_is_json_and_nothing_else(world: World, command: tuple[str, ...]) -> None:
    world.run()
    program, *arguments = command
    config = str(world.folder / "idsync.toml")
    told = CliRunner().invoke(CLIS[program], [*arguments, "--json", "--config", config])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)
