"""Registers the plugin's decoder."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.decoder(
        "patches",
        "kgen_plugin_yourname.patches:Patches",
        summary="An autoencoder of patches, small",
    )
