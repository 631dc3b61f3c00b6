"""Generates the images of a request, and writes them as PNG files with their prompts, seeds and options."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kgen.config import decoding_options, sampling_options
from kgen.contracts.capabilities import Capability, option_of
from kgen.contracts.generator import Generator
from kgen.contracts.inputs import input_key
from kgen.data.images import read_image
from kgen.errors import ConfigError
from kgen.generation.models import ModelCache
from kgen.generation.output import Output
from kgen.generation.request import ImageRequest
from kgen.pipeline.prompts import parse_prompts
from kgen.plugins.faults import component_errors
from kgen.previews import Listener, watch_steps
from kgen.random import noise_keys, spherical


@component_errors()
def write_images(
    request: ImageRequest, models: ModelCache | None = None, on_step: Listener | None = None
) -> list[Path]:
    """Generates images and writes them, exactly as `kgen generate` does.

    Args:
        request: The arguments of `kgen generate`.
        models: Keeps the loaded models for further calls; None: the model is loaded for this call only.
        on_step: Receives the images of each sampling step, uint8 (N, H, W, C): see `kgen.watch_steps`. These are
            generated apart, before the files, so that the files stay the same. A blend shows nothing.

    Returns:
        The files: one per image, or a single one with a grid.

    Raises:
        KgenError: an argument is wrong, or the run cannot do this; the message says why.
    """
    output = request.check()
    models = models or ModelCache()
    return _between(request, output, models) if request.blend else _from_prompts(request, output, models, on_step)


def _from_prompts(request: ImageRequest, output: Output, models: ModelCache, on_step: Listener | None) -> list[Path]:
    prompts, number, seed = request.prompts, request.number, request.seed
    pipeline = models.pipeline(request.run, request.lora_files)
    options = sampling_options(request.settings, type(pipeline.generator), type(pipeline.decoder))
    height, width, channels = pipeline.decoder.image_space.shape
    shape = request.pixels or (height, width)
    source = _source(request.images[0], request.mask, shape, channels) if request.images else {}
    source |= {"size": request.pixels, **_strength(request.strength, pipeline.generator)}
    inputs = parse_prompts(pipeline.encoder, prompts)
    given = {"n": number, "seed": seed, "shared_noise": request.shared_noise, **source, **options}
    if on_step is not None:
        with watch_steps(on_step):
            pipeline.generate(inputs, **given)
    images = pipeline.generate(inputs, **given)
    keys = [input_key(prompt) for prompt in inputs]
    copies = [copy for _, copy, *_ in noise_keys(keys, [seed] * len(prompts), number, request.shared_noise)]
    return output.write(images, copies, number if number > 1 else 0, _facts(request, options), request.scale)


def _facts(request: ImageRequest, options: dict[str, Any]) -> dict[str, str]:
    """The metadata of images that are generated from prompts, besides the prompt."""
    facts = {"seed": str(request.seed), "model": request.run.resolve().name, "options": json.dumps(options)}
    given = {"shared_noise": "true" if request.shared_noise else None, "size": request.size, "scale": request.scale}
    given["mask"] = None if request.mask is None else str(request.mask)
    given["lora"] = "; ".join(f"{file}:{share:g}" for file, share in request.lora_files) or None
    facts |= {name: str(value) for name, value in given.items() if value is not None}
    strength = "" if request.strength is None else str(request.strength)
    return facts | ({"image": str(request.images[0]), "strength": strength} if request.images else {})


def _between(request: ImageRequest, output: Output, models: ModelCache) -> list[Path]:
    """Generates images between two images, with `number` noises, each of which all positions share."""
    model = models.variations(request.run)
    options = decoding_options(_of_decoder(request.settings), type(model.decoder), section="decoder")
    height, width, channels = model.decoder.image_space.shape
    pixels = np.stack([read_image(image, channels, (height, width)) for image in request.images])
    one, other = model.embed_images(pixels)
    between = spherical(one[None], other[None], np.array(request.blend))
    prompt = next(iter(parse_prompts(model.encoder, request.prompts)), None)
    made = model.decode(between, n=request.number, prompt=prompt, seed=request.seed, options=options)  # (N, n, H, W, C)
    facts = {
        "seed": str(request.seed),
        "model": request.run.resolve().name,
        "options": json.dumps({"decoder": options}),
    }
    facts |= {"prompt": request.prompts[0]} if request.prompts else {}
    facts |= {"image": "; ".join(map(str, request.images))}
    facts |= {} if request.scale is None else {"scale": str(request.scale)}
    copies = [copy for copy in range(request.number) for _ in request.blend]
    images = made.swapaxes(0, 1).reshape(-1, *made.shape[2:])
    return output.write(images, copies, len(request.blend), facts, request.scale)


def _of_decoder(settings: Sequence[str]) -> Sequence[str]:
    """The settings, "decoder.KEY=VALUE". Raises ConfigError for one that is not of the decoder."""
    for setting in settings:
        if not setting.startswith("decoder."):
            raise ConfigError(
                f"--set {setting}: has no effect with --blend, which uses no generator: set options of the decoder, "
                "such as decoder.steps=20"
            )
    return settings


def _strength(given: float | None, generator: Generator) -> dict[str, float]:
    """The option of `generate` that controls how much an image changes."""
    if given is None:
        return {}
    option = option_of(type(generator).generate, Capability.STRENGTH)
    if option is None:
        raise ConfigError(f"--strength: {type(generator).__name__} cannot start from an image: leave out --image")
    return {option: given}


def _source(image: Path, mask: Path | None, shape: tuple[int, int], channels: int) -> dict[str, Any]:
    """The arguments of `Pipeline.generate` for an image to start from; the mask is cropped in the same way."""
    given: dict[str, Any] = {}
    if mask is not None:
        (height, width), (rows, columns) = (read_image(path, 1).shape[:2] for path in (image, mask))
        if (height, width) != (rows, columns):
            raise ConfigError(f"--mask {mask}: must have the size of {image}, {width}x{height}, not {columns}x{rows}")
        given["mask"] = read_image(mask, 1, shape)
    return {"image": read_image(image, channels, shape), **given}
