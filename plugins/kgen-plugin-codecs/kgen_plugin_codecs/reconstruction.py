"""The distance of a reconstruction from its image, in pixels."""

from __future__ import annotations

import math
from typing import Any, Literal

from keras import ops

Tensor = Any
Name = Literal["l1", "l2", "logistic"]


def reconstruction_loss(name: Name, images: Tensor, made: Tensor) -> Tensor:
    """Returns the distance between images and their reconstructions, per example.

    "l1": the mean absolute difference. "l2": the mean squared difference. "logistic": the negative log-likelihood, in
    nats per dimension, of a logistic distribution around `made`. Its scale is fitted to each image: the mean absolute
    difference over 2 log 2, which is the relation for a logistic variable. The logarithm rewards improvements of images
    that are already good.

    Args:
        images, made: Images and reconstructions, (B, H, W, C) in [-1, 1].

    Returns:
        (B,).
    """
    error = ops.abs(images - made)
    if name == "l1":
        return ops.mean(error, axis=(1, 2, 3))
    if name == "l2":
        return ops.mean(ops.square(error), axis=(1, 2, 3))
    scale = ops.mean(error, axis=(1, 2, 3), keepdims=True) / (2.0 * math.log(2.0)) + 1e-3
    z = error / scale
    return ops.mean(z + 2.0 * ops.softplus(-z) + ops.log(scale), axis=(1, 2, 3))
