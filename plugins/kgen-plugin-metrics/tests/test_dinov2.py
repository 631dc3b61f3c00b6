"""DINOv2, compared with transformers, and its positions with PyTorch's interpolation, as in DINOv2's own code."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from kgen_plugin_metrics.features.dinov2 import DINOv2, interpolated
from PIL import Image

from kgen import ConfigError, PluginError, part

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
keras_hub = pytest.importorskip("keras_hub")

RNG = np.random.default_rng(0)
TINY = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "mlp_ratio": 2, "patch_size": 14}


def interpolated_by_pytorch(positions: torch.Tensor, size: int) -> torch.Tensor:
    """What `interpolate_pos_encoding` of facebookresearch/dinov2 computes, with its `interpolate_offset` of 0.1."""
    count = round((positions.shape[1] - 1) ** 0.5)
    grid = positions[:, 1:].reshape(1, count, count, -1).permute(0, 3, 1, 2)
    scale = (size + 0.1) / count
    grid = torch.nn.functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic", antialias=False)
    assert grid.shape[-2:] == (size, size)
    return torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).reshape(1, size * size, -1)], dim=1)


def network(size: int) -> transformers.Dinov2Model:
    """A network with random weights of a deviation that lets every part of it matter."""
    model = transformers.Dinov2Model(transformers.Dinov2Config(image_size=size, **TINY)).eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.3, generator=rng)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network for images of 70 x 70, whose positions are interpolated, in Hugging Face's format."""
    path = tmp_path_factory.mktemp("presets") / "dinov2_tiny"
    network(70).save_pretrained(path)
    return path


@pytest.mark.backends
def test_features_are_those_of_transformers(folder: Path) -> None:
    """At 224 x 224, with the positions that DINOv2's own code interpolates from those for 70 x 70."""
    reference, small = network(224), network(70)
    weights = small.state_dict()
    weights["embeddings.position_embeddings"] = interpolated_by_pytorch(weights["embeddings.position_embeddings"], 16)
    reference.load_state_dict(weights)
    images = RNG.integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    large = np.stack([np.asarray(Image.fromarray(x).resize((224, 224), Image.Resampling.BICUBIC)) for x in images])
    scaled = (large / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.no_grad():
        wanted = reference(torch.tensor(scaled).permute(0, 3, 1, 2).float()).pooler_output.numpy()
    found = part("metrics.features", {"kind": "dinov2", "preset": str(folder)})
    features = found(images)["features"]
    assert features.shape == (3, found.dim) == (3, 24) and features.dtype == np.float32
    assert wanted.std(0).mean() > 0.05, "the images must differ, or the test says nothing"
    np.testing.assert_allclose(features, wanted, rtol=1e-4, atol=1e-4)
    assert found.name == "dinov2-tiny" and len(found.weights_hash) == 64


@pytest.mark.parametrize(("count", "size"), [(37, 16), (5, 16), (4, 4)])
def test_positions_are_interpolated_as_by_dinov2(count: int, size: int) -> None:
    positions = RNG.normal(size=(1 + count * count, 6)).astype(np.float32)
    wanted = interpolated_by_pytorch(torch.tensor(positions)[None], size)[0] if count != size else positions
    np.testing.assert_allclose(interpolated(positions, size), wanted, rtol=1e-4, atol=1e-5)


def test_reads_presets_of_keras_hub(folder: Path, tmp_path: Path) -> None:
    keras_hub.models.DINOV2Backbone.from_preset(str(folder)).save_to_preset(str(tmp_path / "hub"))
    first, second = DINOv2(preset=str(folder)), DINOv2(preset=str(tmp_path / "hub"))
    images = RNG.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    np.testing.assert_array_equal(first(images)["features"], second(images)["features"])
    assert first.weights_hash == second.weights_hash and dict(first.protocol) == dict(second.protocol)


def test_bad_presets_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(preset: Path | str) -> str:
        with pytest.raises(ConfigError) as refused:
            _ = DINOv2(preset=str(preset)).dim
        return str(refused.value)

    assert "'dinov2_larg' is neither a folder nor a preset of KerasHub: dinov2_large" in refusal("dinov2_larg")
    assert "cannot be loaded" in refusal(tmp_path)
    config = transformers.Dinov2WithRegistersConfig(image_size=28, num_register_tokens=2, **TINY)
    transformers.Dinov2WithRegistersModel(config).save_pretrained(tmp_path / "registers")
    assert "has registers, but FD-DINOv2 is defined without them" in refusal(tmp_path / "registers")
    bert = transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    transformers.BertModel(bert).save_pretrained(tmp_path / "bert")
    assert "cannot be loaded" in refusal(tmp_path / "bert")
    monkeypatch.setitem(sys.modules, "keras_hub.models", None)
    with pytest.raises(PluginError, match=r"need KerasHub, .* pip install 'kgen-plugin-metrics\[keras-hub\]'"):
        _ = DINOv2().dim


def test_the_precision_of_training_does_not_change_features(folder: Path) -> None:
    images = RNG.integers(0, 256, (2, 30, 30, 3), dtype=np.uint8)
    wanted, policy = DINOv2(preset=str(folder))(images)["features"], keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        np.testing.assert_array_equal(DINOv2(preset=str(folder))(images)["features"], wanted)
    finally:
        keras.config.set_dtype_policy(policy)
