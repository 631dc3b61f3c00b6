"""The encoder and the generator of a run file for a pipeline with a transformer: DiT or PixArt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kgen import ConfigError
from kgen.pretrained import Section
from kgen_plugin_diffusers.exchange.latents import FIT_TEXT, Latents
from kgen_plugin_diffusers.folder import PIPELINE, Folder
from kgen_plugin_diffusers.transformer.architecture import EARLIER, PixArtArchitecture
from kgen_plugin_diffusers.transformer.options import FACTOR, DiTLayer, PixArtLayer, TransformerLayer

TEXT, TEXT_CLASS = "text_encoder", "T5EncoderModel"
"""The name and the class of PixArt's text encoder."""

LENGTHS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}
"""Number of tokens per text in each of PixArt's pipelines."""

CLASS_IMAGES = "name: imagefolder, path: images, captions_from: folders"
"""A dataset with labels, which the openmoji do not have."""

FIT_ALL = """fit:
  steps: 1000
  batch_size: 4
  learning_rate: 1.0e-5
"""


def transformer_latents(folder: Path, classes: Mapping[str, str], factor: int) -> Latents | None:
    """What makes the latents of a pipeline with DiT or PixArt; None if it has no such model, or no schedule.

    Args:
        folder: The folder of the pipeline.
        classes: The class of each part of the pipeline, by its name.
        factor: Height and width of an image over those of its latent.

    Raises:
        ConfigError: kgen does not have the model, or its text encoder. The message names the file and the key.
    """
    part = next((part for part in TransformerLayer.parts if part in classes), "")
    if "scheduler" not in classes or not (layer := _layer(folder, classes.get(part, ""))):
        return None
    published = Folder(str(folder), layer.model_class, layer.parts, earlier=layer.earlier_classes)
    side = published.config().whole("sample_size")
    if layer is DiTLayer:
        return Latents(
            used=(part, "scheduler"),
            side=side,
            encoder={"name": "diffusers/class-label", "pretrained": str(folder)},
            network={"kind": "diffusers/dit-transformer-2d", "pretrained": str(folder)},
            fit=FIT_ALL,
            images=CLASS_IMAGES,
            notes=("'images' has a folder for each class, whose name is that of a class of the model, or its number.",),
        )
    if (found := classes.get(TEXT)) != TEXT_CLASS:
        raise ConfigError(
            f"{folder}: kgen reads a PixArt whose '{TEXT}' is a {TEXT_CLASS}, and not {found or 'missing'}: import its "
            "autoencoder alone, from the folder 'vae'"
        )
    model = PixArtArchitecture.read(published.config())
    length = Section.of_file(folder / PIPELINE).one_of("_class_name", LENGTHS)
    network: dict[str, Any] = {"kind": "diffusers/pixart-transformer-2d", "pretrained": str(folder)}
    if model.sizes and factor != FACTOR:
        network["factor"] = factor
    return Latents(
        used=(part, "scheduler", TEXT, "tokenizer"),
        side=side,
        encoder={"name": "keras-hub/t5", "preset": str(folder / TEXT), "length": length},
        network=network,
        fit=FIT_TEXT,
        notes=("The encoder is that of kgen-plugin-keras-hub.",),
    )


def _layer(folder: Path, cls: str) -> type[TransformerLayer] | None:
    """The layer of a class of diffusers. The configuration tells which model an earlier class is."""
    layers: dict[str, type[TransformerLayer]] = {DiTLayer.model_class: DiTLayer, PixArtLayer.model_class: PixArtLayer}
    if cls != EARLIER:
        return layers.get(cls)
    config = Folder(str(folder), EARLIER, TransformerLayer.parts).config()
    return config.one_of("norm_type", {"ada_norm_zero": DiTLayer, "ada_norm_single": PixArtLayer})
