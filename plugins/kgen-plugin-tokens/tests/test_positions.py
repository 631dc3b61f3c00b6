"""Reading orders and rotary positions."""

from __future__ import annotations

import numpy as np
import pytest
from keras import ops
from kgen_plugin_tokens.positions import reading_order, rotate, rotations


@pytest.mark.parametrize("order", ["raster", "columns", "spiral"])
@pytest.mark.parametrize("shape", [(5,), (3, 4), (4, 4), (1, 5), (3, 2, 3)])
def test_every_token_is_read_once(order: str, shape: tuple[int, ...]) -> None:
    assert sorted(reading_order(order, shape)) == list(range(int(np.prod(shape))))  # type: ignore[arg-type]


def test_orders() -> None:
    assert reading_order("raster", (2, 3)).tolist() == [0, 1, 2, 3, 4, 5]
    assert reading_order("columns", (2, 3)).tolist() == [0, 3, 1, 4, 2, 5]
    assert reading_order("columns", (2, 2, 2)).tolist() == [0, 1, 4, 5, 2, 3, 6, 7]
    spiral = reading_order("spiral", (3, 3)).tolist()
    assert spiral[0] == 4 and spiral[-1] == 0
    steps = np.abs(np.diff([divmod(place, 3) for place in spiral], axis=0)).sum(axis=1)
    assert (steps == 1).all()  # from a cell to its neighbor


@pytest.mark.parametrize("shape", [(9,), (5, 6), (4, 4, 3)])
def test_products_depend_only_on_distances(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    angles = rotations(shape, 12)
    assert angles.shape == (int(np.prod(shape)) + 1, 6)
    q, k = rng.standard_normal((2, 1, 1, 1, 12)).astype("float32")

    def product(first: tuple[int, ...], second: tuple[int, ...]) -> float:
        turned = (
            rotate(ops.convert_to_tensor(x), ops.convert_to_tensor(angles[[np.ravel_multi_index(place, shape)]][None]))
            for x, place in ((q, first), (k, second))
        )
        one, other = (ops.convert_to_numpy(x) for x in turned)
        return float((one * other).sum())

    zero, one, far = (tuple(min(step, n - 1) for n in shape) for step in (0, 1, 3))
    here = tuple(n - 1 - (b - a) for n, a, b in zip(shape, zero, one, strict=True))
    there = tuple(n - 1 for n in shape)
    assert product(zero, one) == pytest.approx(product(here, there), abs=1e-4)
    assert abs(product(zero, one) - product(zero, far)) > 1e-3


def test_a_token_without_a_place_is_not_rotated() -> None:
    x = np.random.default_rng(0).standard_normal((1, 1, 1, 8)).astype("float32")
    nowhere = rotations((3, 3), 8)[-1:][None]
    np.testing.assert_array_equal(ops.convert_to_numpy(rotate(ops.convert_to_tensor(x), nowhere)), x)
