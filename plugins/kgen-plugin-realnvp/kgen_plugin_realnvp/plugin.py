"""What this plugin declares."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.generator(
        "realnvp",
        "kgen_plugin_realnvp.generator:RealNVP",
        summary="An invertible map from pictures to noise, with a known density: RealNVP, Glow and Jet",
    )
