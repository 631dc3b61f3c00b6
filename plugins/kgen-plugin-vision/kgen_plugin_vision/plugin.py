"""Registers the plugin's encoder."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.encoder(
        "patches", "kgen_plugin_vision.patches:Patches", summary="Transformer over the patches of an image (ViT)"
    )
