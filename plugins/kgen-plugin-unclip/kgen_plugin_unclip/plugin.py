"""Registers the plugin's components."""

from __future__ import annotations

import kgen

KGEN_API = 1

HERE = "kgen_plugin_unclip"


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.generator("prior", f"{HERE}.prior:Prior", summary="Diffusion over embeddings of images (DALL-E 2)")
    registry.generator("ar-prior", f"{HERE}.ar_prior:ARPrior", summary="Component by component (DALL-E 2)")
    registry.add(
        "diffusion.network", "causal", f"{HERE}.network:CausalTransformer", summary="A causal transformer, for vectors"
    )
