"""Registers the plugin's optimizer."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.optimizer(
        "signum",
        "kgen_plugin_yourname.signum:Signum",
        summary="Sign of the mean gradient",
    )
