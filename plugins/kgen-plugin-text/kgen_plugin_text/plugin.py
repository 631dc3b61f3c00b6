"""Declares the encoders."""

from __future__ import annotations

from typing import Any

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: Any) -> None:
    registry.encoder(
        "transformer",
        "kgen_plugin_text.transformer:TransformerText",
        summary="Transformer over byte pairs learned from the captions",
    )
    registry.encoder("bag", "kgen_plugin_text.bag:BagOfWords", summary="A vector a word, in no order")
    registry.encoder("label", "kgen_plugin_text.label:ClassLabel", summary="A vector for each class label")
    registry.encoder("class", "kgen_plugin_text.label:CaptionClass", summary="A vector for each different caption")
    registry.encoder("none", "kgen_plugin_text.unconditional:Unconditional", summary="Ignores the text")
