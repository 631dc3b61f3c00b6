"""The contract of networks whose features are compared, and functions that they share.

Any plugin can add one: ``registry.add("metrics.features", "mine", "package.module:Mine", summary=...)``. Its class has
the members of `Features`, and a constructor with options only. The constructor must be quick: a network reads its
weights when it is called for the first time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from keras import ops
from PIL import Image

from kgen import DataError

BATCH = 32
"""Number of images that a network processes at once."""


class Features(Protocol):
    """Computes features of images.

    Attributes:
        name: A short name, such as "efficientnet-lite0".
        dim: The number D of features of an image.
        weights_hash: A hash of the weights; "" if there are none.
        protocol: Everything that determines the features, as texts: "network", "weights_hash", "resize" and
            "scaling". Features are comparable only if their protocols are equal.
    """

    name: str
    dim: int
    weights_hash: str
    protocol: Mapping[str, str]

    def __call__(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        """Computes features of a batch of any size.

        Args:
            images: uint8 (B, H, W, 3).

        Returns:
            "features", float32 (B, dim). A classifier also returns "logits", (B, classes).
        """
        ...


def in_color(images: np.ndarray) -> np.ndarray:
    """Returns images as uint8 (B, H, W, 3). The channel of gray images (B, H, W, 1) is repeated.

    Raises:
        DataError: they have another number of channels.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise DataError(f"metrics: images must be (B, H, W, 1) or (B, H, W, 3), not {images.shape}")
    return np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images


def resized(images: np.ndarray, size: int) -> np.ndarray:
    """Resizes uint8 images (B, H, W, 3) to (B, size, size, 3) with Pillow's bicubic filter, which is antialiased."""
    if images.shape[1:3] == (size, size):
        return images
    shape = (size, size)
    return np.stack([np.asarray(Image.fromarray(image).resize(shape, Image.Resampling.BICUBIC)) for image in images])


BICUBIC = "Pillow's bicubic to {0}x{0}, rounded to uint8"
"""The name of `resized` in protocols of features. `format` fills in the size."""


def described(network: str, weights_hash: str, resize: str, scaling: str) -> dict[str, str]:
    """Returns the protocol of features."""
    return {"network": network, "weights_hash": weights_hash, "resize": resize, "scaling": scaling}


def hash_of_weights(weights: Iterable[Any]) -> str:
    """The SHA-256 of weights of Keras layers, as hexadecimal digits."""
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(np.ascontiguousarray(ops.convert_to_numpy(weight)).tobytes())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
