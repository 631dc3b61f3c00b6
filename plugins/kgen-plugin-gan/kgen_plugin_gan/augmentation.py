"""DiffAugment (Zhao et al. 2020): differentiable augmentation of the discriminator's real and generated images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import ops

from kgen import SeedGenerator
from kgen.random import per_example

Tensor = Any

Policy = Literal["color", "translation", "cutout"]

SHIFT = 0.125
"""Largest translation, as a share of the image's height and width."""

HOLE = 0.5
"""Height and width of the rectangle that "cutout" makes gray, as a share of the image's."""


def augment(images: Tensor, policies: Sequence[Policy], seed: SeedGenerator) -> Tensor:
    """Augments each image (B, H, W, C) with its own random numbers; gradients pass through."""
    for policy in policies:
        images = _POLICIES[policy](images, seed)
    return images


def _uniform(images: Tensor, seed: SeedGenerator) -> Tensor:
    return per_example(keras.random.uniform, (ops.shape(images)[0], 1, 1, 1), seed)  # (B, 1, 1, 1)


def _color(images: Tensor, seed: SeedGenerator) -> Tensor:
    """Shifts brightness by -0.5 to 0.5, then scales saturation by 0 to 2 and contrast by 0.5 to 1.5."""
    images = images + _uniform(images, seed) - 0.5
    gray = ops.mean(images, axis=3, keepdims=True)
    images = gray + (images - gray) * 2.0 * _uniform(images, seed)
    mean = ops.mean(images, axis=(1, 2, 3), keepdims=True)
    return mean + (images - mean) * (_uniform(images, seed) + 0.5)


def _translation(images: Tensor, seed: SeedGenerator) -> Tensor:
    """Shifts by whole pixels and fills with zeros."""
    for axis, rule in ((1, "bij,bjwc->biwc"), (2, "bij,bhjc->bhic")):
        length = images.shape[axis]
        most = int(SHIFT * length + 0.5)
        shift = ops.floor(_uniform(images, seed)[..., 0] * (2 * most + 1)) - most  # (B, 1, 1)
        place = ops.arange(length, dtype="float32")
        moved = ops.cast(place[None, :, None] - shift == place[None, None, :], images.dtype)  # (B, length, length)
        images = ops.einsum(rule, moved, images)
    return images


def _cutout(images: Tensor, seed: SeedGenerator) -> Tensor:
    """Makes a rectangle gray. Its center is anywhere in the image, and the parts beyond the borders are cut off.

    As in DiffAugment, a rectangle of even length has one more position than the image has pixels, so that it covers the
    first and the last row equally often.
    """
    inside = []
    for axis in (1, 2):
        length = images.shape[axis]
        hole = int(HOLE * length + 0.5)
        middle = ops.floor(_uniform(images, seed)[..., 0, 0] * (length + 1 - hole % 2))  # (B, 1)
        place = ops.arange(length, dtype="float32")[None] - (middle - hole // 2)  # (B, length), position in the hole
        inside.append(ops.cast(ops.logical_and(place >= 0, place < hole), images.dtype))
    hole = inside[0][:, :, None, None] * inside[1][:, None, :, None]  # (B, H, W, 1)
    return images * (1.0 - hole)


_POLICIES = {"color": _color, "translation": _translation, "cutout": _cutout}
