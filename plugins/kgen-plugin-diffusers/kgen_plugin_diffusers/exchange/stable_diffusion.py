"""The encoder and the generator of a run file for a pipeline with a U-Net: Stable Diffusion 1, 2 or XL."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kgen import ConfigError
from kgen_plugin_diffusers.exchange.latents import FIT_TEXT, Latents
from kgen_plugin_diffusers.folder import Folder
from kgen_plugin_diffusers.unet.architecture import Architecture
from kgen_plugin_diffusers.unet.options import FACTOR, UNetLayer

TEXTS = {"CLIPTextModel", "CLIPTextModelWithProjection"}
"""The classes of the text encoders that kgen reads."""


def unet_latents(folder: Path, classes: Mapping[str, str], factor: int) -> Latents | None:
    """What makes the latents of a pipeline with a U-Net; None if it has none, or not its schedule and text encoders.

    Args:
        folder: The folder of the pipeline.
        classes: The class of each part of the pipeline, by its name.
        factor: Height and width of an image over those of its latent.

    Raises:
        ConfigError: kgen does not have the model. The message names the file and the key.
    """
    texts = sorted(part for part, cls in classes.items() if cls in TEXTS)
    unet = next((part for part in UNetLayer.parts if classes.get(part) == UNetLayer.model_class), None)
    if unet is None or not texts or "scheduler" not in classes:
        return None
    published = Folder(str(folder), UNetLayer.model_class, UNetLayer.parts)
    model = Architecture.read(published.config())
    if (len(texts) > 1) != (model.added is not None):
        raise ConfigError(f"{folder}: kgen does not know a U-Net of this kind with {len(texts)} text encoders")
    own = {} if model.added is None else {"skip": 1, "norm": False}
    encoders = [{"name": "clip/text", "pretrained": str(folder / text), **own} for text in texts]
    network: dict[str, Any] = {"kind": "diffusers/unet-2d-condition", "pretrained": str(folder)}
    if model.added is not None and factor != FACTOR:
        network["factor"] = factor
    return Latents(
        used=(unet, "scheduler", *texts, *(text.replace("text_encoder", "tokenizer") for text in texts)),
        side=published.config().whole("sample_size"),
        encoder=encoders[0] if len(encoders) == 1 else {"join": "width", "encoders": encoders},
        network=network,
        fit=FIT_TEXT,
    )
