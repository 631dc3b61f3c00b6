"""Features of DINOv2, whose Fréchet distance is FD-DINOv2: the network is KerasHub's."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from kgen import ConfigError, PluginError
from kgen.backend.compiled import Compiled
from kgen_plugin_metrics.features.contract import BATCH, BICUBIC, described, hash_of_weights, resized

SIZE = 224
"""Height and width of the network's input (Stein et al. 2023)."""

MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32) * 255

OFFSET = 0.1
"""Added to the number of patches before positions are interpolated: `interpolate_offset` in DINOv2's code."""

CUBIC = -0.75
"""The coefficient of PyTorch's cubic filter, with which DINOv2 interpolates positions: "a" in Keys 1981."""


class DINOv2:
    """The normalized class token of DINOv2 (Oquab et al. 2023). See `Features`.

    It follows dgm-eval, the code of Stein et al. 2023, *Exposing flaws of generative model evaluation metrics and their
    unfair treatment of diffusion models*: Pillow's bicubic filter to 224 x 224 pixels, and positions that are
    interpolated as in DINOv2's own code. KerasHub and transformers interpolate them a little differently.

    Args:
        preset: A folder with weights in KerasHub's or Hugging Face's format, or the name of a preset of KerasHub, which
            is downloaded. FD-DINOv2 is defined for "dinov2_large", whose features have 1024 dimensions.
    """

    name: str

    def __init__(self, *, preset: str = "dinov2_large") -> None:
        self.preset = preset
        self.name = f"dinov2-{Path(preset).name.removeprefix('dinov2_')}"

    @property
    def dim(self) -> int:
        return int(self._network.hidden_dim)

    @functools.cached_property
    def weights_hash(self) -> str:
        computed = self._network.embeddings.interpolated_position_embeddings
        return hash_of_weights(weight for weight in self._network.weights if weight is not computed)

    @property
    def protocol(self) -> Mapping[str, str]:
        scaling = "mean and deviation of ImageNet's colors"
        return described("dinov2", self.weights_hash, BICUBIC.format(SIZE), scaling)

    def __call__(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        return {"features": self._program.run(resized(images, SIZE), len(images), BATCH)}

    @functools.cached_property
    def _network(self) -> Any:
        return _load(self.preset)

    @functools.cached_property
    def _program(self) -> Compiled:
        network = self._network

        def class_token(pixels: Any) -> Any:
            centered = ops.cast(pixels, "float32") - ops.convert_to_tensor(MEAN)  # (B, 224, 224, 3)
            return network({"images": centered / ops.convert_to_tensor(DEVIATION)}, training=False)[:, 0]  # (B, D)

        return Compiled(class_token, [network])


def interpolated(positions: np.ndarray, size: int) -> np.ndarray:
    """Interpolates the embeddings of positions, as DINOv2's `interpolate_pos_encoding` does.

    Args:
        positions: (1 + M * M, D), of the class token and of M x M patches, row by row.
        size: Number of rows, and of columns, of patches in the new images.

    Returns:
        (1 + size * size, D), float32.
    """
    count = round(np.sqrt(len(positions) - 1))
    if count == size:
        return positions
    weights = _cubic(count, size)
    grid = positions[1:].reshape(count, count, -1)
    grid = np.einsum("im,mnd,jn->ijd", weights, grid, weights, optimize=True)  # (size, size, D)
    return np.concatenate([positions[:1], grid.reshape(size * size, -1)]).astype(np.float32)


def _cubic(count: int, size: int) -> np.ndarray:
    """The weights (size, count) of `count` points at `size` others; points past the border repeat the border's."""
    places = (np.arange(size) + 0.5) * count / (size + OFFSET) - 0.5  # (size,)
    points = np.floor(places)[:, None].astype(int) + np.arange(-1, 3)  # (size, 4)
    away = np.abs(places[:, None] - points)
    near = (CUBIC + 2) * away**3 - (CUBIC + 3) * away**2 + 1
    far = CUBIC * (away**3 - 5 * away**2 + 8 * away - 4)
    weights = np.zeros((size, count))
    np.add.at(weights, (np.arange(size)[:, None], points.clip(0, count - 1)), np.where(away <= 1, near, far))
    return weights


def _load(preset: str) -> Any:
    """The network of a preset, for images of `SIZE`, in float32."""
    try:
        from keras_hub.models import DINOV2Backbone
    except ImportError as error:
        raise PluginError(
            f"features 'dinov2' need KerasHub, which cannot be imported ({error}): pip install "
            "'kgen-plugin-metrics[keras-hub]'"
        ) from error
    folder = Path(preset).expanduser()
    if not folder.is_dir() and "://" not in preset and preset not in DINOV2Backbone.presets:
        near = ", ".join(difflib.get_close_matches(preset, DINOV2Backbone.presets, n=3) or DINOV2Backbone.presets)
        raise ConfigError(f"features 'dinov2': preset '{preset}' is neither a folder nor a preset of KerasHub: {near}")
    source = str(folder) if folder.is_dir() else preset
    try:
        network = DINOV2Backbone.from_preset(source, image_shape=(SIZE, SIZE, 3), dtype="float32")
    except Exception as error:  # a damaged folder, another network, or a failed download has one of many errors
        raise ConfigError(
            f"features 'dinov2': preset '{preset}' cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if network.num_register_tokens:
        raise ConfigError(f"features 'dinov2': preset '{preset}' has registers, but FD-DINOv2 is defined without them")
    layer = network.embeddings
    positions = ops.convert_to_numpy(layer.position_embeddings)[0]  # (1 + M * M, D)
    layer.interpolated_position_embeddings.assign(interpolated(positions, SIZE // network.patch_size)[None])
    return network
