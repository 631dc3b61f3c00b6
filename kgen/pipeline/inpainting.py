"""The image that a generator starts from, and the mask of the part that changes, on the grid of the latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kgen.contracts.capabilities import Capability, option_of
from kgen.contracts.generator import Generator
from kgen.errors import ConfigError
from kgen.spaces import Space

WHITE = 128
"""The lowest gray level, from 0 to 255, that counts as white."""


def downsample_mask(mask: np.ndarray, image_space: Space, latent_space: Space) -> np.ndarray:
    """Converts a mask to the grid of the latents: a cell is True if any of its pixels is white.

    Args:
        mask: uint8 (height, width), or (height, width, 1).
        image_space: The space of the images.
        latent_space: The space of the latents.

    Returns:
        bool, latent_space.shape[:2].

    Raises:
        ConfigError: the mask does not have the size of the images, or is black; or the latents do not divide the
            images into a grid of cells.
    """
    size, grid = image_space.shape[:2], latent_space.shape[:2]
    if mask.dtype != np.uint8 or mask.shape not in (size, (*size, 1)):
        raise ConfigError(f"the mask must be uint8 {size}, not {mask.dtype} {mask.shape}")
    if len(grid) < 2 or any(pixels % cells for pixels, cells in zip(size, grid, strict=True)):
        raise ConfigError(
            f"a mask needs latents that divide an image into cells, but of {size[0]}x{size[1]} pixels they are "
            f"{latent_space}"
        )
    (height, width), (rows, columns) = size, grid
    cells = (mask.reshape(size) >= WHITE).reshape(rows, height // rows, columns, width // columns)
    edit_mask = np.asarray(cells.any(axis=(1, 3)))  # (h, w)
    if not edit_mask.any():
        raise ConfigError("the mask has nothing white, so that nothing would change")
    return edit_mask


def source_inputs(
    image: np.ndarray | None, mask: np.ndarray | None, image_space: Space, latent_space: Space, count: int
) -> dict[str, np.ndarray]:
    """The inputs of the generator for an image to start from: "image" (count, H, W, C) and "edit_mask" (count, h, w).

    Args:
        image, mask, image_space, latent_space: See `check_source` and `downsample_mask`. Inputs that are None are
            left out.
        count: Number of images to generate.
    """
    inputs = {} if image is None else {"image": image}
    if mask is not None:
        inputs["edit_mask"] = downsample_mask(mask, image_space, latent_space)
    return {name: np.repeat(array[None], count, axis=0) for name, array in inputs.items()}


def check_source(
    generator: Generator, image_space: Space, image: Any, mask: np.ndarray | None, options: Mapping[str, Any]
) -> None:
    """Checks the image that a generator starts from, and the mask of the part that changes.

    Args:
        generator: The generator.
        image_space: The space of the images.
        image: uint8, of the shape of `image_space`; None: there is no such image.
        mask: See `downsample_mask`; None: the whole image changes.
        options: The options of the generator's `generate`.

    Raises:
        ConfigError: the image has another shape or type, the generator does not support images or masks, or the
            strength has no effect.
    """
    name, expected = type(generator).__name__, image_space.shape
    strength = option_of(type(generator).generate, Capability.STRENGTH)
    if image is None:
        if mask is not None:
            raise ConfigError("a mask needs an image to start from, but there is none")
        if strength in options:
            raise ConfigError(f"'{strength}' needs an image to start from, but {name} gets none")
    elif not generator.supports_img2img:
        raise ConfigError(f"{name} cannot start from an image: leave it out")
    elif not isinstance(image, np.ndarray) or image.shape != expected or image.dtype != np.uint8:
        image = np.asarray(image)
        raise ConfigError(f"the image to start from must be uint8 {expected}, not {image.dtype} {image.shape}")
    elif mask is not None:
        if not generator.supports_inpainting:
            raise ConfigError(f"{name} changes an image as a whole: leave the mask out")
        if strength in options:
            raise ConfigError(f"'{strength}' has no effect with a mask, whose white part is generated completely")
