"""What this plugin declares."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.generator(
        "realnvp",
        "kgen_plugin_realnvp.generator:RealNVP",
        summary="An invertible map from images to noise, with a known density: RealNVP, Glow and Jet",
    )
    couplings = "kgen_plugin_realnvp.couplings"
    registry.kind("realnvp.coupling", f"{couplings}:Coupling", summary="What the map is made of")
    registry.add(
        "realnvp.coupling", "convolutional", f"{couplings}:Convolutional", summary="Couplings at several scales (Glow)"
    )
    registry.add(
        "realnvp.coupling", "transformer", f"{couplings}:Transformer", summary="Couplings of patches at one scale (Jet)"
    )
