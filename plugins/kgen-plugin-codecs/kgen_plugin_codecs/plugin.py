"""Registers the plugin's components and kinds."""

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
        summary="Autoencoder with tokens as latents: vector or finite scalar quantization",
    )
    quantizers = "kgen_plugin_codecs.quantizers"
    registry.kind(
        "codecs.perceptual",
        "kgen_plugin_codecs.perceptual:efficientnet_lite0",
        summary="Classifiers for the perceptual distance",
    )
    registry.add(
        "codecs.perceptual",
        "efficientnet-lite0",
        "kgen_plugin_codecs.perceptual:efficientnet_lite0",
        summary="A small classifier trained on ImageNet",
    )
    registry.kind("codecs.quantizer", f"{quantizers}:Quantizer", summary="Methods to turn vectors into tokens")
    registry.add("codecs.quantizer", "vq", f"{quantizers}:Vector", summary="The nearest code of a learned codebook")
    registry.add("codecs.quantizer", "fsq", f"{quantizers}:FiniteScalar", summary="A few levels per dimension")
