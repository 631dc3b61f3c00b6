"""Resizing, compared with torch-fidelity, PyTorch and clean-fid."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from keras import ops
from kgen_plugin_metrics.features.resize import SIZE, pil_bicubic, tf1_bilinear, torch_bilinear

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)

SIZES = [(32, 32), (299, 299), (512, 512), (75, 341), (1, 2)]
"""(height, width): smaller and larger than the network's input, equal to it, odd, and with nothing to interpolate."""


def images_of(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (2, height, width, 3), dtype=np.uint8)


def torch_fidelity_resize() -> ModuleType:
    """The module of torch-fidelity that resizes, without its package, which imports torchvision."""
    package = importlib.util.find_spec("torch_fidelity")
    if package is None:
        pytest.skip("torch-fidelity is not installed")
    path = Path(package.submodule_search_locations[0]) / "interpolate_compat_tensorflow.py"
    spec = importlib.util.spec_from_file_location("interpolate_compat_tensorflow", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nchw(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@pytest.mark.backends
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_tf1_bilinear_is_that_of_torch_fidelity(size: tuple[int, int]) -> None:
    images = images_of(*size)
    wanted = torch_fidelity_resize().interpolate_bilinear_2d_like_tensorflow1x(
        nchw(images).float(), size=(SIZE, SIZE), align_corners=False
    )
    found = ops.convert_to_numpy(tf1_bilinear(images))
    np.testing.assert_allclose(found, wanted.permute(0, 2, 3, 1).numpy(), rtol=0, atol=1e-4)
    assert found.dtype == "float32"


def test_tf1_bilinear_is_that_of_tensorflow() -> None:
    tensorflow = pytest.importorskip("tensorflow")
    for size in SIZES:
        images = images_of(*size)
        wanted = tensorflow.compat.v1.image.resize_bilinear(images, (SIZE, SIZE))
        np.testing.assert_allclose(ops.convert_to_numpy(tf1_bilinear(images)), wanted.numpy(), rtol=0, atol=1e-4)


@pytest.mark.backends
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_torch_bilinear_is_that_of_pytorch(size: tuple[int, int]) -> None:
    images = images_of(*size)
    wanted = torch.nn.functional.interpolate(nchw(images).float(), (SIZE, SIZE), mode="bilinear", align_corners=False)
    found = ops.convert_to_numpy(torch_bilinear(images))
    np.testing.assert_allclose(found, wanted.permute(0, 2, 3, 1).numpy(), rtol=0, atol=1e-4)
    assert found.dtype == "float32"


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pil_bicubic_is_that_of_clean_fid(size: tuple[int, int]) -> None:
    resize = pytest.importorskip("cleanfid.resize").build_resizer("clean")
    images = images_of(*size)
    found = pil_bicubic(images)
    np.testing.assert_array_equal(found, np.stack([resize(image) for image in images]))
    assert found.dtype == "float32"


@pytest.mark.parametrize("resize", [tf1_bilinear, torch_bilinear, pil_bicubic])
def test_the_size_of_the_output_is_an_option(resize) -> None:
    images = np.full((3, 20, 30, 1), 200, np.uint8)
    np.testing.assert_array_equal(ops.convert_to_numpy(resize(images, 7)), np.full((3, 7, 7, 1), 200.0, np.float32))
