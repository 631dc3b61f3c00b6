"""What this plugin declares."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.dataset(
        "openmoji", "kgen_plugin_openmoji.dataset:OpenMoji", summary="1,900 emoji with names in many languages"
    )
