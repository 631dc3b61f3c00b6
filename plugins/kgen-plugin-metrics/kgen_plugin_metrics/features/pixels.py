"""Uses the pixels of a small version of the image as its features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from pydantic import Field

from kgen_plugin_metrics.features.contract import described


class Pixels:
    """The mean colors, from 0 to 1, of `size` x `size` equal boxes. See `Features`.

    There is no network, so images that look alike to people may be far from each other. These features suit tests, and
    simple images such as digits.

    Args:
        size: Number of boxes in each direction.
    """

    name: str
    dim: int
    weights_hash = ""

    def __init__(self, *, size: Annotated[int, Field(ge=1, le=64)] = 8) -> None:
        self.size = size
        self.name = f"pixels-{size}"
        self.dim = 3 * size * size

    @property
    def protocol(self) -> Mapping[str, str]:
        return described(self.name, "", f"means of {self.size}x{self.size} boxes", "x / 255")

    def __call__(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        rows, columns = (_boxes(length, self.size) for length in images.shape[1:3])
        small = np.einsum("ih,bhwc,jw->bijc", rows, images / 255, columns, optimize=True)  # (B, size, size, 3)
        return {"features": small.reshape(len(images), -1).astype(np.float32)}


def _boxes(length: int, size: int) -> np.ndarray:
    """The shares (size, length) of pixels in the means of equal boxes."""
    edges = np.linspace(0, length, size + 1)
    starts = np.arange(length)
    ends = np.minimum(edges[1:, None], starts + 1)
    overlaps = np.clip(ends - np.maximum(edges[:-1, None], starts), 0, None)
    return np.asarray(overlaps / overlaps.sum(1, keepdims=True))
