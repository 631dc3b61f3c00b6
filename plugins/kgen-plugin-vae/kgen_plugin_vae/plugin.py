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
    models = "kgen_plugin_vae.observations"
    registry.kind("vae.observation", f"{models}:Observation", summary="What the decoder says about each pixel")
    registry.add("vae.observation", "logistic", f"{models}:Logistic", summary="A mixture over the 256 intensities")
    registry.add("vae.observation", "gaussian", f"{models}:Gaussian", summary="A normal distribution for each number")
    registry.add("vae.observation", "bernoulli", f"{models}:Bernoulli", summary="Black or white")
