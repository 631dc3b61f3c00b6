"""Registers the plugin's parts."""

from __future__ import annotations

import kgen

KGEN_API = 1

HERE = "kgen_plugin_keras_cv"


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.encoder(
        "clip-text", f"{HERE}.text:ClipText", summary="The text encoder of Stable Diffusion 1 or 2, as in keras-cv"
    )
    registry.decoder("vae", f"{HERE}.vae:VAE", summary="The autoencoder of Stable Diffusion 1 and 2, as in keras-cv")
