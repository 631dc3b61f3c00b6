"""The conformance kit, and images that are known."""

from __future__ import annotations

import numpy as np
import pytest
from kgen import DataError
from kgen.testing import DatasetConformance

from kgen_plugin_yourname.stripes import COLORS, Pattern, Stripes, draw


class TestStripes(DatasetConformance):
    def build(self) -> Stripes:
        return Stripes(size=8, colors=("red", "blue"), positions=2, holdout=("red vertical",))


def test_the_number_of_stripes_is_that_of_the_caption() -> None:
    image = draw(Pattern("three", "red", "vertical"), 0.0, 48).astype(float)
    assert np.ptp(image, axis=0).max() == 0, "each column has one color"
    spectrum = np.abs(np.fft.rfft(image[0, :, 1]))
    assert spectrum[1:].argmax() + 1 == 3
    np.testing.assert_allclose(image[0].min(axis=0), COLORS["red"], atol=3)
    horizontal = draw(Pattern("three", "red", "horizontal"), 0.0, 48)
    assert np.array_equal(image.transpose(1, 0, 2), horizontal)


def test_held_out_patterns_are_in_their_own_split() -> None:
    dataset = Stripes(size=8, holdout=("red vertical",))
    assert dataset.prompts("holdout") == [f"{number} red vertical stripes" for number in ("two", "three", "four")]
    assert len(dataset.prompts("train")) == 3 * 5 * 3 - 3
    assert dataset.values("holdout", "label") == ["vertical"] * 3


def test_wrong_holdouts_are_refused() -> None:
    with pytest.raises(DataError, match="'pink vertical' must be words of blue, "):
        Stripes(holdout=("pink vertical",))
    with pytest.raises(DataError, match="no pattern is left"):
        Stripes(colors=("red",), holdout=("red",))
