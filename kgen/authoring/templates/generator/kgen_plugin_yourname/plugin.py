"""Registers the plugin's generator."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.generator(
        "flow",
        "kgen_plugin_yourname.flow:Flow",
        summary="Straight flow from noise to latents, small",
    )
