"""What this plugin declares."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.decoder(
        "regression",
        "kgen_plugin_superres.regression:Regression",
        summary="Enlarges small images by residual convolutions, as EDSR does",
    )
    registry.decoder(
        "diffusion",
        "kgen_plugin_superres.diffusion:DiffusionUpscaler",
        summary="Enlarges small images by a diffusion model that is given them, as Imagen does",
    )
    registry.decoder(
        "cascade",
        "kgen_plugin_superres.cascade:Cascade",
        summary="Several decoders in a row, each of which works on what the one before made",
    )
