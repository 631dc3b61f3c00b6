"""Registers the plugin's decoders."""

from __future__ import annotations

import kgen

KGEN_API = 1

HERE = "kgen_plugin_diffusers"


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.decoder(
        "autoencoder-kl",
        f"{HERE}.kl:AutoencoderKL",
        summary="A published autoencoder with continuous latents: those of Stable Diffusion 1 to 3, SDXL and Flux",
    )
