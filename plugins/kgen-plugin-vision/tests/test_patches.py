"""The encoder of patches: the contract, what it sees, and images of other sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from keras import ops
from kgen_plugin_vision.images import as_bytes, resized
from kgen_plugin_vision.patches import Patches
from PIL import Image

import kgen
from kgen import ConfigError, DataError, RunError
from kgen.plugins.discovery import registry
from kgen.testing import EncoderConformance

pytestmark = pytest.mark.portable


def images(count: int = 3, size: int = 8, channels: int = 3) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, size, size, channels), dtype=np.uint8))


class Conformance(EncoderConformance):
    inputs: ClassVar[Any] = tuple(images())
    pads: ClassVar[bool] = False

    @property
    def hard_inputs(self) -> list[Any]:
        large = np.random.default_rng(1).integers(0, 256, (20, 9, 1), dtype=np.uint8)
        return [*self.inputs, None, large]


@pytest.mark.backends
class TestPatches(Conformance):
    def build(self) -> Patches:
        return Patches(patch=4, dim=8, depth=1, heads=2)


class TestPooled(Conformance):
    def build(self) -> Patches:
        return Patches(patch=2, dim=8, depth=1, heads=1, pool=True, size=4)


def encode(encoder: Patches, *inputs: Any) -> dict[str, np.ndarray]:
    return {name: ops.convert_to_numpy(value) for name, value in encoder(encoder.tokenize(inputs)).items()}


def test_it_is_registered() -> None:
    assert registry().find("encoder", "vision/patches").load() is Patches


def test_a_patch_is_a_position() -> None:
    """Without blocks, a position is the normalized projection of its patch, plus its place."""
    encoder = Patches(patch=4, dim=6, depth=0 + 1, heads=1)
    encoder.adapt(images())
    (image,) = images(1)
    encode(encoder, image)
    encoder.blocks[0].attention.out.kernel.assign(np.zeros((6, 6)))
    encoder.blocks[0].narrow.kernel.assign(np.zeros((24, 6)))
    made = encode(encoder, image)
    cut = image[4:, :4].reshape(-1) / 127.5 - 1.0  # row 1, column 0: position 2
    kernel, positions = (ops.convert_to_numpy(w) for w in (encoder.project.kernel, encoder.positions))
    x = cut @ kernel + positions[2]
    expected = (x - x.mean()) / np.sqrt(x.var() + 1e-6)
    np.testing.assert_allclose(made["sequence"][0, 2], expected, atol=1e-4)
    np.testing.assert_allclose(made["pooled"][0], made["sequence"][0].mean(0), atol=1e-5)


@pytest.mark.parametrize("pool", [False, True])
def test_no_image_is_one_learned_vector(pool: bool) -> None:
    encoder = Patches(patch=4, dim=6, depth=1, heads=1, pool=pool)
    encoder.adapt(images())
    assert encoder.condition_space == kgen.ConditionSpace(1 if pool else 4, 6)
    made = encode(encoder, None)
    nothing = ops.convert_to_numpy(encoder.nothing)
    np.testing.assert_allclose(made["sequence"][0, 0], nothing)
    np.testing.assert_allclose(made["pooled"][0], nothing)
    assert made["mask"].tolist() == [[1] if pool else [1, 0, 0, 0]]
    assert not made["sequence"][0, 1:].any()


def test_places_matter() -> None:
    encoder = Patches(patch=4, dim=8, depth=1, heads=2)
    encoder.adapt(images())
    (image,) = images(1)
    pooled = encode(encoder, image, image[:, ::-1])["pooled"]
    assert np.abs(pooled[0] - pooled[1]).max() > 1e-4


# ---- images ----------------------------------------------------------------------------------------------------------


def test_images_of_other_sizes_and_kinds() -> None:
    constant = np.full((5, 9, 1), 100, np.uint8)
    np.testing.assert_array_equal(resized(constant, (4, 4, 3)), np.full((4, 4, 3), 100))
    halves = np.zeros((4, 12, 3), np.uint8)
    halves[:, 6:] = 200
    np.testing.assert_array_equal(resized(halves, (4, 4, 1))[..., 0], [[0, 0, 200, 200]] * 4)  # the middle
    np.testing.assert_array_equal(as_bytes(np.array([[-1.0, 0.0, 1.0]])), [[[0], [128], [255]]])
    for wrong in ("cat.png", np.zeros((2, 2, 2), np.uint8), np.zeros((1, 2, 2, 3), np.uint8), np.zeros((2, 2), int)):
        with pytest.raises(ConfigError, match="an image is an array uint8"):
            as_bytes(wrong)


def test_it_learns_the_size_of_images(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="adapt"):
        Patches().tokenize([None])
    with pytest.raises(DataError, match="there are no images"):
        Patches().adapt([])
    with pytest.raises(ConfigError, match="patch 3 does not divide images of 8x8"):
        Patches(patch=3).adapt(images())
    encoder = Patches(size=16, patch=8, dim=4, heads=1)
    encoder.adapt(images(channels=1))
    assert encoder.tokenize(images(2))["image"].shape == (2, 16, 16, 1)
    encoder.save_assets(tmp_path)
    again = Patches(size=16, patch=8, dim=4, heads=1)
    again.load_assets(tmp_path)
    assert again.shape == (16, 16, 1)
    for content in ("5", "{}", '{"shape": [8, 8]}', '{"shape": [8, 8, 9]}', '{"shape": [-8, 8, 1]}'):
        (tmp_path / "images.json").write_text(content)
        with pytest.raises(RunError, match=r"images\.json is damaged: "):
            again.load_assets(tmp_path)


def test_a_prompt_is_a_file(tmp_path: Path) -> None:
    (image,) = images(1)
    Image.fromarray(image).save(tmp_path / "a.png")
    np.testing.assert_array_equal(Patches().parse(str(tmp_path / "a.png"), "image"), image)
    with pytest.raises(DataError, match=r"b\.png: No such file"):
        Patches().parse(str(tmp_path / "b.png"), "image")
