"""The conformance kit, and images whose colorfulness is known."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from kgen import Dataset, make_dataset
from kgen.testing import MetricConformance

from kgen_plugin_yourname.colorfulness import Colorfulness, colorfulness


class TestColorfulness(MetricConformance):
    noise: ClassVar = {"mean": (90.0, 200.0), "colorful share": (1.0, 1.0)}

    def build(self) -> Colorfulness:
        return Colorfulness(threshold=40.0)

    def dataset(self) -> Dataset:
        return make_dataset({"name": "shapes", "size": 16, "count": 24})


def test_gray_images_have_no_color() -> None:
    assert colorfulness(np.full((2, 4, 4, 3), 80, np.uint8)).tolist() == [0.0, 0.0]
    assert colorfulness(np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)).tolist() == [0.0]


def test_an_image_of_one_color_and_one_of_two() -> None:
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 200  # rg = 200 and yb = 100 everywhere
    half = red.copy()
    half[:2] = 0  # rg is 0 or 200, yb is 0 or 100
    found = colorfulness(np.stack([red, half]))
    one = 0.3 * np.hypot(200, 100)
    two = np.hypot(100, 50) + 0.3 * np.hypot(100, 50)
    np.testing.assert_allclose(found, [one, two])
