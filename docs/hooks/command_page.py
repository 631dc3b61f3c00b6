"""The page of all commands, written from the parser of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from markdown_text import anchor, row, table

from kgen.cli.app import app

PATH = "reference/commands.md"

INTRODUCTION = """\
# Commands

`kgen COMMAND --help` prints the same. A command exits with status 0 if it succeeds, with 2 if something is wrong that
you can change (the message says what, where and what to do), with 130 after Ctrl-C, and with 1 if kgen or a plugin has
a fault. `KGEN_DEBUG=1` then shows the traceback.
"""


def command_page() -> dict[str, str]:
    """The text of the page, by its path."""
    return {PATH: "\n".join([INTRODUCTION, *(line for found in commands() for line in _section(*found))]) + "\n"}


def commands() -> Iterator[tuple[Any, Any]]:
    """Yields every command that is no group, with its context."""
    root = typer.main.get_command(app)
    yield from _below(root, root.context_class(root, info_name="kgen"))


def _below(group: Any, context: Any) -> Iterator[tuple[Any, Any]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        command = command.resolved() if hasattr(command, "resolved") else command
        below = command.context_class(command, info_name=name, parent=context)
        if hasattr(command, "list_commands"):
            yield from _below(command, below)
        else:
            yield command, below


def _section(command: Any, context: Any) -> list[str]:
    name = context.command_path
    lines = [f"## {name} {{ #{anchor(name)} }}", "", _text(command.help or ""), ""]
    found = [(parameter, parameter.get_help_record(context)) for parameter in command.get_params(context)]
    given = [(parameter, record) for parameter, record in found if parameter.param_type_name == "argument"]
    arguments = [record for _, record in given]
    options = [record for p, record in found if p.param_type_name == "option" and record and record[0] != "--help"]
    usage = " ".join([name, *(_usage(*pair) for pair in given), "[OPTIONS]" if options else ""])
    lines += [f"    {usage.strip()}", ""]
    if arguments or options:
        lines += row("argument or option", "")
        lines += [table(f"`{option}`", _text(text)) for option, text in (*arguments, *options)]
        lines += [""]
    if command.epilog:
        lines += [f"{command.epilog.partition(': ')[0]}:", "", f"    {command.epilog.partition(': ')[2]}", ""]
    return lines


def _usage(parameter: Any, record: tuple[str, str]) -> str:
    """An argument as the usage line shows it: one that may be left out is in brackets."""
    argument = record[0].partition(" <")[0]
    return argument if parameter.required or argument.startswith("[") else f"[{argument}]"


def _text(help_text: str) -> str:
    """The text of the help, with the characters that Markdown would read as markup."""
    return (
        help_text.replace("\\[", "[").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_").replace("[", "\\[")
    )
