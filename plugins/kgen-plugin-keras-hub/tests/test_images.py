"""The encoders of images compute the same as KerasHub, on images that are prepared as the preset says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops
from kgen_plugin_keras_hub.images.models import ClipImage, DINOv2, SigLIPImage
from kgen_plugin_keras_hub.presets import load_backbone
from kgen_plugin_vision.preprocessing import Preprocessing

import kgen
from kgen import ConfigError, RunError
from kgen.testing import EncoderConformance

pytestmark = pytest.mark.portable


def images(size: int, count: int = 3) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


def encoded(encoder: Any, inputs: Sequence[Any]) -> dict[str, np.ndarray]:
    return {name: ops.convert_to_numpy(value) for name, value in encoder(encoder.tokenize(inputs)).items()}


class Conformance(EncoderConformance):
    inputs: ClassVar[Any] = tuple(images(9))

    @property
    def hard_inputs(self) -> list[Any]:
        gray = np.random.default_rng(1).integers(0, 256, (20, 9, 1), dtype=np.uint8)
        return [*self.inputs, None, gray]


@pytest.mark.slow  # the tests below compare it with KerasHub's
class TestClipImage(Conformance):
    @pytest.fixture(autouse=True)
    def _folder(self, clip_folder: Path) -> None:
        self.folder = clip_folder

    def build(self) -> ClipImage:
        return ClipImage(preset=str(self.folder), project=True)


@pytest.mark.slow  # the tests below compare it with KerasHub's
class TestSigLIPImage(Conformance):
    @pytest.fixture(autouse=True)
    def _folder(self, siglip_folder: Path) -> None:
        self.folder = siglip_folder

    def build(self) -> SigLIPImage:
        return SigLIPImage(preset=str(self.folder), frozen=False)


class TestDINOv2(Conformance):
    @pytest.fixture(autouse=True)
    def _folder(self, dinov2_folder: Path) -> None:
        self.folder = dinov2_folder

    def build(self) -> DINOv2:
        return DINOv2(preset=str(self.folder), frozen=False)


# ---- the same as KerasHub -----------------------------------------------------------------------------------------


@pytest.mark.backends
def test_clip(clip_folder: Path) -> None:
    """The preset has no image converter, so that the colors are normalized as by OpenAI."""
    hub = load_backbone(clip_folder, ("CLIPBackbone",), "float32")
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    pixels = ((np.stack(images(8)) / 255 - mean) / deviation).astype("float32")
    sequence = ops.convert_to_numpy(hub.vision_encoder({"images": pixels}))
    encoder = ClipImage(preset=str(clip_folder))
    made = encoded(encoder, images(8))
    np.testing.assert_allclose(made["sequence"], sequence, atol=1e-5)
    np.testing.assert_allclose(made["pooled"], sequence[:, 0], atol=1e-5)
    projected = encoded(ClipImage(preset=str(clip_folder), project=True, pool=True), images(8))
    expected = ops.convert_to_numpy(hub.get_vision_embeddings(pixels))
    np.testing.assert_allclose(projected["pooled"], expected, atol=1e-5)
    np.testing.assert_array_equal(projected["sequence"][:, 0], projected["pooled"])
    assert not any("text" in weight.path for weight in encoder.weights)


def test_siglip(siglip_folder: Path) -> None:
    hub = load_backbone(siglip_folder, ("SigLIPBackbone",), "float32")
    pixels = keras_hub.layers.ImageConverter.from_preset(str(siglip_folder))(np.stack(images(8)))
    made = encoded(SigLIPImage(preset=str(siglip_folder)), images(8))
    np.testing.assert_allclose(made["pooled"], ops.convert_to_numpy(hub.get_vision_embeddings(pixels)), atol=1e-5)
    head = hub.vision_encoder.head(ops.convert_to_tensor(made["sequence"]))  # it pools the sequence
    np.testing.assert_allclose(made["pooled"], ops.convert_to_numpy(head), atol=1e-5)
    assert made["sequence"].shape == (3, 4, 12) and made["mask"].all()


def test_dinov2(dinov2_folder: Path) -> None:
    """In the size of the preset, and in another, for which KerasHub interpolates the positions."""
    for size in (None, 16):
        options = {} if size is None else {"image_shape": (size, size, 3)}
        hub = load_backbone(dinov2_folder, ("DINOV2Backbone",), "float32", **options)
        chosen = images(size or 12)
        expected = ops.convert_to_numpy(hub({"images": (np.stack(chosen) / 255 - 0.5).astype("float32")}))
        made = encoded(DINOv2(preset=str(dinov2_folder), size=size), chosen)
        np.testing.assert_allclose(made["sequence"], expected, atol=1e-5)
        np.testing.assert_allclose(made["pooled"], expected[:, 0], atol=1e-5)
    with pytest.raises(ConfigError, match="size: 14 must be a multiple of 4, the patch of"):
        DINOv2(preset=str(dinov2_folder), size=14)


def test_dinov2_of_transformers(tmp_path: Path) -> None:
    """A folder of the package transformers, whose processor resizes and crops."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    model = transformers.Dinov2Model(transformers.Dinov2Config(image_size=12, patch_size=4, **sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    processor = {"size": {"shortest_edge": 16}, "crop_size": {"height": 12, "width": 12}, "resample": 3}
    colors = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**processor, **colors}))
    oblong = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    encoder = DINOv2(preset=str(tmp_path))
    assert encoder.preprocessing == Preprocessing(16, 12, "bicubic", (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    pixels = (encoder.tokenize([oblong])["image"] / 255 - colors["image_mean"]) / colors["image_std"]
    with torch.no_grad():
        expected = model(torch.from_numpy(pixels.astype("float32").transpose(0, 3, 1, 2))).last_hidden_state.numpy()
    np.testing.assert_allclose(encoded(encoder, [oblong])["sequence"], expected, atol=1e-4)
    assert DINOv2(preset=str(tmp_path), size=24).preprocessing == replace(encoder.preprocessing, short=32, crop=24)


# ---- images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cropped", [False, True])
def test_images_are_resized_as_by_kerashub(cropped: bool, siglip_folder: Path, tmp_path: Path) -> None:
    """A smooth image of 32x48 pixels. By default, KerasHub does not average pixels of an image that becomes smaller."""
    folder = Path(shutil.copytree(siglip_folder, tmp_path / "preset"))
    file = folder / "image_converter.json"
    content = json.loads(file.read_text())
    content["config"] |= {"crop_to_aspect_ratio": cropped, "antialias": True}
    file.write_text(json.dumps(content))
    across, down = np.meshgrid(np.linspace(0, 255, 48), np.linspace(0, 255, 32))
    smooth = np.stack([across, down, 255 - across], axis=-1).astype(np.uint8)  # (32, 48, 3)
    encoder, converter = SigLIPImage(preset=str(folder)), keras_hub.layers.ImageConverter.from_preset(str(folder))
    prepared = encoder.tokenize([smooth])["image"].astype("float32")  # (1, 8, 8, 3)
    found = ops.convert_to_numpy(encoder.preprocessing.normalized(prepared / 127.5 - 1))
    expected = ops.convert_to_numpy(converter(smooth[None].astype("float32")))
    assert np.abs((found - expected) / converter.scale).max() < 4, "levels of 0 to 255"
    assert (prepared[0, 0, 0, 0] > 30) == cropped, "the first column is cropped"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interpolation": "nearest"}, "'interpolation' must be one of bilinear, bicubic, lanczos3, not 'nearest'"),
        ({"pad_to_aspect_ratio": True, "crop_to_aspect_ratio": False}, "pads images, which kgen does not do"),
        ({"scale": [1.0, 2.0]}, r"'scale' must be a number, or three, not \[1.0, 2.0\]"),
        ({"scale": 0.0}, "'scale' must not be 0"),
        ({"unknown": 1}, "cannot be read"),
    ],
)
def test_another_converter_is_refused(
    change: dict[str, Any], message: str, siglip_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(siglip_folder, tmp_path / "preset"))
    file = folder / "image_converter.json"
    content = json.loads(file.read_text())
    content["config"] |= change
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        SigLIPImage(preset=str(folder))


def test_no_image_is_the_zero_vector(clip_folder: Path) -> None:
    made = encoded(ClipImage(preset=str(clip_folder)), [None, images(8)[0]])
    assert not made["sequence"][0].any() and not made["pooled"][0].any() and made["pooled"][1].all()
    assert made["mask"].tolist() == [[1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]


# ---- presets and training -----------------------------------------------------------------------------------------


def test_presets_of_other_models_are_refused(clip_folder: Path, tower_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a CLIPBackbone, but must be a DINOV2Backbone"):
        DINOv2(preset=str(clip_folder))
    with pytest.raises(ConfigError, match="is a CLIPTextEncoder, but must be a CLIPBackbone or CLIPVisionEncoder"):
        ClipImage(preset=str(tower_folder))
    with pytest.raises(ConfigError, match=r"unknown preset 'dinov2_bas'.*dinov2_base"):
        DINOv2(preset="dinov2_bas")
    ClipImage(preset=str(clip_folder)).vision.save_to_preset(tmp_path)
    assert ClipImage(preset=str(tmp_path)).condition_space == kgen.ConditionSpace(5, 16)
    with pytest.raises(ConfigError, match="has no projection: leave 'project' out, or use a whole CLIP"):
        ClipImage(preset=str(tmp_path), project=True)


def test_a_replaced_preset_is_noticed(clip_folder: Path, tmp_path: Path) -> None:
    encoder = ClipImage(preset=str(clip_folder))
    encoder.save_assets(tmp_path)
    ClipImage(preset=str(clip_folder)).load_assets(tmp_path)
    for weight in encoder.vision.encoder_layers[0].weights:
        weight.assign(weight * 0.5)
    with pytest.raises(RunError, match="because it encodes a test image differently"):
        encoder.load_assets(tmp_path)


@pytest.mark.parametrize("frozen", [True, False])
def test_training(frozen: bool, dinov2_folder: Path, tmp_path: Path) -> None:
    """The weights are trained on request, and saved with the pipeline, which then needs no other weights."""
    network = {"kind": "dit", "patch": 4, "width": 8, "depth": 1, "heads": 1}
    preset = Path(shutil.copytree(dinov2_folder, tmp_path / "preset"))
    pipeline = kgen.assemble(
        encoder={"name": "keras-hub/dinov2", "preset": str(preset), "frozen": frozen, "pool": True},
        generator={"name": "diffusion/diffusion", "network": network},
        image_space=(8, 8, 3),
        captions=images(8),
    )
    before = encoded(pipeline.encoder, images(8))["pooled"]
    pipeline.compile(keras.optimizers.Adam(0.01))
    pipeline.fit(np.stack(images(8)), images(8), batch_size=3, epochs=4, verbose=0)
    after = encoded(pipeline.encoder, images(8))["pooled"]
    assert (np.abs(after - before).max() > 0) != frozen
    kgen.save(pipeline, tmp_path / "saved")
    loaded = kgen.load(tmp_path / "saved")
    np.testing.assert_allclose(encoded(loaded.encoder, images(8))["pooled"], after, atol=1e-6)
