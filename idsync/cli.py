"""What both command lines share: how errors end a program, --config, --json, completion, an example in every help."""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from idsync import completion
from idsync.errors import IdsyncError


class Commands(click.Group):
    """Ends with an error's own exit status and no traceback; a reader that closes the pipe has read enough.

    `modules`: by command, the one whose import adds it. So a command waits for nothing that only others need.
    """

    modules: Mapping[str, str] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self.modules})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.modules:
            importlib.import_module(self.modules[cmd_name])
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except IdsyncError as error:
            click.echo(f"{self.name}: {error}", err=True)
            ctx.exit(error.exit_status)
        except BrokenPipeError:
            # What is left in the buffer would raise once more when Python flushes at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)


def group(name: str, text: str, modules: Mapping[str, str] | None = None) -> Commands:
    """A command line called `name`, with `text` as the head of its help; `modules`: see Commands."""
    settings = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
    cli = Commands(name=name, help=text, context_settings=settings)
    cli.modules = modules or {}

    @command(cli, f"python -m {name} completion bash >> ~/.bashrc", name="completion")
    @click.argument("shell", type=click.Choice(completion.SHELLS))
    def print_completion(config_path: Path | None, shell: str) -> None:
        click.echo(completion.script(cli, shell), nl=False)

    print_completion.help = (
        f"What SHELL is to read, so that Tab completes `{name}`: commands, options, and names from the configuration."
        f" It defines the word `{name}` for `python -m {name}`, to be used in any folder."
    )
    return cli


def start(cli: Commands) -> None:
    """Run it as `python -m`, or complete what a shell asks for."""
    cli(prog_name=f"python -m {cli.name}", complete_var=completion.variable(str(cli.name)))


def always_json(function: Callable[..., None]) -> Callable[..., None]:
    """Takes --json, for who gives it to every command: the answer is JSON with or without."""
    option = click.option("--json", is_flag=True, expose_value=False, help="The answer is JSON with or without it.")
    return option(function)


def command(cli: Commands, example: str, name: str | None = None) -> Callable[[Callable[..., None]], click.Command]:
    """A subcommand, called like its function unless `name` is given, with --config, and an example in its help."""

    def register(function: Callable[..., None]) -> click.Command:
        option = click.option(
            "--config",
            "config_path",
            type=click.Path(path_type=Path),
            metavar="PATH",
            help="Configuration file; default: $IDSYNC_CONFIG, else ./idsync.toml.",
        )
        return cli.command(name, epilog=f"\b\nExample:\n  {example}")(option(function))

    return register
