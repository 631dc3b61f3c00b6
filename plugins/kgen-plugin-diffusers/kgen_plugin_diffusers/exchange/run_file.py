"""The run file that uses the models of a folder of diffusers."""

from __future__ import annotations

import json
import re
from pathlib import Path

from kgen import ConfigError
from kgen.pretrained import Section, require_folder
from kgen_plugin_diffusers.autoencoder import PretrainedAutoencoder
from kgen_plugin_diffusers.exchange.latents import IMAGES
from kgen_plugin_diffusers.exchange.stable_diffusion import unet_latents
from kgen_plugin_diffusers.exchange.transformers import transformer_latents
from kgen_plugin_diffusers.folder import CONFIG, PIPELINE, Folder
from kgen_plugin_diffusers.kl import AutoencoderKL
from kgen_plugin_diffusers.vq import VQModel

DECODERS: dict[str, tuple[str, type[PretrainedAutoencoder], str]] = {
    "AutoencoderKL": ("autoencoder-kl", AutoencoderKL, "{name: diffusion/diffusion, network: {kind: dit, patch: 2}}"),
    "VQModel": ("vq-model", VQModel, "tokens/nar"),
}
"""The decoder for each class of diffusers, and a generator for its latents."""

MIN_LATENT = 8
"""Smallest height and width of the latents in a new run file."""


def run_file(folder: Path) -> str:
    """The text of a run file whose decoder is the autoencoder in a folder.

    If the folder is that of a pipeline whose generator kgen reads, the encoder and the generator are its own, too;
    otherwise they are examples. The data are an example, too.

    Args:
        folder: The folder of a model, or of a pipeline with one.

    Raises:
        ConfigError: the folder holds no autoencoder that kgen reads, or the configuration has something unknown.
    """
    classes = _classes(folder)
    found = next((name for name in classes.values() if name in DECODERS), None)
    if found is None:
        there = ", ".join(classes.values()) or "none"
        raise ConfigError(
            f"{folder} holds no autoencoder, which a run file needs ({there}): give the folder of a whole pipeline, or "
            f"that of {' or '.join(DECODERS)}"
        )
    name, decoder, generator = DECODERS[found]
    model = decoder.architecture_class.read(Folder(str(folder), found, decoder.parts).config())
    factor = model.network.factor
    latents = unet_latents(folder, classes, factor) or transformer_latents(folder, classes, factor)
    if latents is not None:
        title, examples = f"The models of {folder}, a pipeline", "The images are an example"
        rest, size = latents.lines(folder), latents.side * factor
        used, notes, images = latents.used, latents.notes, latents.images
    else:
        title, examples, used, notes = found, "The images, the encoder and the generator are examples", (), ()
        images = IMAGES
        size = max(64, MIN_LATENT * factor)
        rest = f"encoder: text/transformer\ngenerator: {generator}\nfit: {{steps: 10000}}\n"
    others = [f"kgen does not use {part}: {cls}" for part, cls in classes.items() if cls != found and part not in used]
    return (
        f"# {title} of diffusers. {examples}: choose yours.\n"
        + "".join(f"# {line}\n" for line in (*others, *notes))
        + f"name: {_slug(folder.resolve().name)}\n"
        f"data: {{{images}, size: {size}}}\n"
        f"decoder: {{name: diffusers/{name}, pretrained: {json.dumps(str(folder))}}}\n{rest}"
    )


def _classes(folder: Path) -> dict[str, str]:
    """The classes of the models in a folder, by the names of their folders in it; "" for a single model."""
    require_folder(folder)
    if (folder / PIPELINE).is_file():
        entries = Section.of_file(folder / PIPELINE).data.items()
        return {part: str(value[1]) for part, value in entries if isinstance(value, list) and value[1:] and value[1]}
    files = [folder / CONFIG] if (folder / CONFIG).is_file() else sorted(folder.glob(f"*/{CONFIG}"))
    names = ["" if file.parent == folder else file.parent.name for file in files]
    return {name: str(Section.of_file(file).value("_class_name")) for name, file in zip(names, files, strict=True)}


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "run"
