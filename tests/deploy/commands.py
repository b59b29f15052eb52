"""The project's command lines as they stand in units, crontabs and documents."""

import re
import shlex
from collections.abc import Iterator

import click

from idsync.__main__ import cli as idsync_cli
from reconcile.__main__ import cli as reconcile_cli

_CLIS = {"idsync": idsync_cli, "reconcile": reconcile_cli}
_COMMAND = re.compile(r"python -m (idsync|reconcile) ([^`#|&>\n;)]+)")


def named_in(text: str) -> Iterator[tuple[str, list[str]]]:
    """Program and arguments of each `python -m idsync …` or `python -m reconcile …`."""
    for program, rest in _COMMAND.findall(text):
        yield program, shlex.split(rest.split("  ")[0].rstrip(" ,.:"))


def check(program: str, arguments: list[str]) -> None:
    """Fails unless the program has this command and takes these arguments. Nothing is run."""
    cli = _CLIS[program]
    name, *rest = arguments
    command = cli.get_command(click.Context(cli), name)
    assert command is not None, (program, name)
    try:
        command.make_context(name, rest)
    except click.exceptions.Exit:  # --help
        pass
    except click.ClickException as error:
        raise AssertionError(f"python -m {program} {shlex.join(arguments)}: {error.format_message()}") from None
