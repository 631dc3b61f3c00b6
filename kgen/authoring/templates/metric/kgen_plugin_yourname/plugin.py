"""Registers the plugin's metric."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.metric(
        "colorfulness",
        "kgen_plugin_yourname.colorfulness:Colorfulness",
        summary="How colorful the images are",
    )
