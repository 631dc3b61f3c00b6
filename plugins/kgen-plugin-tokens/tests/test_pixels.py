"""Pixels as tokens."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from keras import ops
from kgen_plugin_tokens.pixels import PaletteTokens, PixelTokens
from scipy.cluster.vq import vq

from kgen import DataError, Space
from kgen.testing import DecoderConformance

SPACE = Space("continuous", (6, 6, 3))
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 6, 6, 3)).astype(np.uint8)


@pytest.mark.backends
class TestPalette(DecoderConformance):
    fit_fall: ClassVar = 0.05

    def build(self) -> PaletteTokens:
        return PaletteTokens(SPACE, colors=8)


@pytest.mark.backends
class TestPixels(DecoderConformance):
    reconstruction: ClassVar = None

    def build(self) -> PixelTokens:
        return PixelTokens(SPACE)

    def test_lossless_as_declared(self) -> None:
        """It is lossless for 8-bit images only: see below."""


@pytest.mark.parametrize("channels", [1, 3])
def test_all_8_bit_images_are_reconstructed(channels: int) -> None:
    decoder = PixelTokens(Space("continuous", (16, 16, channels)))
    assert decoder.lossless and decoder.latent_space.size == 256 * channels
    images = np.arange(256 * channels).reshape(1, 16, 16, channels) % 256
    tokens = decoder.encode(ops.convert_to_tensor((images / 127.5 - 1.0).astype("float32")))
    np.testing.assert_array_equal(ops.convert_to_numpy(tokens).reshape(images.shape), images)
    made = ops.convert_to_numpy(decoder.decode(tokens, {}, {}))
    np.testing.assert_array_equal(np.round((made + 1.0) * 127.5), images)


def test_colors_are_the_nearest_ones_of_k_means() -> None:
    decoder = PaletteTokens(SPACE, colors=16)
    decoder.build(None)
    decoder.initialize([IMAGES[:10], IMAGES[10:]])
    palette = ops.convert_to_numpy(decoder.palette)
    scaled = (IMAGES / 127.5 - 1.0).astype("float32")
    codes, distances = vq(scaled.reshape(-1, 3), palette)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(decoder.encode(ops.convert_to_tensor(scaled))).reshape(-1), codes
    )
    losses = decoder.compute_losses(ops.convert_to_tensor(scaled), {}, training=False)["loss"]
    expected = np.square(distances).reshape(20, -1).mean(axis=1)
    np.testing.assert_allclose(ops.convert_to_numpy(losses), expected, rtol=1e-3, atol=1e-5)
    means = np.stack([scaled.reshape(-1, 3)[codes == code].mean(axis=0) for code in np.unique(codes)])
    assert np.abs(means - palette[np.unique(codes)]).mean() < 0.05  # each color is the mean of its pixels


def test_a_palette_larger_than_the_distinct_colors() -> None:
    decoder = PaletteTokens(SPACE, colors=8)
    decoder.build(None)
    few = np.tile(np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8), (2, 6, 2, 1))
    with pytest.raises(DataError, match="palette of 8 colors is larger than the 3 distinct colors"):
        decoder.initialize([few])


def test_the_name_of_an_earlier_release_is_read() -> None:
    with pytest.warns(FutureWarning, match="'colours' is called 'colors' now"):
        assert PaletteTokens(SPACE, colours=8).config == {"colors": 8}
