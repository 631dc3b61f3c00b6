"""Registers the command `kgen studio`."""

from __future__ import annotations

from typing import Any

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_commands(commands: Any) -> None:
    commands.add(
        "studio", "kgen_plugin_studio.command:command", summary="Open a page in the browser to play with runs."
    )
