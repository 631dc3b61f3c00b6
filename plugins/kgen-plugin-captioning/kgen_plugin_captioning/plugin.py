"""Declares the components and the command `kgen caption`."""

from __future__ import annotations

from typing import Any

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.dataset(
        "captions", "kgen_plugin_captioning.captions:Captions", summary="The captions of another dataset, as images"
    )
    registry.decoder("letters", "kgen_plugin_captioning.letters:Letters", summary="Each letter of a text is a token")
    registry.encoder(
        "tokens", "kgen_plugin_captioning.tokens:ImageTokens", summary="A transformer over the tokens of an image"
    )
    registry.metric("wording", "kgen_plugin_captioning.wording:Wording", summary="Share of correct captions")


@kgen.hookimpl
def kgen_commands(commands: Any) -> None:
    commands.add("caption", "kgen_plugin_captioning.command:command", summary="Print a caption of each image.")
