"""Published autoencoders with continuous latents encode and decode as in diffusers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
from keras import ops
from kgen_plugin_diffusers.kl import AutoencoderKL

from kgen import Space, SpaceError
from kgen.testing import DecoderConformance
from kgen.testing.execution import evaluate

pytestmark = pytest.mark.portable

DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"


def opened(folder: Path, images: np.ndarray, **options: Any) -> AutoencoderKL:
    decoder = AutoencoderKL(Space("continuous", images.shape[1:]), pretrained=str(folder), **options)
    decoder.build(None)
    return decoder


def assert_close(found: Any, expected: np.ndarray, tolerance: float = 1e-4) -> None:
    found = ops.convert_to_numpy(found)
    assert found.shape == expected.shape and np.isfinite(expected).all()
    error, size = np.abs(found - expected).max(), np.abs(expected).max()
    assert error <= tolerance * size, f"off by {error:.2g}, of numbers up to {size:.2g}"


def compare(published: ModuleType, folder: Path, model: Any, images: np.ndarray) -> None:
    """Compares latents, and images of latents that do not come from images, with those of a model of diffusers."""
    decoder, config = opened(folder, images), model.config
    mean, deviation = config.latents_mean, config.latents_std
    shift = np.array(mean or [config.shift_factor or 0.0], "float32")
    scale = np.float32(config.scaling_factor) / np.array(deviation or [1.0], "float32")
    expected = published.as_ours(model.encode(published.as_theirs(images)).latent_dist.mode())
    assert decoder.latent_space == Space("continuous", expected.shape[1:], bounded=False)
    assert_close(evaluate(decoder, decoder.encode, images), (expected - shift) * scale)
    latents = np.random.default_rng(1).normal(size=expected.shape).astype("float32")
    made = published.as_ours(model.decode(published.as_theirs(latents / scale + shift)).sample)
    assert_close(evaluate(decoder, lambda z: decoder.decode(z, {}, {}), latents), made)


OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "stages": {
        "block_out_channels": (4, 8, 12),
        "down_block_types": (DOWN,) * 3,
        "up_block_types": (UP,) * 3,
    },
    "equal channels": {"block_out_channels": (8, 8)},
    "blocks": {"layers_per_block": 2},
    "groups of one channel": {"norm_num_groups": 8},
    "attention in a stage": {
        "down_block_types": ("AttnDownEncoderBlock2D", DOWN),
        "up_block_types": (UP, "AttnUpDecoderBlock2D"),
    },
    "no attention": {"mid_block_add_attention": False},
    "no quant_conv": {"use_quant_conv": False},
    "no post_quant_conv": {"use_post_quant_conv": False},
    "like SD3 and Flux": {
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
    },
    "means and deviations": {"latents_mean": [0.1, -2.0, 0.3, 1.0], "latents_std": [2.0, 0.5, 1.0, 3.0]},
    "gray images": {"in_channels": 1, "out_channels": 1},
    "without an effect": {"act_fn": "swish", "sample_size": 512, "force_upcast": False},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_computes_the_same(name: str, published: ModuleType, tmp_path: Path) -> None:
    model = published.random_model("AutoencoderKL", **OPTIONS[name])
    images = published.images(channels=model.config.in_channels)
    compare(published, published.save(model, tmp_path / "vae"), model, images)


def test_normalizations_of_small_activations(published: ModuleType, tmp_path: Path) -> None:
    """Their variance is near the number that is added to it."""
    model = published.random_model("AutoencoderKL")
    for network in (model.encoder, model.decoder):
        network.conv_in.weight.data *= 1e-3
        network.conv_in.bias.data *= 1e-3
    compare(published, published.save(model, tmp_path / "vae"), model, published.images())


@pytest.mark.backends
def test_on_every_backend(published: ModuleType, folder: Path) -> None:
    compare(published, folder, published.random_model("AutoencoderKL"), published.images())


@pytest.mark.slow
def test_the_autoencoder_of_stable_diffusion_1(published: ModuleType, tmp_path: Path) -> None:
    """In its full size, with random weights."""
    types = {f"{name}_block_types": (kind,) * 4 for name, kind in (("down", DOWN), ("up", UP))}
    channels = {"block_out_channels": (128, 256, 512, 512), "norm_num_groups": 32, "layers_per_block": 2}
    model = published.random_model("AutoencoderKL", **types, **channels)
    compare(published, published.save(model, tmp_path / "vae"), model, published.images(1, 128, 192))


@pytest.mark.backends
def test_losses_are_those_of_the_posterior(published: ModuleType, folder: Path) -> None:
    """The divergence is that of diffusers; the reconstruction is that of the mean if the variance is small."""
    images = published.images()
    decoder = opened(folder, images)
    posterior = published.random_model("AutoencoderKL").encode(published.as_theirs(images)).latent_dist
    losses = evaluate(decoder, lambda x: decoder.compute_losses(x, {}, training=False), images)
    size = np.prod(posterior.mean.shape[1:])
    np.testing.assert_allclose(ops.convert_to_numpy(losses["kl"]), posterior.kl().detach().numpy() / size, rtol=1e-4)
    total = ops.convert_to_numpy(losses["reconstruction"] + decoder.kl_weight * losses["kl"])
    np.testing.assert_allclose(ops.convert_to_numpy(losses["loss"]), total, rtol=1e-6)


# ---- the contract -------------------------------------------------------------------------------------------------


class Published:
    path = ""


@pytest.fixture(scope="module", autouse=True)
def known(folder: Path) -> Iterator[None]:
    Published.path = str(folder)
    yield


class TestConformance(DecoderConformance):
    latent_deviation: ClassVar = (0.01, 10.0)  # the weights are random, and the scale is not measured
    replicas: ClassVar = False  # the losses are those of kgen-plugin-codecs
    decode_options: ClassVar = ({}, {"tile": 4, "sliced": True})

    def build(self) -> AutoencoderKL:
        return AutoencoderKL(Space("continuous", (8, 8, 3)), pretrained=Published.path)


def test_images_that_do_not_fit(folder: Path) -> None:
    with pytest.raises(SpaceError, match=r"needs a height and a width divisible by 2, but the images are 9x8"):
        _ = AutoencoderKL(Space("continuous", (9, 8, 3)), pretrained=str(folder)).latent_space
    with pytest.raises(SpaceError, match=r"needs images of shape \(height, width, 3\), not 8x8x1 continuous"):
        _ = AutoencoderKL(Space("continuous", (8, 8, 1)), pretrained=str(folder)).latent_space
