"""Enlarges images of any size, with a decoder that was trained on images of one size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kgen.contracts.decoder import Decoder
from kgen.contracts.encoder import Encoder
from kgen.errors import ConfigError
from kgen.parts.construction import make_decoder
from kgen.pipeline.sampler import validate_options
from kgen.pipeline.stage_models import Reconstructor
from kgen.plugins.discovery import component_id
from kgen.spaces import Space


def upscale(
    decoder: Decoder,
    encoder: Encoder,
    image: np.ndarray,
    prompt: Any = "",
    *,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Enlarges an image by decoding it as a latent.

    Args:
        decoder: A decoder whose latents are small images.
        encoder: The encoder of the prompt, for a decoder that reads it.
        image: uint8 (h, w, C).
        prompt: An input of the encoder, for a decoder that reads it; "" stands for the null input.
        seed: The seed of the decoder's noise.
        options: Options of `decode`.

    Returns:
        uint8 (h * factor, w * factor, C).

    Raises:
        ConfigError: the decoder's latents are not images, or an option is unknown.
        SpaceError: the decoder does not support images of this size.
    """
    if not decoder.latent_is_image:
        raise ConfigError(
            f"decoder '{component_id(decoder)}' decodes latents, not small images: "
            "give a run with a super-resolution decoder"
        )
    small = image.astype(np.float32) / 127.5 - 1.0
    checked = validate_options(decoder, "decode", options or {})
    fitting = _for_latents_of(decoder, encoder, image.shape)
    prompt = encoder.null if isinstance(prompt, str) and prompt == "" else prompt
    made = Reconstructor(fitting, encoder, checked).decode(small[None], [prompt], [(seed, 0)])  # (1, H, W, C)
    return np.asarray(made[0])


def _for_latents_of(decoder: Decoder, encoder: Encoder, shape: tuple[int, ...]) -> Decoder:
    """The decoder for small images of another size, with the same weights, which do not depend on the size."""
    if decoder.latent_space.shape == shape:
        return decoder
    factor = decoder.image_space.shape[0] // decoder.latent_space.shape[0]
    large = Space("continuous", (shape[0] * factor, shape[1] * factor, shape[2]))
    choice = {"name": component_id(decoder), **decoder.config}
    made = make_decoder(choice, large, encoder.condition_space, encoder)
    made.build(None)
    made.built = True
    for new, trained in zip(made.inference_weights, decoder.inference_weights, strict=True):
        new.assign(trained)
    return made
