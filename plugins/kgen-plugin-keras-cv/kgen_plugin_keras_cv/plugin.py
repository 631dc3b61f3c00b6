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
    registry.generator(
        "stable-diffusion",
        f"{HERE}.stable_diffusion:StableDiffusion",
        summary="Stable Diffusion 1 or 2, as in keras-cv",
    )
    registry.add(
        "diffusion.network", "keras-cv-unet", f"{HERE}.unet:UNet", summary="The U-Net of Stable Diffusion 1 or 2"
    )
    registry.decoder("vae", f"{HERE}.vae:VAE", summary="The autoencoder of Stable Diffusion 1 and 2, as in keras-cv")
