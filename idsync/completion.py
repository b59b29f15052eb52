"""Completion on Tab, by click. Its own scripts need a program of one word; these define that word, for `python -m`.

    eval "$(python -m idsync completion bash)"

A shell that reads this knows `idsync`, from any folder, and completes it.
"""

import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from idsync import config
from idsync.errors import IdsyncError
from idsync.settings import Settings

SHELLS = ("bash", "zsh", "fish")
_ROOT = Path(__file__).parent.parent

_BASH = r"""%(prog_name)s() { env %(command)s "$@"; }
%(complete_func)s() {
    local kind value
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done < <(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" %(ask)s 2>/dev/null)
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""
_ZSH = r"""%(prog_name)s() { env %(command)s "$@" }
%(complete_func)s() {
    local -a plain described response
    local kind value help
    local said="$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) %(ask)s 2>/dev/null)"
    response=("${(@f)said}")
    for kind value help in ${response}; do
        case $kind in
            dir) _path_files -/ ;;
            file) _path_files -f ;;
            plain) if [[ $help == _ ]]; then plain+=("$value"); else described+=("$value:$help"); fi ;;
        esac
    done
    (( $#described )) && _describe -V unsorted described -U
    (( $#plain )) && compadd -U -V unsorted -a plain
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }
compdef %(complete_func)s %(prog_name)s
"""
_FISH = r"""function %(prog_name)s; env %(command)s $argv; end
function %(complete_func)s
    set -lx COMP_WORDS (commandline -cp)
    set -lx COMP_CWORD (commandline -t)
    for line in (env %(ask)s 2>/dev/null)
        set -l parts (string split -m 1 , $line)
        switch $parts[1]
            case dir
                __fish_complete_directories $parts[2]
            case file
                __fish_complete_path $parts[2]
            case plain
                echo $parts[2]
        end
    end
end
complete --no-files --command %(prog_name)s --arguments '(%(complete_func)s)'
"""


class _Bash(BashComplete):
    source_template = _BASH

    def source_vars(self) -> Any:
        return _with_command(self, super().source_vars())


class _Zsh(ZshComplete):
    source_template = _ZSH

    def source_vars(self) -> Any:
        return _with_command(self, super().source_vars())


class _Fish(FishComplete):
    source_template = _FISH

    def source_vars(self) -> Any:
        return _with_command(self, super().source_vars())


_CLASSES: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def variable(name: str) -> str:
    """What a shell sets to ask the command line called `name`."""
    return f"_{name.upper()}_COMPLETE"


def script(cli: click.Group, shell: str) -> str:
    """What a shell is to read: a function called like the command line, and its completion."""
    name = str(cli.name)
    return _CLASSES[shell](cli, {}, name, variable(name)).source()


def configured(names: Callable[[Settings], Iterable[str]]) -> Callable[..., list[str]]:
    """For a parameter's `shell_complete`: names out of the configuration; none where that can't be read."""

    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        try:
            found = list(names(config.load(context.params.get("config_path"))))
        except IdsyncError:
            return []
        return [name for name in found if name.startswith(incomplete)]

    return complete


def _with_command(complete: ShellComplete, known: Any) -> Any:
    # behind `env`: `python -m` would look for the packages where it is called
    words = [f"PYTHONPATH={_ROOT}", sys.executable, "-m", complete.prog_name]
    asked = [f"{complete.complete_var}={complete.name}_complete", *words]
    return {**known, "command": shlex.join(words), "ask": shlex.join(asked)}
