"""What this plugin declares."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.generator(
        "vae",
        "kgen_plugin_vae.generator:VAE",
        summary="Variational autoencoder with one or more levels of latents: samples in one pass",
    )
