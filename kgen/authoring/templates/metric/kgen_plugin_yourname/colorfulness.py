"""The metric: how colorful images are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from kgen import GeneratedImages, Metric
from pydantic import Field


class Colorfulness(Metric):
    """The colorfulness of images, on average (Hasler and Suesstrunk 2003, "Measuring colourfulness in natural images").

    It is 0 for gray images; photos lie between 0 (not colorful) and about 110 (extremely colorful). It is computed from
    the opponent colors of the pixels of each image. "colorful share" is the share of images above a threshold.

    Args:
        threshold: The colorfulness above which an image counts as colorful. In the paper, 15 is "slightly colorful".
    """

    reads_prompts = False
    any_shape = True
    headline = "mean"

    def __init__(self, *, threshold: Annotated[float, Field(ge=0)] = 15.0) -> None:
        self.threshold = threshold

    def update(self, batch: GeneratedImages) -> None:
        values = colorfulness(batch.images)  # (B,)
        self.add(total=values.sum(), colorful=(values > self.threshold).sum(), count=len(values))

    def compute(self) -> Mapping[str, float]:
        count = self.sums["count"]
        return {"mean": float(self.sums["total"] / count), "colorful share": float(self.sums["colorful"] / count)}


def colorfulness(images: np.ndarray) -> np.ndarray:
    """The colorfulness of each image.

    With the opponent colors rg = R - G and yb = (R + G) / 2 - B of all pixels, it is the length of their standard
    deviations plus 0.3 times the length of their means.

    Args:
        images: uint8 (B, height, width, channels). Images of one channel are gray.

    Returns:
        (B,) float64.
    """
    pixels = images.reshape(len(images), -1, images.shape[-1]).astype(np.float64)  # (B, H * W, C)
    if pixels.shape[-1] == 1:
        return np.zeros(len(images))
    red, green, blue = (pixels[..., channel] for channel in range(3))
    opponents = np.stack([red - green, (red + green) / 2.0 - blue])  # (2, B, H * W)
    deviations, means = opponents.std(axis=-1), opponents.mean(axis=-1)  # (2, B)
    lengths: np.ndarray = np.linalg.norm(deviations, axis=0) + 0.3 * np.linalg.norm(means, axis=0)
    return lengths
