"""Registers the plugin's logger."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.logger(
        "lines",
        "kgen_plugin_yourname.lines:Lines",
        summary="Lines of JSON in the run directory",
    )
