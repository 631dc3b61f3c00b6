"""What this plugin declares."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.generator(
        "diffusion",
        "kgen_plugin_diffusion.generator:Diffusion",
        summary="Learns to take noise away: DDPM, score, EDM and flow matching",
    )
