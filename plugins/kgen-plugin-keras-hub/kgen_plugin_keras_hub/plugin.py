"""Registers the plugin's encoders."""

from __future__ import annotations

from typing import Any

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: Any) -> None:
    registry.encoder("bert", "kgen_plugin_keras_hub.bert:BertText", summary="Pretrained BERT or MiniLM, frozen")
    registry.encoder("clip-text", "kgen_plugin_keras_hub.clip:ClipText", summary="CLIP's text encoder, frozen")
    registry.encoder("t5", "kgen_plugin_keras_hub.t5:T5Text", summary="The encoder of a pretrained T5, frozen")
