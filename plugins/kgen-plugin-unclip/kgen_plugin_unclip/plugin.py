"""Registers the components of the plugin, and the commands `kgen vary` and `kgen embeddings`."""

from __future__ import annotations

from typing import Any

import kgen

KGEN_API = 1

HERE = "kgen_plugin_unclip"


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.decoder(
        "decoder", f"{HERE}.decoder:EmbeddingDecoder", summary="Embeddings of CLIP to images, by diffusion (DALL-E 2)"
    )
    registry.generator("prior", f"{HERE}.prior:Prior", summary="Diffusion over embeddings of images (DALL-E 2)")
    registry.generator("ar-prior", f"{HERE}.ar_prior:ARPrior", summary="Component by component (DALL-E 2)")
    registry.add(
        "diffusion.network", "causal", f"{HERE}.network:CausalTransformer", summary="A causal transformer, for vectors"
    )


@kgen.hookimpl
def kgen_commands(commands: Any) -> None:
    commands.add("vary", f"{HERE}.command:command", summary="Generate variations of images.")
    commands.add(
        "embeddings", f"{HERE}.embeddings_command:command", summary="Measure the embeddings of a prior, and its images."
    )
