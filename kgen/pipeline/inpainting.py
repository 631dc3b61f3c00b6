"""The image to start from, and the part of it that is drawn anew: from the image's grid to that of its latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kgen.contracts.generator import Generator
from kgen.errors import ConfigError
from kgen.spaces import Space

WHITE = 128
"""The least level, of 0 to 255, that is white."""


def downsample_mask(mask: np.ndarray, image_space: Space, latent_space: Space) -> np.ndarray:
    """Which cells of a latent's grid have something white of a mask.

    Args:
        mask: uint8 (height, width), or (height, width, 1).

    Returns:
        bool, latent_space.shape[:2].

    Raises:
        ConfigError: the mask is not of the images' size, or all black; the latents are no grid of cells of the images.
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
        raise ConfigError("the mask has nothing white, which is what would be drawn anew")
    return edit_mask


def check_source(
    generator: Generator, image_space: Space, image: Any, mask: np.ndarray | None, options: Mapping[str, Any]
) -> None:
    """Checks the image that a generator is to start from, and the mask of what is drawn anew.

    Args:
        image: uint8, of the shape of `image_space`; None: nothing to start from.
        mask: As for `downsample_mask`; None: the whole image changes.
        options: Of the generator's `generate`.

    Raises:
        ConfigError: the image has another shape or type, the generator cannot do that, or `strength` has no effect.
    """
    name, expected = type(generator).__name__, image_space.shape
    if image is None:
        if mask is not None:
            raise ConfigError("a mask is of an image to start from, but there is none")
        if "strength" in options and generator.supports_img2img:
            raise ConfigError(f"'strength' is of an image to start from, but {name} is given none")
    elif not generator.supports_img2img:
        raise ConfigError(f"{name} starts from no image: leave it out")
    elif not isinstance(image, np.ndarray) or image.shape != expected or image.dtype != np.uint8:
        image = np.asarray(image)
        raise ConfigError(f"the image to start from must be uint8 {expected}, not {image.dtype} {image.shape}")
    elif mask is not None:
        if not generator.supports_inpainting:
            raise ConfigError(f"{name} changes an image as a whole: leave the mask out")
        if "strength" in options:
            raise ConfigError("'strength' is of an image as a whole: a mask's white is all drawn anew")
