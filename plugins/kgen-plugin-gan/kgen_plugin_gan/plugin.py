"""Registers the plugin's components."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.generator(
        "gan",
        "kgen_plugin_gan.generator:GAN",
        summary="Generative adversarial network: non-saturating, hinge and relativistic losses",
    )
