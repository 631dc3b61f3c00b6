"""Decoding in tiles and in slices, against diffusers' decoder on each tile, blended here."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from keras import ops
from kgen_plugin_diffusers.kl import AutoencoderKL
from kgen_plugin_diffusers.tiles import tile_starts

import kgen
from kgen import ConfigError, Space
from kgen.backend.devices import as_graph

pytestmark = pytest.mark.portable


def opened(folder: Path, height: int = 28, width: int = 16) -> AutoencoderKL:
    decoder = AutoencoderKL(Space("continuous", (height, width, 3)), pretrained=str(folder))
    decoder.build(None)
    return decoder


def latents(decoder: AutoencoderKL, count: int = 2) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, *decoder.latent_space.shape)).astype("float32")


def decoded(decoder: AutoencoderKL, z: np.ndarray, **options: object) -> np.ndarray:
    made = as_graph(lambda: decoder.decode(ops.convert_to_tensor(z), {}, {}, **options))()
    return np.asarray(ops.convert_to_numpy(made))


@pytest.mark.backends
def test_tiles_are_those_of_diffusers_decoder_blended_linearly(published: ModuleType, folder: Path) -> None:
    """The latent is 14x8. Tiles of 8x8 begin at the rows 0 and 6, and overlap by a quarter, which is 4 pixels."""
    import torch

    decoder, model = opened(folder), published.random_model("AutoencoderKL")
    z = latents(decoder)
    ramp = np.minimum(np.minimum(np.arange(16) + 0.5, 15.5 - np.arange(16)), 4.0)[:, None, None]
    total, expected = np.zeros((28, 1, 1)), np.zeros((2, 28, 16, 3))
    for row in (0, 6):
        with torch.no_grad():
            tile = model.decode(published.as_theirs(z[:, row : row + 8] / 0.18215)).sample
        expected[:, 2 * row : 2 * row + 16] += published.as_ours(tile) * ramp
        total[2 * row : 2 * row + 16] += ramp
    expected /= total
    for options in ({"tile": 16}, {"tile": 16, "sliced": True}):
        found = decoded(decoder, z, **options)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert np.abs(decoded(decoder, z) - expected).max() > 1e-2 * np.abs(expected).max()  # not the whole decode


def test_tiles_in_both_directions_cover_the_image(folder: Path) -> None:
    """A latent without differences: all tiles are alike inside, and the border has no seams of weight."""
    decoder = opened(folder, 40, 24)
    z = np.ones((1, *decoder.latent_space.shape), "float32")
    whole, tiled = decoded(decoder, z), decoded(decoder, z, tile=16)
    assert tiled.shape == whole.shape and np.isfinite(tiled).all()
    small = opened(folder, 16, 16)
    tile = decoded(small, np.ones((1, *small.latent_space.shape), "float32"))
    np.testing.assert_allclose(tiled[0, 0, 0], tile[0, 0, 0], rtol=1e-4)
    np.testing.assert_allclose(tiled[0, -1, -1], tile[0, -1, -1], rtol=1e-4)


def test_one_tile_and_slices_decode_the_whole(folder: Path) -> None:
    decoder = opened(folder)
    z = latents(decoder, 3)
    whole = decoded(decoder, z)
    for options in ({"tile": 28}, {"tile": 512}, {"sliced": True}, {"tile": 512, "sliced": True}):
        np.testing.assert_allclose(decoded(decoder, z, **options), whole, rtol=0, atol=1e-5 * np.abs(whole).max())


@pytest.mark.parametrize(("side", "size"), [(8, 8), (9, 8), (14, 8), (15, 8), (64, 8), (7, 2), (100, 64)])
def test_tiles_cover_a_side_with_an_overlap(side: int, size: int) -> None:
    starts = tile_starts(side, size)
    assert starts[0] == 0 and starts[-1] == side - size
    assert all(0 < step <= size - max(1, size // 4) for step in np.diff(starts))


def test_tiles_that_do_not_fit_are_refused(folder: Path) -> None:
    pipeline = kgen.assemble(
        encoder="none",
        generator={
            "name": "diffusion/diffusion",
            "network": {"kind": "dit", "patch": 2, "width": 8, "depth": 1, "heads": 1},
        },
        decoder={"name": "diffusers/autoencoder-kl", "pretrained": str(folder)},
        image_space=(24, 16, 3),
    )
    for tile in (2, 15):
        with pytest.raises(ConfigError, match=f"tile: {tile} must be a multiple of 2, the downsampling factor, and at"):
            pipeline.generate([""], steps=1, decoder={"tile": tile})
    with pytest.raises(ConfigError, match="tile"):
        pipeline.generate([""], steps=1, decoder={"tile": 0})
    assert pipeline.generate([""], steps=1, decoder={"tile": 8, "sliced": True}).shape == (1, 24, 16, 3)
