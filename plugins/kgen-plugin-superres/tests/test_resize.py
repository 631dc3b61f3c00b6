"""Resizing, compared with Pillow on 32-bit floats."""

from __future__ import annotations

import numpy as np
import pytest
from keras import ops
from kgen_plugin_superres.resize import agree, bicubic, enlarge, shrink
from PIL import Image

pytestmark = pytest.mark.backends

RNG = np.random.default_rng(0)


def resized(image: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    """(H, W, C) -> (height, width, C)."""
    planes = [Image.fromarray(plane).resize(size[::-1], how) for plane in np.moveaxis(image, -1, 0)]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_enlarges_as_pillow_does(factor: int) -> None:
    images = RNG.uniform(-1, 1, (2, 6, 9, 3)).astype("float32")
    made = ops.convert_to_numpy(enlarge(ops.convert_to_tensor(images), factor))
    wanted = [resized(image, (6 * factor, 9 * factor), Image.Resampling.BICUBIC) for image in images]
    np.testing.assert_allclose(made, wanted, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 3])
def test_shrinks_to_means(factor: int) -> None:
    images = RNG.uniform(-1, 1, (2, 6 * factor, 4 * factor, 3)).astype("float32")
    made = ops.convert_to_numpy(shrink(ops.convert_to_tensor(images), factor))
    wanted = [resized(image, (6, 4), Image.Resampling.BOX) for image in images]
    np.testing.assert_allclose(made, wanted, atol=1e-6)


def test_agreeing_images_are_the_nearest_ones_that_shrink_to_the_small_image() -> None:
    images, small = (RNG.uniform(-1, 1, (2, side, side, 3)).astype("float32") for side in (12, 4))
    tensors = [ops.convert_to_tensor(x) for x in (images, small)]
    moved = agree(*tensors, 1.0)
    np.testing.assert_allclose(ops.convert_to_numpy(shrink(moved, 3)), small, atol=1e-5)
    np.testing.assert_allclose(ops.convert_to_numpy(agree(moved, tensors[1], 1.0)), moved, atol=1e-5)
    np.testing.assert_array_equal(ops.convert_to_numpy(agree(*tensors, 0.0)), images)
    # nearest: the difference to any other image that agrees is orthogonal to the correction
    other = agree(ops.convert_to_tensor(RNG.uniform(-1, 1, images.shape).astype("float32")), tensors[1], 1.0)
    way, rest = ops.convert_to_numpy(moved) - images, ops.convert_to_numpy(other - moved)
    assert abs((way * rest).sum()) < 1e-2


def test_weights_keep_a_plain_image_plain() -> None:
    np.testing.assert_allclose(bicubic(5, 3).sum(axis=1), 1.0, rtol=1e-6)
