"""The commands of plugins on kgen's command line."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from kgen.cli.common import show_warning
from kgen.errors import ComponentError, ConfigError, KgenError
from kgen.plugins.commands import Command, find_commands
from kgen.plugins.faults import reason
from kgen.reporting.plain import printable

PANEL = "Commands of plugins"


class CommandsWithPlugins(TyperGroup):
    """kgen's own commands, and those of plugins, which are looked up only if kgen has no command of the name."""

    def list_commands(self, ctx: Any) -> list[str]:
        found, refused = self._plugin_commands
        for message in refused.values():
            show_warning(message, UserWarning, __file__)
        return [*super().list_commands(ctx), *sorted(found)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Returns the command of a name, or None if there is none; raises ConfigError if the command is refused."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        found, refused = self._plugin_commands
        if cmd_name in refused:
            raise ConfigError(refused[cmd_name])
        return _Lazy(found[cmd_name]) if cmd_name in found else None

    @functools.cached_property
    def _plugin_commands(self) -> tuple[dict[str, Command], dict[str, str]]:
        return find_commands(self.commands)


class _Lazy(TyperCommand):
    """A command of a plugin, whose function is imported only when the command is called."""

    def __init__(self, command: Command) -> None:
        summary = escape(printable(f"{command.summary} ({command.origin.distribution})"))
        super().__init__(command.name, help=summary, rich_help_panel=PANEL)
        self._command = command

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        return self.resolved().make_context(*args, **kwargs)

    def resolved(self) -> Any:
        """Imports the function, and returns the command with its arguments and options."""
        from kgen.backend.selection import select_backend

        with contextlib.suppress(KgenError):  # a command that needs a backend says so itself
            select_backend()
        app = typer.Typer(
            add_completion=False,
            pretty_exceptions_enable=False,
            context_settings={"help_option_names": ["-h", "--help"]},
        )
        app.command(self._command.name)(_with_address(self._command.load(), str(self._command)))
        return typer.main.get_command(app)


def _with_address(function: Callable[..., Any], command: str) -> Callable[..., Any]:
    """Wraps a function so that unexpected exceptions name the command and its distribution."""

    @functools.wraps(function)
    def addressed(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (KgenError, typer.Exit, typer.Abort, typer.BadParameter, OSError, MemoryError):
            raise
        except Exception as error:
            raise ComponentError(f"{command} failed: {reason(error)}") from error

    return addressed
