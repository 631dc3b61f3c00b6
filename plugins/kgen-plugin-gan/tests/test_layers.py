"""Spectral normalization, augmentation, and the rearrangement of pixels."""

from __future__ import annotations

import numpy as np
import pytest
from keras import ops
from kgen_plugin_gan.augmentation import augment
from kgen_plugin_gan.layers import Convolution
from kgen_plugin_gan.networks import enlarged

from kgen import SeedGenerator

RNG = np.random.default_rng(0)


def images(count: int = 6, size: int = 16) -> np.ndarray:
    return RNG.uniform(-1, 1, (count, size, size, 3)).astype("float32")


@pytest.mark.backends
def test_spectral_norm_makes_the_largest_singular_value_one() -> None:
    layer = Convolution(5, spectral_norm=True)
    x = ops.convert_to_tensor(images(2, 8))
    layer.build(x.shape)
    layer.kernel.assign(RNG.normal(size=(3, 3, 3, 5)).astype("float32"))
    for _ in range(60):
        layer(x, training=True)
    before = ops.convert_to_numpy(layer.direction.value)
    found = ops.convert_to_numpy(layer(x))
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.direction.value), before)  # only training moves it
    kernel = ops.convert_to_numpy(layer.kernel.value)
    largest = np.linalg.svd(kernel.reshape(-1, 5), compute_uv=False)[0]
    expected = ops.convert_to_numpy(ops.conv(x, ops.convert_to_tensor(kernel / largest), padding="same"))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.backends
def test_augmentation_changes_each_image_in_its_own_way() -> None:
    same = np.repeat(images(1), 6, axis=0)
    for policy in ("color", "translation", "cutout"):
        changed = ops.convert_to_numpy(augment(ops.convert_to_tensor(same), (policy,), SeedGenerator(1)))
        assert changed.shape == same.shape
        assert len({image.tobytes() for image in changed}) >= 5, policy


def test_no_augmentation_is_the_identity() -> None:
    x = images()
    np.testing.assert_array_equal(ops.convert_to_numpy(augment(ops.convert_to_tensor(x), (), SeedGenerator(1))), x)


def test_translation_moves_whole_pixels_and_fills_with_zeros() -> None:
    x = images(32, 16)
    moved = ops.convert_to_numpy(augment(ops.convert_to_tensor(x), ("translation",), SeedGenerator(2)))
    shifts = set()
    for before, after in zip(x, moved, strict=True):
        padded = np.pad(before, ((2, 2), (2, 2), (0, 0)))
        fits = [
            (i, j) for i in range(5) for j in range(5) if np.allclose(padded[i : i + 16, j : j + 16], after, atol=1e-6)
        ]
        assert len(fits) == 1
        shifts.update(fits)
    assert len(shifts) > 8


def test_cutout_makes_one_rectangle_gray() -> None:
    x = images(32, 16)
    cut = ops.convert_to_numpy(augment(ops.convert_to_tensor(x), ("cutout",), SeedGenerator(3)))
    for before, after in zip(x, cut, strict=True):
        hole = (after == 0).all(-1)
        rows, columns = hole.any(1), hole.any(0)
        np.testing.assert_array_equal(hole, rows[:, None] & columns[None])
        assert 4 <= rows.sum() <= 8 and 4 <= columns.sum() <= 8
        np.testing.assert_array_equal(after[~hole], before[~hole])


@pytest.mark.backends
@pytest.mark.parametrize("size", [10, 16])
def test_cutout_covers_the_first_row_as_often_as_the_last(size: int) -> None:
    """The expected shares come from a list of all positions of DiffAugment's rectangle."""
    x = ops.ones((20_000, size, size, 1))
    share = 1 - ops.convert_to_numpy(augment(x, ("cutout",), SeedGenerator(5))).mean((0, 3))  # (size, size)
    hole = size // 2
    starts = np.arange(size + 1 - hole % 2)[:, None] - hole // 2
    rows = np.logical_and(np.arange(size) >= starts, np.arange(size) < starts + hole).mean(0)
    np.testing.assert_allclose(share, rows[:, None] * rows, atol=0.015)
    if size == 16:
        np.testing.assert_allclose(share.mean(1)[[0, -1]], 0.126, atol=0.005)


def test_translation_has_the_range_of_diffaugment() -> None:
    x = np.zeros((400, 20, 20, 1), "float32")
    x[:, 10] = 1
    moved = ops.convert_to_numpy(augment(ops.convert_to_tensor(x), ("translation",), SeedGenerator(2)))
    assert set(moved[..., 0].sum(2).argmax(1)) == set(range(7, 14))  # int(20 / 8 + 0.5) = 3 pixels up or down


def test_color_keeps_the_shape_of_things() -> None:
    """Black and white stay apart, by the random contrast."""
    x = np.concatenate([np.full((8, 4, 8, 3), -1.0), np.full((8, 4, 8, 3), 1.0)], axis=1).astype("float32")
    changed = ops.convert_to_numpy(augment(ops.convert_to_tensor(x), ("color",), SeedGenerator(4)))
    contrast = changed[:, 4:].mean((1, 2, 3)) - changed[:, :4].mean((1, 2, 3))
    assert (contrast >= 1.0 - 1e-4).all() and (contrast <= 3.0 + 1e-4).all() and contrast.std() > 0.1


def test_enlarging_turns_a_position_into_a_square() -> None:
    x = images(2, 3)
    large = ops.convert_to_numpy(enlarged(ops.convert_to_tensor(x), 2))
    assert large.shape == (2, 6, 6, 3)
    for row in range(6):
        for column in range(6):
            np.testing.assert_array_equal(large[:, row, column], x[:, row // 2, column // 2])
