"""Registers the plugin's components."""

from __future__ import annotations

import kgen

KGEN_API = 1

HERE = "kgen_plugin_unclip"


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    """Declares the components of the plugin."""
