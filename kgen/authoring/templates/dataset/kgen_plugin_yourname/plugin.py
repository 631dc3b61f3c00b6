"""Registers the plugin's dataset."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.dataset(
        "stripes",
        "kgen_plugin_yourname.stripes:Stripes",
        summary="Colored stripes, drawn by a rule",
    )
