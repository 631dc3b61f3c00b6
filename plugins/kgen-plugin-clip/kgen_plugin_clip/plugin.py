"""Registers the plugin's components and kinds."""

from __future__ import annotations

import kgen

KGEN_API = 1

HERE = "kgen_plugin_clip"


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.encoder(
        "clip", f"{HERE}.encoders:Clip", summary="Texts by a contrastive image-text model, trained or pretrained (CLIP)"
    )
    registry.encoder("image", f"{HERE}.encoders:ClipImage", summary="Images by a trained 'clip/clip', or pretrained")

    registry.encoder(
        "text",
        f"{HERE}.text_encoder:ClipText",
        summary="Texts by the text tower of a published CLIP (Stable Diffusion)",
    )

    registry.metric("clip-score", f"{HERE}.metrics:ClipScore", summary="Cosines of images and prompts")
    registry.metric("zero-shot", f"{HERE}.metrics:ZeroShot", summary="Share of images whose nearest caption is right")
    registry.metric("cmmd", f"{HERE}.metrics:CMMD", summary="Distance of CLIP embeddings from real images")

    registry.kind("clip.text", f"{HERE}.texts:TextTower", summary="Text towers: networks that encode texts")
    registry.add("clip.text", "transformer", f"{HERE}.texts:Transformer", summary="A causal transformer over tokens")
    registry.add("clip.text", "frozen", f"{HERE}.texts:Frozen", summary="Another encoder, which is not trained")

    registry.kind("clip.image", f"{HERE}.images:ImageTower", summary="Image towers: networks that encode images")
    registry.add("clip.image", "vit", f"{HERE}.images:VisionTransformer", summary="A transformer over patches")
    registry.add("clip.image", "convolutional", f"{HERE}.images:Convolutional", summary="Residual convolutions")
