"""Registers the plugin's components and kinds."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.generator(
        "realnvp",
        "kgen_plugin_realnvp.generator:RealNVP",
        summary="Normalizing flows of affine couplings: RealNVP, Glow and Jet",
    )
    couplings = "kgen_plugin_realnvp.couplings"
    registry.kind("realnvp.coupling", f"{couplings}:Coupling", summary="Architectures of the flow")
    registry.add(
        "realnvp.coupling", "convolutional", f"{couplings}:Convolutional", summary="Couplings at several scales (Glow)"
    )
    registry.add(
        "realnvp.coupling", "transformer", f"{couplings}:Transformer", summary="Couplings of patches at one scale (Jet)"
    )
