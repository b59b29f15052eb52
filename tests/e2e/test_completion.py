"""Tab in real shells: bash and zsh on a terminal of their own, fish asked in its own way."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.reconcile.samples import NOW, World, uuid

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 30
_TERMINALS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration with a feed that has run, and the three scripts; far from the packages."""
    world = World(tmp_path_factory.mktemp("completion"))
    world.sync(("c1", uuid(1)))
    world.put("a.csv", [("c1", "f", "", "")])
    world.run()
    world.write_config()
    for shell in (*_TERMINALS, "fish"):
        for program in ("idsync", "reconcile"):
            told = subprocess.run(
                [sys.executable, "-m", program, "completion", shell],
                capture_output=True,
                text=True,
                check=True,
                cwd=ROOT,
                timeout=PATIENCE_SECONDS,
            )
            assert told.stderr == ""
            with (world.folder / f"{shell}.rc").open("a") as file:
                file.write(told.stdout)
    return world.folder


class Shell:
    """A shell on a terminal."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def read_until(self, wanted: str) -> str:
        """All that it shows until then, but for its bell."""
        shown, deadline = b"", time.monotonic() + PATIENCE_SECONDS
        while wanted.encode() not in shown:
            ready, _, _ = select.select([self._terminal], [], [], deadline - time.monotonic())
            assert ready, shown
            shown += os.read(self._terminal, 65_536).replace(b"\a", b"")
        return shown.decode(errors="replace")


@contextmanager
def opened(shell: str, folder: Path) -> Iterator[Shell]:
    """One that has read its script."""
    home = {"HOME": str(folder), "ZDOTDIR": str(folder), "TERM": "dumb", "PATH": os.environ["PATH"], "PS1": "$ "}
    process, terminal = pty.fork()
    if process == 0:  # the child
        os.chdir(folder)
        os.execvpe(_TERMINALS[shell][0], _TERMINALS[shell], home)  # noqa: S606
    try:
        told = Shell(terminal)
        told.type(f"source ./{shell}.rc; echo rea''dy\n")
        told.read_until("ready\r")
        yield told
    finally:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)


@pytest.mark.parametrize("shell", _TERMINALS)
def test_tab_completes_commands_options_and_names(shell: str, folder: Path) -> None:
    with opened(shell, folder) as terminal:
        for typed, completed in (
            ("reconcile redel", "reconcile redeliver "),
            ("reconcile run --dry", "reconcile run --dry-run "),
            ("reconcile run dai", "reconcile run daily "),
            ("reconcile report 179", f"reconcile report {NOW // 1000}-daily "),
            ("reconcile sync-file --destination loc", "reconcile sync-file --destination local "),
            ("idsync lookup c", "idsync lookup crm "),
            ("reconcile check idsync.t", "reconcile check idsync.toml "),
        ):
            terminal.type(f"{typed}\t")
            terminal.read_until(completed)
            terminal.type("\x15echo ne''xt\n")  # the line away
            terminal.read_until("next\r")
        terminal.type("reconcile history | tail -1; echo don''e\n")
        assert f"{NOW // 1000}-daily" in terminal.read_until("done\r")


def test_fish_offers_the_same(folder: Path) -> None:
    def offered(line: str) -> list[str]:
        done = subprocess.run(
            ["fish", "--no-config", "-c", f"source {folder}/fish.rc; complete -C {line!r}"],
            capture_output=True,
            text=True,
            check=True,
            cwd=folder,
            env={"HOME": str(folder), "PATH": os.environ["PATH"]},
            timeout=PATIENCE_SECONDS,
        )
        assert done.stderr == ""
        return [row.partition("\t")[0] for row in done.stdout.splitlines()]

    assert offered("reconcile redel") == ["redeliver"]
    assert offered("reconcile run --dry") == ["--dry-run"]
    assert offered("reconcile run ") == ["daily"]
    assert offered("idsync lookup ") == ["crm"]
    assert offered("reconcile check idsync.t") == ["idsync.toml"]


def test_without_a_configuration_there_are_no_names(folder: Path, tmp_path: Path) -> None:
    with opened("bash", folder) as terminal:
        terminal.type(f"cd {tmp_path}; echo don''e\n")
        terminal.read_until("done\r")
        terminal.type("reconcile run dai\t--dry\t")
        assert "rror" not in terminal.read_until("dai--dry")
