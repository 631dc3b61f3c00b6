"""What this plugin declares."""

import kgen


@kgen.hookimpl
def kgen_components(registry):
    registry.generator(
        "diffusion",
        "kgen_plugin_diffusion.generator:Diffusion",
        summary="Learns to take noise away: DDPM, score, EDM and flow matching",
    )
