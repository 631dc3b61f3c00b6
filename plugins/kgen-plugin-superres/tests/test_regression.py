"""Super-resolution by regression."""

from __future__ import annotations

from typing import ClassVar

import keras
import numpy as np
import pytest
from keras import ops
from kgen_plugin_superres.regression import Regression, prime_factors
from kgen_plugin_superres.resize import enlarge

from kgen import Space, SpaceError
from kgen.testing import DecoderConformance

pytestmark = pytest.mark.portable

SPACE = Space("continuous", (16, 16, 3))


@pytest.mark.backends
class TestConformance(DecoderConformance):
    def build(self) -> Regression:
        return Regression(SPACE, width=8, blocks=1)


class TestFactorSix(DecoderConformance):
    replicas: ClassVar = False

    def build(self) -> Regression:
        return Regression(Space("continuous", (12, 18, 1)), factor=6, width=8, blocks=2)


def test_starts_as_bicubic_interpolation() -> None:
    decoder = Regression(SPACE, width=8)
    decoder.build(None)
    small = ops.convert_to_tensor(np.random.default_rng(0).uniform(-1, 1, (2, 4, 4, 3)).astype("float32"))
    np.testing.assert_array_equal(
        ops.convert_to_numpy(decoder.decode(small, {}, {})), ops.convert_to_numpy(enlarge(small, 4))
    )


def test_learns_details_that_interpolation_loses() -> None:
    """The images have stripes of one pixel, whose side depends on the small pixel. Interpolation cannot show them."""
    keras.utils.set_random_seed(0)
    bright = np.random.default_rng(0).uniform(-0.5, 0.5, (64, 4, 4, 1))
    large = np.repeat(np.repeat(bright, 2, axis=1), 2, axis=2)
    large[:, ::2] += 0.4
    large[:, 1::2] -= 0.4
    images = ops.convert_to_tensor(np.repeat(large, 3, axis=-1).astype("float32"))
    decoder = Regression(Space("continuous", (8, 8, 3)), factor=2, width=16, blocks=1)
    decoder.build(None)

    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = decoder
            self.built = True

        def call(self, x):
            return self.decoder.compute_losses(x, {}, training=True)["loss"]

    model = Model()
    model.compile(keras.optimizers.Adam(1e-2), loss=lambda _, losses: losses)
    before = float(ops.mean(decoder.compute_losses(images, {}, training=False)["loss"]))
    model.fit(images, np.zeros((64,)), epochs=30, batch_size=16, verbose=0)
    after = float(ops.mean(decoder.compute_losses(images, {}, training=False)["loss"]))
    assert before > 0.4 and after < 0.1


def test_scores_include_bicubic_interpolation() -> None:
    decoder = Regression(SPACE, width=8)
    plain = np.full((2, 16, 16, 3), 51, np.uint8)
    checkered = plain.copy()
    checkered[:, ::2, ::2] = checkered[:, 1::2, 1::2] = 255
    assert decoder.scores([plain])["PSNR, bicubic"] > 60
    # means of 51 and 255: every pixel has an error of 102
    assert decoder.scores([checkered])["PSNR, bicubic"] == pytest.approx(20 * np.log10(255 / 102), abs=0.01)


def test_prime_factors() -> None:
    assert [prime_factors(n) for n in (2, 4, 6, 12, 7)] == [[2], [2, 2], [2, 3], [2, 2, 3], [7]]


def test_a_factor_that_does_not_divide() -> None:
    with pytest.raises(SpaceError, match=r"super-resolution by 3 .* 16x16"):
        Regression(SPACE, factor=3)
    with pytest.raises(SpaceError, match="images"):
        Regression(Space("continuous", (12,)))
