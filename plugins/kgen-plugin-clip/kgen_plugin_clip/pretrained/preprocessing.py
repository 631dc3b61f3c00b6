"""How CLIP prepares images: by Pillow and numpy, without a framework (Radford et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from keras import ops
from PIL import Image

Tensor = Any
Colors = tuple[float, float, float]

MEAN: Colors = (0.48145466, 0.4578275, 0.40821073)
DEVIATION: Colors = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of the colors red, green and blue in OpenAI's training images, in 0..1."""


@dataclass(frozen=True)
class Preprocessing:
    """Resizes the shorter side of an image with antialiasing, crops the middle, and normalizes the colors.

    Args:
        short: The shorter side after resizing, in pixels.
        crop: Height and width of the crop, at most `short`.
        filter: The filter of Pillow.
        mean, deviation: Of each color, in 0..1.
        rounding: How half of the number of pixels outside the crop is rounded, at which the crop begins: "down", as in
            transformers; or "even", to the nearest even number if it ends in .5, as in OpenCLIP.
    """

    short: int
    crop: int
    filter: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"
    mean: Colors = MEAN
    deviation: Colors = DEVIATION
    rounding: Literal["down", "even"] = "down"

    def cropped(self, image: np.ndarray) -> np.ndarray:
        """Resizes and crops an image: uint8 (height, width, 1 or 3) -> uint8 (crop, crop, 3)."""
        height, width = image.shape[:2]
        size = [self.short * side // min(height, width) for side in (height, width)]
        colors = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
        resized = Image.fromarray(colors).resize((size[1], size[0]), Image.Resampling[self.filter.upper()])
        top, left = (self._first(side - self.crop) for side in size)
        return np.asarray(resized)[top : top + self.crop, left : left + self.crop]

    def _first(self, left_out: int) -> int:
        return left_out // 2 if self.rounding == "down" else round(left_out / 2)

    def normalized(self, images: Tensor) -> Tensor:
        """Normalizes the colors of a batch that has been resized and cropped: (B, H, W, 3) in [-1, 1] -> float32."""
        mean, deviation = (np.asarray(colors, np.float32) for colors in (self.mean, self.deviation))
        scaled = (ops.cast(images, "float32") + 1.0) / 2.0
        return (scaled - ops.convert_to_tensor(mean)) / ops.convert_to_tensor(deviation)

    def __str__(self) -> str:
        return f"Pillow {self.filter}, shorter side to {self.short}, crop of {self.crop} ({self.rounding})"
