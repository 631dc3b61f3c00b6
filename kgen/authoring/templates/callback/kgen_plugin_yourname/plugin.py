"""Registers the plugin's callback."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.callback(
        "plateau",
        "kgen_plugin_yourname.plateau:StopAtPlateau",
        summary="Ends a training whose loss no longer falls",
    )
