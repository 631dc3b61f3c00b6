"""Registers the plugin's components."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.decoder(
        "regression",
        "kgen_plugin_superres.regression:Regression",
        summary="Enlarges small images with residual convolutions, as in EDSR",
    )
    registry.decoder(
        "diffusion",
        "kgen_plugin_superres.diffusion:DiffusionUpscaler",
        summary="Enlarges small images with a conditional diffusion model, as in Imagen",
    )
    registry.decoder(
        "cascade",
        "kgen_plugin_superres.cascade:Cascade",
        summary="Several decoders in a row, each of which decodes the output of the one before",
    )
