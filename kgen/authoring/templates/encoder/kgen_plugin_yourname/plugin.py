"""Registers the plugin's encoder."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.encoder(
        "hashed",
        "kgen_plugin_yourname.hashed:HashedWords",
        summary="A learned vector per word, found by a hash",
    )
