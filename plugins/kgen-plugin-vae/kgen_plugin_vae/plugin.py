"""Registers the plugin's components and kinds."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.generator(
        "vae",
        "kgen_plugin_vae.generator:VAE",
        summary="Variational autoencoder with one or more levels of latents, which generates in one pass",
    )
    models = "kgen_plugin_vae.observations"
    registry.kind("vae.observation", f"{models}:Observation", summary="Distributions p(image | latents)")
    registry.add(
        "vae.observation", "logistic", f"{models}:Logistic", summary="A discretized mixture over the 256 intensities"
    )
    registry.add("vae.observation", "gaussian", f"{models}:Gaussian", summary="A normal distribution for each value")
    registry.add("vae.observation", "bernoulli", f"{models}:Bernoulli", summary="Black or white")
