"""Declares the components of this plugin and their parts."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.generator(
        "ar",
        "kgen_plugin_tokens.ar:Autoregressive",
        summary="Samples one token after the other (GPT, DALL-E, PixelCNN)",
    )
    registry.generator(
        "nar", "kgen_plugin_tokens.nar:NonAutoregressive", summary="Samples all tokens in a few passes (MaskGIT, Muse)"
    )
    registry.generator(
        "ar-nar", "kgen_plugin_tokens.ar_nar:Combined", summary="A draft of a few tokens by AR, completed by NAR"
    )
    registry.decoder(
        "pixel-tokens", "kgen_plugin_tokens.pixels:PixelTokens", summary="Each 8-bit value of an image is a token"
    )
    registry.decoder(
        "palette-tokens", "kgen_plugin_tokens.pixels:PaletteTokens", summary="Each pixel is a color of a palette"
    )
    registry.kind("tokens.order", "kgen_plugin_tokens.positions:raster", summary="Reading order of the tokens")
    for name, summary in (("raster", "Row by row"), ("columns", "Column by column"), ("spiral", "From the middle")):
        registry.add("tokens.order", name, f"kgen_plugin_tokens.positions:{name}", summary=summary)
    registry.kind("tokens.schedule", "kgen_plugin_tokens.masking:Schedule", summary="Share of masked tokens over time")
    for name, summary in (
        ("cosine", "cos(pi r / 2): fills in few tokens at first"),
        ("linear", "1 - r: fills in the same number of tokens in each step"),
        ("arccos", "arccos(r) / (pi / 2)"),
    ):
        registry.add("tokens.schedule", name, f"kgen_plugin_tokens.masking:{name}", summary=summary)
