"""How published models prepare images: by Pillow and numpy, without a framework, as for CLIP (Radford et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from keras import ops
from PIL import Image

from kgen.pretrained import Section

Tensor = Any
Colors = tuple[float, float, float]

MEAN: Colors = (0.48145466, 0.4578275, 0.40821073)
DEVIATION: Colors = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of the colors red, green and blue in OpenAI's training images, in 0..1."""

BICUBIC = 3
FILTERS = {1: "lanczos", 2: "bilinear", BICUBIC: "bicubic"}
"""Pillow's numbers of the filters."""


@dataclass(frozen=True)
class Preprocessing:
    """Resizes an image with antialiasing, crops the middle, and normalizes the colors.

    Args:
        short: The shorter side after resizing, in pixels; None: both sides become those of the crop, whatever the
            proportions of the image.
        crop: Height and width of the crop, at most `short`.
        filter: The filter of Pillow.
        mean, deviation: Of each color, in 0..1.
        rounding: How half of the number of pixels outside the crop is rounded, at which the crop begins: "down", as in
            transformers; or "even", to the nearest even number if it ends in .5, as in OpenCLIP.
    """

    short: int | None
    crop: int
    filter: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"
    mean: Colors = MEAN
    deviation: Colors = DEVIATION
    rounding: Literal["down", "even"] = "down"

    @classmethod
    def of_processor(cls, section: Section, size: int) -> Preprocessing:
        """Reads the configuration of an image processor of `transformers` with a crop, such as a CLIPImageProcessor.

        Args:
            section: The configuration.
            size: Height and width of the images of the model, the default of the crop.

        Raises:
            ConfigError: the processor does something else. The message names the file and the key.
        """
        for key in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
            section.one_of(key, {True: None}, True)
        for key in ("do_pad", "default_to_square"):
            section.one_of(key, {False: None, None: None}, None)
        section.one_of("rescale_factor", {1 / 255: None}, 1 / 255)
        short = section.side("size", ("shortest_edge",), size)
        crop = section.side("crop_size", ("height", "width"), size)
        if short < crop:
            section.refuse("size", f"must be at least the crop_size {crop}, but is {short}")
        found = cls(
            short=short,
            crop=crop,
            filter=section.one_of("resample", FILTERS, BICUBIC),
            mean=section.colors("image_mean", MEAN),
            deviation=section.colors("image_std", DEVIATION),
        )
        section.ignore(
            "do_convert_rgb", "feature_extractor_type", "image_processor_type", "processor_class", "pad_size"
        )
        section.ignore("data_format", "device", "disable_grouping", "image_seq_length", "input_data_format")
        section.ignore("return_tensors", "_valid_processor_keys", "_processor_class", "_valid_kwargs_names")
        section.finish()
        return found

    def cropped(self, image: np.ndarray) -> np.ndarray:
        """Resizes and crops an image: uint8 (height, width, 1 or 3) -> uint8 (crop, crop, 3)."""
        height, width = image.shape[:2]
        size = [
            self.crop if self.short is None else self.short * side // min(height, width) for side in (height, width)
        ]
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
        if self.short is None:
            return f"Pillow {self.filter}, resized to {self.crop}x{self.crop}"
        return f"Pillow {self.filter}, shorter side to {self.short}, crop of {self.crop} ({self.rounding})"
