"""The three methods with which the public tools of FID resize images to the network's input.

They differ visibly: TensorFlow 1 places the centers of pixels half a pixel from where PyTorch places them, and PIL's
bicubic filter averages when an image shrinks, whereas both bilinear ones skip pixels (Parmar et al. 2022, "On Aliased
Resizing and Surprising Subtleties in GAN Evaluation", section 3). Distances are comparable only if their images were
resized with the same method.

Each function maps images (B, H, W, C), 0..255, to (B, size, size, C), float32, 0..255. Nothing is rounded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops
from PIL import Image

Tensor = Any

SIZE = 299
"""Height and width of the network's input."""


def tf1_bilinear(images: Tensor, size: int = SIZE) -> Tensor:
    """Resizes as TensorFlow 1 does: bilinear, without antialiasing, pixel i of the output at ``i * H / size``.

    The position is that of the pixel's corner, not of its center: `tf.compat.v1.image.resize_bilinear` with
    ``align_corners=False`` and ``half_pixel_centers=False``. The graph of the first FID (Heusel et al. 2017) contains
    it, and torch-fidelity computes it as `interpolate_bilinear_2d_like_tensorflow1x`.

    Args:
        images: (B, H, W, C), 0..255, uint8 or floats, an array or a tensor.
        size: Height and width of the output.
    """
    return _bilinear(images, size, center=0.0)


def torch_bilinear(images: Tensor, size: int = SIZE) -> Tensor:
    """Resizes as PyTorch does: bilinear, without antialiasing, pixel i of the output at ``(i + 1/2) H / size - 1/2``.

    This is ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``, which pytorch-fid uses.

    Args:
        images: (B, H, W, C), 0..255, uint8 or floats, an array or a tensor.
        size: Height and width of the output.
    """
    return _bilinear(images, size, center=0.5)


def pil_bicubic(images: Tensor, size: int = SIZE) -> np.ndarray:
    """Resizes as clean-fid does: PIL's bicubic filter on each channel in float32, then clipped to 0..255.

    The filter is Keys's cubic with a = -0.5, widened by the factor by which the image shrinks, so it is antialiased
    (Parmar et al. 2022, section 3). Clipping removes what the cubic overshoots at edges.

    Args:
        images: (B, H, W, C), 0..255, uint8 or floats, an array or a tensor.
        size: Height and width of the output.
    """
    channels = np.moveaxis(ops.convert_to_numpy(images).astype(np.float32), -1, 1)  # (B, C, H, W)
    resized = np.empty((*channels.shape[:2], size, size), np.float32)
    for place in np.ndindex(channels.shape[:2]):
        resized[place] = Image.fromarray(channels[place]).resize((size, size), Image.Resampling.BICUBIC)
    return np.moveaxis(resized, 1, -1).clip(0.0, 255.0)


def _bilinear(images: Tensor, size: int, center: float) -> Tensor:
    """Interpolates rows and columns; `center` is the position of a pixel's sample inside of the pixel, 0 to 1."""
    x = ops.cast(images, "float32")
    for axis in (2, 1):  # columns first, as the references do
        count = x.shape[axis]
        scale = np.float64(np.float32(count / size))  # the references have float32, and round each position once
        places = ((np.arange(size) + center) * scale - center).astype(np.float32)
        places = np.maximum(places, np.float32(0.0))  # (size,)
        lower = np.minimum(places.astype(np.int32), count - 1)
        upper = np.minimum(lower + 1, count - 1)
        weight = (places - lower).astype(np.float32).reshape([-1, 1] if axis == 2 else [-1, 1, 1])
        below, above = ops.take(x, lower, axis=axis), ops.take(x, upper, axis=axis)
        x = below + (above - below) * ops.convert_to_tensor(weight)
    return x  # (B, size, size, C)
