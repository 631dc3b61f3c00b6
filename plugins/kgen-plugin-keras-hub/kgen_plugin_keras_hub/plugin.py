"""Registers the plugin's components."""

from __future__ import annotations

from typing import Any

import kgen

KGEN_API = 1

IMAGES = "kgen_plugin_keras_hub.images.models"
SD3 = "kgen_plugin_keras_hub.sd3"


@kgen.hookimpl
def kgen_components(registry: Any) -> None:
    registry.encoder("bert", "kgen_plugin_keras_hub.bert:BertText", summary="Pretrained BERT or MiniLM, frozen")
    registry.encoder("clip-text", "kgen_plugin_keras_hub.clip:ClipText", summary="CLIP's text encoder, frozen")
    registry.encoder("t5", "kgen_plugin_keras_hub.t5:T5Text", summary="The encoder of a pretrained T5, frozen")
    registry.encoder("clip-image", f"{IMAGES}:ClipImage", summary="CLIP's image encoder")
    registry.encoder("siglip-image", f"{IMAGES}:SigLIPImage", summary="The image encoder of SigLIP and SigLIP 2")
    registry.encoder("dinov2", f"{IMAGES}:DINOv2", summary="The image encoder DINOv2")
    registry.encoder(
        "sd3-text", f"{SD3}.text:StableDiffusion3Text", summary="The text encoders of Stable Diffusion 3, frozen"
    )
    registry.generator("sd3", f"{SD3}.generator:StableDiffusion3", summary="Stable Diffusion 3 and 3.5")
    registry.add("diffusion.network", "mmdit", f"{SD3}.mmdit:MMDiT", summary="The transformer of Stable Diffusion 3")
    registry.decoder("sd3-vae", f"{SD3}.vae:VAE", summary="The autoencoder of Stable Diffusion 3")
