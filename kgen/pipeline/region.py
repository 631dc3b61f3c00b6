"""What part of a picture is to be drawn anew, from the picture's grid to its latents'."""

from __future__ import annotations

import numpy as np

from kgen.errors import ConfigError
from kgen.spaces import Space

WHITE = 128
"""The least level, of 0 to 255, that is white."""


def latent_region(mask: np.ndarray, image_space: Space, latent_space: Space) -> np.ndarray:
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
            f"a mask needs latents that divide a picture into cells, but of {size[0]}x{size[1]} pixels they are "
            f"{latent_space}"
        )
    (height, width), (rows, columns) = size, grid
    cells = (mask.reshape(size) >= WHITE).reshape(rows, height // rows, columns, width // columns)
    region = np.asarray(cells.any(axis=(1, 3)))  # (h, w)
    if not region.any():
        raise ConfigError("the mask has nothing white, which is what would be drawn anew")
    return region
