"""Completion of commands and options in a shell, as a script made from the commands.

The script needs no Python, which takes half a second to start.
"""

import shlex
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import typer

PROGRAM = "chatterbox-tts"


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion_script(command: Any, shell: Shell) -> str:
    """The script for a Click command."""
    if shell is Shell.FISH:
        return "\n".join(_fish(command))
    return "\n".join(_bash(command, shell))


def _bash(command: Any, shell: Shell) -> Iterator[str]:
    """For bash, and for zsh, which can read the same. File names complete where nothing else."""
    paths = dict(_commands(command))
    if shell is Shell.ZSH:
        yield "autoload -U +X bashcompinit && bashcompinit"
    yield "_chatterbox_tts() {"
    yield '  local word at="" current="${COMP_WORDS[COMP_CWORD]}" words=""'
    yield '  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do'
    yield '    case "$at $word" in'
    if nested := [path for path in paths if path]:
        yield f'      {"|".join(map(shlex.quote, nested))}) at="$at $word" ;;'
    yield "    esac"
    yield "  done"
    yield '  case "$at ${COMP_WORDS[COMP_CWORD-1]}" in'
    for path, each in paths.items():
        for names, choices in _choices(each):
            patterns = "|".join(shlex.quote(f"{path} {name}") for name in names)
            yield f"    {patterns}) words={shlex.quote(' '.join(choices))} ;;"
    yield '    *) case "$at" in'
    for path, each in paths.items():
        words = [*_subcommands(each), *_arguments(each)]
        options = [name for names, _ in _options(each) for name in names]
        yield f"      {shlex.quote(path)}) words={shlex.quote(' '.join(words))}"
        yield f"        [[ $current == -* ]] && words={shlex.quote(' '.join(options))} ;;"
    yield "    esac ;;"
    yield "  esac"
    yield '  COMPREPLY=($(compgen -W "$words" -- "$current"))'
    yield "}"
    yield f"complete -o default -F _chatterbox_tts {PROGRAM}"


def _fish(command: Any) -> Iterator[str]:
    for path, each in _commands(command):
        words = path.split()
        seen = [f"__fish_seen_subcommand_from {word}" for word in words]
        others = " ".join(_subcommands(each))
        if others:
            seen.append(f"not __fish_seen_subcommand_from {others}")
        begin = f"complete -c {PROGRAM}" + (
            f" -n {shlex.quote('; and '.join(seen))}" if seen else ""
        )
        for name, sub in _subcommands(each).items():
            yield f"{begin} -f -a {name} -d {shlex.quote(sub.get_short_help_str(60))}"
        if arguments := _arguments(each):
            yield f"{begin} -f -a {shlex.quote(' '.join(arguments))}"
        chosen = dict(_choices(each))
        for names, option in _options(each):
            flags = " ".join(
                f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in names
            )
            takes = "" if getattr(option, "is_flag", False) else " -r"
            if choices := chosen.get(names):
                takes = f" -x -a {shlex.quote(' '.join(choices))}"
            yield f"{begin} {flags}{takes}"


def _commands(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each command with the words that lead to it, as ` voices add`."""
    yield path, command
    for name, each in _subcommands(command).items():
        yield from _commands(each, f"{path} {name}")


def _subcommands(command: Any) -> dict[str, Any]:
    commands: dict[str, Any] = getattr(command, "commands", {})
    return commands


def _options(command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    for each in command.get_params(typer.Context(command, help_option_names=["-h", "--help"])):
        if each.param_type_name == "option":
            yield (*each.opts, *each.secondary_opts), each


def _choices(command: Any) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    for names, option in _options(command):
        if choices := _values(option):
            yield names, choices


def _arguments(command: Any) -> list[str]:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    return [value for each in arguments for value in _values(each)]


def _values(parameter: Any) -> list[str]:
    from app.audio.formats import FORMAT_OF_NAME

    values: dict[str | None, list[str]] = {
        "format": list(FORMAT_OF_NAME),
        "shell": [str(shell) for shell in Shell],
        "chunk_overlap_method": ["full", "zero"],
    }
    return values.get(parameter.name, [])
