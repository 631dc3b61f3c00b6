"""Clipping images to their range."""

from __future__ import annotations

from typing import Any

from keras import ops

Tensor = Any


def threshold_dynamically(image: Tensor, quantile: float) -> Tensor:
    """Dynamic thresholding (Saharia et al. 2022, section 2.3), for images in [-1, 1].

    It clips each image to a quantile of its absolute values, which is at least 1, and divides the image by it.

    Args:
        image: (B, ...).
        quantile: The quantile, in [0, 1].

    Returns:
        An array of the shape of `image`, in [-1, 1].
    """
    axes = tuple(range(1, len(image.shape)))
    flat = ops.reshape(ops.abs(image), (ops.shape(image)[0], -1))
    limit = ops.maximum(ops.quantile(flat, quantile, axis=1), 1.0)
    limit = ops.reshape(limit, (-1,) + (1,) * len(axes))
    return ops.clip(image, -limit, limit) / limit
