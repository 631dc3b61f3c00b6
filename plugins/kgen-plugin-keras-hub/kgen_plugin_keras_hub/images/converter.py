"""How the images of a preset are prepared: its image converter, of KerasHub or of transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
from kgen_plugin_vision.preprocessing import Colors, Preprocessing

from kgen import ConfigError
from kgen.pretrained import Section
from kgen_plugin_keras_hub.presets import Source

CONVERTER, PROCESSOR = "image_converter.json", "preprocessor_config.json"

FILTERS = {"bilinear": "bilinear", "bicubic": "bicubic", "lanczos3": "lanczos"}
"""The filters of Pillow by KerasHub's names."""


def read_preprocessing(source: Source, size: int, published: Preprocessing) -> Preprocessing:
    """Reads how images of any size become the input of a model.

    Args:
        source: A folder, or a preset of KerasHub.
        size: Height and width of the images of the model.
        published: How the authors of the model prepare images, for presets that do not say it.

    Raises:
        ConfigError: the preset prepares images in another way than by resizing, cropping and normalizing.
    """
    if not isinstance(source, str) and (source / PROCESSOR).is_file():
        found = Preprocessing.of_processor(Section.of_file(source / PROCESSOR), size)
        assert found.short is not None
        return replace(found, short=found.short * size // found.crop, crop=size)
    converter = _converter(source)
    if converter is None:
        return replace(published, short=None if published.short is None else size, crop=size)
    if converter.pad_to_aspect_ratio:
        raise ConfigError(f"preset '{source}': {CONVERTER} pads images, which kgen does not do")
    if converter.interpolation not in FILTERS:
        known = ", ".join(FILTERS)
        raise ConfigError(
            f"preset '{source}': {CONVERTER}: 'interpolation' must be one of {known}, not '{converter.interpolation}'"
        )
    scale = _colors(source, "scale", 1.0 if converter.scale is None else converter.scale)
    offset = _colors(source, "offset", 0.0 if converter.offset is None else converter.offset)
    if 0.0 in scale:
        raise ConfigError(f"preset '{source}': {CONVERTER}: 'scale' must not be 0")
    deviation = tuple(1.0 / (255.0 * number) for number in scale)
    return Preprocessing(
        short=size if converter.crop_to_aspect_ratio else None,
        crop=size,
        filter=FILTERS[converter.interpolation],
        mean=tuple(-shift * spread for shift, spread in zip(offset, deviation, strict=True)),
        deviation=deviation,
    )


def _converter(source: Source) -> Any:
    """KerasHub's image converter of a preset; None: it has none."""
    import keras_hub

    try:
        if isinstance(source, str):
            return keras_hub.layers.ImageConverter.from_preset(source)
        content = json.loads((source / CONVERTER).read_text(encoding="utf-8"))
        return keras_hub.layers.ImageConverter.from_config(content["config"])
    except FileNotFoundError:
        return None
    except Exception as error:  # files of others can be wrong in many ways
        raise ConfigError(f"preset '{source}': {CONVERTER} cannot be read: {type(error).__name__}: {error}") from error


def _colors(source: Source, key: str, value: Any) -> Colors:
    """A number for each of the three colors, of which some presets have only one for all."""
    try:
        red, green, blue = (float(number) for number in np.broadcast_to(np.asarray(value, np.float64), (3,)))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"preset '{source}': {CONVERTER}: '{key}' must be a number, or three, not {value!r:.80}"
        ) from error
    return red, green, blue
