"""How far a reconstruction is from its image."""

from __future__ import annotations

import math
from typing import Any, Literal

from keras import ops

Tensor = Any
Name = Literal["l1", "l2", "logistic"]


def reconstruction_loss(name: Name, images: Tensor, made: Tensor) -> Tensor:
    """The distance of images from what was made of them, of every example.

    "l1": the mean absolute difference; "l2": the mean squared difference; "logistic": the negative log-likelihood in
    nats a number, of a logistic distribution around `made` whose scale is the best for each image (its mean absolute
    difference over 2 log 2, as a logistic variable's is): the logarithm makes good images better still.

    Args:
        images, made: (B, H, W, C) in [-1, 1].

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
