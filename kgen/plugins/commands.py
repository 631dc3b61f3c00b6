"""The commands that plugins add to `kgen`, declared by name and import path, like components."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from kgen.errors import KgenError, PluginError
from kgen.plugins.discovery import Hooks, registry
from kgen.plugins.isolation import isolated
from kgen.plugins.registry import Provenance, check_path, check_summary, imported

NAME = re.compile(r"[a-z][a-z0-9-]*")


@dataclass(frozen=True)
class Command:
    """One command of a plugin; `load` imports its function."""

    name: str
    target: str
    summary: str
    origin: Provenance

    def __str__(self) -> str:
        return f"command '{self.name}' of {self.origin.release}"

    def load(self) -> Any:
        """Imports the function; raises PluginError, with the reason, if that fails or if it is not a function."""
        try:
            with isolated(str(self)):
                function = imported(self.target)
        except KgenError as error:
            raise PluginError(f"{self} cannot be imported from '{self.target}': {error}") from error
        if not callable(function):
            raise PluginError(f"{self}: {self.target} is not a function")
        return function


class Commands:
    """Receives the commands of one plugin."""

    def __init__(self, origin: Provenance) -> None:
        self._origin = origin
        self.added: list[Command] = []

    def add(self, name: str, target: str, *, summary: str) -> None:
        """Declares a command.

        Args:
            name: The name of the command, after `kgen`: lower case letters, digits and ``-``.
            target: The import path of its function, "package.module:function". It is imported when the command is run,
                not before. Typer derives the arguments of the command line from the function's annotations.
            summary: One line for `kgen --help`.

        Raises:
            PluginError: an argument is wrong; the plugin then adds no command.
        """
        if not (isinstance(name, str) and NAME.fullmatch(name)):
            raise PluginError(f"a command's name must be lower case letters, digits and '-', not {name!r}")
        check_path(f"command '{name}': the target", target)
        check_summary(f"command '{name}'", summary)
        self.added.append(Command(name, target, summary, self._origin))


def find_commands(taken: Collection[str]) -> tuple[dict[str, Command], dict[str, str]]:
    """Calls the hook `kgen_commands` of all plugins.

    Args:
        taken: The names of kgen's own commands.

    Returns:
        The commands by name, and the reasons for those that are refused. A reason is filed under the name of the
        command, or under the namespace of the plugin if its hook failed.
    """
    hooks, added = Hooks(), list[Command]()
    refused: dict[str, str] = {}
    for origin, plugin in registry().plugins.items():
        commands = Commands(origin)
        try:
            with isolated(f"kgen_commands of {origin}"):
                hooks.ask("kgen_commands", plugin, origin, commands=commands)
        except KgenError as error:
            refused[origin.namespace] = f"{origin} adds no command: {error}"
        else:
            added += commands.added
    found: dict[str, Command] = {}
    for command in added:
        rivals = [other for other in added if other.name == command.name and other is not command]
        if command.name in taken:
            refused[command.name] = f"{command} is refused: kgen has a command of that name: rename it"
        elif rivals:
            refused[command.name] = f"{command} is refused: {rivals[0]} has the same name: uninstall one of the two"
        else:
            found[command.name] = command
    return found, refused
