"""Registers the plugin's dataset."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.dataset(
        "openmoji", "kgen_plugin_openmoji.dataset:OpenMoji", summary="1,900 captioned emoji, in several languages"
    )
    registry.dataset(
        "noto-emoji", "kgen_plugin_openmoji.noto:NotoEmoji", summary="The same emoji, drawn by Noto Color Emoji"
    )
