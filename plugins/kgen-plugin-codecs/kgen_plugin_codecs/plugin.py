"""What this plugin declares."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.decoder(
        "kl-autoencoder",
        "kgen_plugin_codecs.kl:KLAutoencoder",
        summary="Autoencoder with latents of unit variance, as in latent diffusion",
    )
    registry.decoder(
        "vq-autoencoder",
        "kgen_plugin_codecs.vq:VQAutoencoder",
        summary="Autoencoder with tokens as latents: vector or finite scalar quantisation",
    )
