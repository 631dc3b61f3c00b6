"""Declares the parts."""

from __future__ import annotations

import kgen


@kgen.hookimpl
def kgen_components(registry):
    registry.dataset("squares", "kgen_toy.parts:Squares", summary="Squares of one color")
    registry.encoder("letters", "kgen_toy.parts:Letters", summary="Counts letters")
    registry.generator("means", "kgen_toy.parts:Means", summary="Learns the mean image of a condition")
    registry.generator("tokens", "kgen_toy.parts:Tokens", summary="Wants tokens")
    registry.metric("brightness", "kgen_toy.parts:Brightness", summary="Mean of all pixels")
    registry.metric("missing", "kgen_toy.nowhere:Missing", summary="Its module is not there")
