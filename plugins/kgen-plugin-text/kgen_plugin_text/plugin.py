"""Registers the plugin's encoders."""

from __future__ import annotations

from typing import Any

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: Any) -> None:
    registry.encoder(
        "transformer",
        "kgen_plugin_text.transformer:TransformerText",
        summary="A transformer over byte pairs that are learned from the captions",
    )
    registry.encoder("bag", "kgen_plugin_text.bag:BagOfWords", summary="A learned vector per word, without order")
    registry.encoder("label", "kgen_plugin_text.label:ClassLabel", summary="A learned vector per class label")
    registry.encoder("class", "kgen_plugin_text.label:CaptionClass", summary="A learned vector per different caption")
    registry.encoder("none", "kgen_plugin_text.unconditional:Unconditional", summary="Ignores the text")
