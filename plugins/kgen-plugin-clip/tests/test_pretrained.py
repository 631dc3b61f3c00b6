"""Published models have the same embeddings and scores as in the library that saved them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
from keras import ops
from kgen_plugin_clip.encoders import Clip, ClipImage
from kgen_plugin_clip.metrics import CMMD, ClipScore, Embedder
from kgen_plugin_clip.pretrained import hugging_face
from kgen_plugin_clip.pretrained.model import Pretrained
from kgen_plugin_vision.preprocessing import Preprocessing
from PIL import Image
from safetensors.numpy import load_file, save_file

import kgen
from kgen.backend.precision import precision
from kgen.config import RunConfig
from kgen.contracts.metric import GeneratedImages, measure
from kgen.data.datasets.shapes import Shapes
from kgen.errors import BiasedMetricWarning
from kgen.runs.evaluation import evaluate
from kgen.runs.run import run
from kgen.testing import EncoderConformance

pytestmark = pytest.mark.portable


def opened(folder: Path) -> Clip:
    encoder = kgen.make_encoder({"name": "clip/clip", "pretrained": str(folder)}, [])
    assert isinstance(encoder, Clip)
    encoder.null_condition()
    return encoder


def condition(encoder: kgen.Encoder, inputs: list[Any]) -> dict[str, np.ndarray]:
    tokens = {name: ops.convert_to_tensor(array) for name, array in encoder.tokenize(inputs).items()}
    return {name: ops.convert_to_numpy(value) for name, value in encoder(tokens).items()}


def compare(published: ModuleType, folder: Path, expected: dict[str, np.ndarray]) -> None:
    embedder = Embedder(str(folder))
    found = {"image_embeds": embedder.images(published.images()), "text_embeds": embedder.texts(published.TEXTS)}
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], atol=1e-5, err_msg=name)
    scale = float(ops.convert_to_numpy(embedder.encoder.scale))
    logits = scale * found["image_embeds"] @ found["text_embeds"].T
    np.testing.assert_allclose(logits, expected["logits_per_image"], atol=1e-5 * scale)
    assert np.ptp(expected["logits_per_image"]) > 0.1 * scale


# ---- the same numbers ---------------------------------------------------------------------------------------------


@pytest.mark.backends
def test_openais_models_are_those_of_transformers(published: ModuleType, folder: Path) -> None:
    expected = published.theirs(published.random_model("quick_gelu"))
    compare(published, folder, expected)
    encoder = opened(folder)
    made = condition(encoder, published.TEXTS)
    np.testing.assert_array_equal(made["mask"], expected["mask"])
    real = expected["mask"].astype(bool)
    np.testing.assert_allclose(made["sequence"][real], expected["sequence"][real], atol=2e-5)
    np.testing.assert_allclose(made["pooled"], expected["text_embeds"] * np.sqrt(10), atol=4e-5)
    assert encoder.condition_space == kgen.ConditionSpace(11, 16, 10)
    assert encoder.unread("red " * 30) == "only the first 11 of its 32 tokens are read"


def test_openclips_models_in_the_layout_of_transformers(published: ModuleType, tmp_path: Path) -> None:
    """They have the exact GELU. The weights are in several files."""
    model = published.random_model("gelu")
    folder = published.save(model, tmp_path / "laion")
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="30KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    compare(published, folder, published.theirs(model))


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_openclips_own_layout(published: ModuleType, activation: str, tmp_path: Path) -> None:
    """Images are prepared as by torchvision, which OpenCLIP uses: it rounds the place of the crop differently."""

    def prepare(image: Image.Image) -> np.ndarray:
        """Resize(12, bicubic), CenterCrop(12), ToTensor and Normalize, by the formulas of torchvision."""
        short = min(image.size)
        width, height = (12 if side == short else int(12 * side / short) for side in image.size)
        left, top = (round((side - 12) / 2.0) for side in (width, height))
        cut = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + 12, top + 12))
        return np.moveaxis((np.asarray(cut) / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.25], -1, 0).astype("float32")

    pixels = np.stack([prepare(Image.fromarray(image)) for image in published.images()])
    model = published.random_model(activation, 1e-5)
    compare(published, published.save_open_clip(model, tmp_path / "own"), published.theirs(model, pixels))


def test_images_are_prepared_as_by_transformers(published: ModuleType, folder: Path) -> None:
    expected = published.processor()(published.images())["pixel_values"]
    encoder = opened(folder)
    assert encoder.model is not None
    preprocessing = encoder.model.architecture.preprocessing
    prepared = encoder.prepared(published.images()).astype("float32") / 127.5 - 1
    normalized = ops.convert_to_numpy(preprocessing.normalized(ops.convert_to_tensor(prepared)))
    np.testing.assert_allclose(normalized, np.moveaxis(np.stack(expected), 1, -1), atol=1e-5)
    gray = published.images()[1][..., :1]
    np.testing.assert_array_equal(encoder.prepared([gray]), encoder.prepared([np.repeat(gray, 3, axis=-1)]))


def test_weights_in_bfloat16(published: ModuleType, tmp_path: Path) -> None:
    """As many published models have them: kgen computes in float32, like `transformers` after `.float()`."""
    model = published.random_model("quick_gelu").bfloat16()
    folder = published.save(model, tmp_path / "rounded")
    compare(published, folder, published.theirs(model.float()))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_filters_have_the_numbers_of_pillow(copied: Path, number: int) -> None:
    settings = json.loads((copied / "preprocessor_config.json").read_text())
    (copied / "preprocessor_config.json").write_text(json.dumps({**settings, "resample": number}))
    assert hugging_face.preprocessing(copied, 12).filter.upper() == Image.Resampling(number).name


@pytest.mark.parametrize("name", ["bicubic", "bilinear"])
def test_filters_of_openclip(published: ModuleType, name: str, tmp_path: Path) -> None:
    folder = published.save_open_clip(published.random_model("gelu", 1e-5), tmp_path / "own")
    settings = json.loads((folder / "open_clip_config.json").read_text())
    settings["preprocess_cfg"]["interpolation"] = name
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    assert Pretrained.of_folder(str(folder)).architecture.preprocessing.filter == name


def test_the_middle_between_two_places() -> None:
    """Of 7 columns that are left out, transformers leaves out 3 before the crop, and torchvision 4."""
    image = np.tile(np.arange(15, dtype=np.uint8)[None, :, None], (8, 1, 3))
    first = {rounding: Preprocessing(8, 8, rounding=rounding).cropped(image)[0, 0, 0] for rounding in ("down", "even")}
    assert first == {"down": 3, "even": 4}


def test_old_configurations_of_openai(published: ModuleType, copied: Path, folder: Path) -> None:
    """They hold keys of other models, integers as sizes, and a wrong id of the end token."""
    config = json.loads((copied / "config.json").read_text())
    config |= {"text_config_dict": {"hidden_act": "quick_gelu"}, "vision_config_dict": None}
    config["text_config"] |= {"eos_token_id": 2, "typical_p": 1.0, "id2label": {"0": "LABEL_0"}, "hidden_act": "gelu"}
    (copied / "config.json").write_text(json.dumps(config))
    old = {"crop_size": 12, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3, "size": 14}
    old |= {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.3, 0.25],
    }
    (copied / "preprocessor_config.json").write_text(json.dumps(old))
    np.testing.assert_array_equal(
        Embedder(str(copied)).texts(published.TEXTS), Embedder(str(folder)).texts(published.TEXTS)
    )
    np.testing.assert_array_equal(
        Embedder(str(copied)).images(published.images()), Embedder(str(folder)).images(published.images())
    )


def test_half_precision_is_read(published: ModuleType, copied: Path, folder: Path) -> None:
    file = copied / "model.safetensors"
    save_file({name: array.astype(np.float16) for name, array in load_file(file).items()}, file)
    assert (
        np.abs(Embedder(str(copied)).texts(published.TEXTS) - Embedder(str(folder)).texts(published.TEXTS)).max() < 1e-2
    )


# ---- the contract -------------------------------------------------------------------------------------------------


class Folder:
    path = ""


@pytest.fixture(scope="module", autouse=True)
def known(folder: Path) -> Iterator[None]:
    Folder.path = str(folder)
    yield


class TestTexts(EncoderConformance):
    neighbors: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    image_space: ClassVar[kgen.Space] = kgen.Space("continuous", (12, 12, 3))

    def build(self) -> Clip:
        return Clip(pretrained=Folder.path)


class TestImages(EncoderConformance):
    inputs: ClassVar[Any] = tuple(np.random.default_rng(0).integers(0, 256, (2, 20, 31, 3), dtype=np.uint8))
    pads: ClassVar[bool] = False

    def build(self) -> ClipImage:
        return ClipImage(pretrained=Folder.path)


# ---- metrics ------------------------------------------------------------------------------------------------------


def test_clip_score_and_cmmd_of_a_published_model(published: ModuleType, folder: Path) -> None:
    """The definitions, in float64, of the embeddings by `transformers`."""
    import torch

    data = Shapes(size=16, count=12, objects=1)
    model = published.random_model("quick_gelu")
    real = np.stack([data.image("train", row) for row in range(12)])
    made = published.images()[1:2] * 4  # of one size
    shown = np.stack(made) + np.arange(4, dtype=np.uint8)[:, None, None, None]
    with torch.no_grad():
        embeds = [
            model(
                input_ids=torch.zeros((1, 11), dtype=torch.long),
                pixel_values=torch.tensor(np.stack(published.processor()(list(batch))["pixel_values"])),
            )
            .image_embeds.numpy()
            .astype("float64")
            for batch in (real, shown)
        ]
    texts = published.theirs(model)["text_embeds"].astype("float64")
    cosines = (embeds[1] * texts).sum(1) / np.linalg.norm(embeds[1], axis=1) / np.linalg.norm(texts, axis=1)
    batch = [GeneratedImages(shown, published.TEXTS)]
    score = measure(ClipScore(model=str(folder)), data, "train", batch)["score"]
    assert abs(score - max(100 * cosines.mean(), 0.0)) < 1e-3 and abs(cosines.mean()) > 1e-2

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([np.exp(-((x - y) ** 2).sum() / (2 * 10.0**2)) for x in a for y in b]))

    x, y = embeds
    expected = 1000 * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))
    metric = CMMD(model=str(folder))
    assert abs(measure(metric, data, "train", batch)["distance"] - expected) < 1e-4 * expected and expected > 0.1
    assert metric.protocol()["resize"] == "Pillow bicubic, shorter side to 14, crop of 12 (down)"


def test_a_published_model_judges_in_float32(folder: Path) -> None:
    """Also in a run with another precision, so that the numbers of runs compare."""
    with precision("mixed_bfloat16"):
        assert {layer.compute_dtype for layer in Embedder(str(folder)).encoder._flatten_layers()} == {"float32"}


# ---- in a run -----------------------------------------------------------------------------------------------------


def config(folder: Path, **encoder: Any) -> dict[str, Any]:
    return {
        "data": {"name": "shapes", "size": 16, "count": 32, "objects": 1},
        "encoder": {"name": "clip/clip", "pretrained": str(folder), **encoder},
        "generator": {"name": "diffusion/diffusion", "network": {"kind": "dit", "width": 8, "depth": 1, "heads": 1}},
        "fit": {"steps": 2, "batch_size": 8},
        "sample": {"every": 0, "options": {"steps": 2}},
        "evaluate": {"images": 4, "metrics": [{"name": "clip-score", "model": str(folder)}]},
    }


def test_a_run_holds_the_model(
    published: ModuleType, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the folder, the run generates and is scored; another run reads images by its model."""
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path / "cache"))
    expected = Embedder(str(copied)).texts(published.TEXTS)
    with pytest.warns(BiasedMetricWarning, match=r"clip-score is biased: .* is also the encoder of the generator"):
        run(RunConfig.from_dict(config(copied)), tmp_path / "run", log=lambda text: None)
    notes = json.loads((tmp_path / "run" / "manifest.json").read_text())["notes_on_scores"]
    assert any("clip-score is biased" in note for note in notes)
    moved = tmp_path / "moved"
    copied.rename(moved)
    pipeline = kgen.load(tmp_path / "run")
    assert not pipeline.encoder.trainable and pipeline.generate(["a red heart"], n=2, steps=2).shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(Embedder(str(tmp_path / "run")).texts(published.TEXTS), expected)
    with pytest.warns(BiasedMetricWarning):
        evaluate(tmp_path / "run", metrics=[{"name": "cmmd", "model": str(moved)}], out=tmp_path / "scores.json")
    second = {**config(copied), "encoder": {"name": "clip/image", "from": str(tmp_path / "run")}, "evaluate": {}}
    run(RunConfig.from_dict(second), tmp_path / "images", log=lambda text: None)
    image = published.images()[2]
    reader = kgen.load(tmp_path / "images").encoder
    found = condition(reader, [image])["pooled"]
    np.testing.assert_allclose(found, Embedder(str(moved)).images([image]) * np.sqrt(10), atol=1e-5)


def test_training_continues_from_the_published_weights(
    published: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After two small steps, the embeddings are near those of the model. The folder may then be deleted."""
    folder = published.save(published.random_model("quick_gelu", size=16), tmp_path / "published")
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path / "cache"))
    expected = Embedder(str(folder)).texts(published.TEXTS)
    fit = {"steps": 2, "batch_size": 8, "learning_rate": 1e-4, "warmup_steps": 0, "ema": None}
    given = RunConfig.from_dict({**config(folder, fit=fit), "evaluate": {}})
    run(given, tmp_path / "run", stage="encoder", log=lambda text: None)
    shutil.rmtree(folder)
    tuned = Embedder(str(tmp_path / "run"))
    assert 1e-5 < np.abs(tuned.texts(published.TEXTS) - expected).max() < 0.05
    run(given, tmp_path / "run", log=lambda text: None)  # the training of the generator
    encoder = kgen.load(tmp_path / "run").encoder
    assert not encoder.trainable and tuned.digest == Embedder(str(tmp_path / "run")).digest


def test_a_published_model_is_joined_with_a_trained_encoder(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run copies the published one, and trains the other one together with the generator."""
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path / "cache"))
    texts = ["a red circle", ""]
    expected = condition(opened(copied), texts)
    joined = [{"name": "clip/clip", "pretrained": str(copied)}, {"name": "text/bag", "dim": 16, "length": 6}]
    given = RunConfig.from_dict({**config(copied), "encoder": joined, "evaluate": {}})
    run(given, tmp_path / "run", stage="encoder", log=lambda text: None)
    shutil.rmtree(copied)
    run(given, tmp_path / "run", log=lambda text: None)
    encoder = kgen.load(tmp_path / "run").encoder
    assert [part.trainable for part in encoder.parts()] == [False, True]
    found = condition(encoder, texts)
    np.testing.assert_allclose(found["pooled"][:, :10], expected["pooled"], atol=1e-5)
    np.testing.assert_allclose(found["sequence"][:, :11], expected["sequence"], atol=1e-5)
    start, end = (load_file(tmp_path / "run" / part / "weights.safetensors") for part in ("encoder/model", "model"))
    changed = [name for name, array in start.items() if not np.array_equal(end[name], array)]
    assert 0 < len(changed) == len(encoder.parts()[1].weights)
    with pytest.raises(kgen.ConfigError, match=r"encoder\.fit.*has the weights of the files that it names"):
        RunConfig.from_dict({**config(copied), "encoder": {"encoders": joined, "fit": {"steps": 2}}, "evaluate": {}})


def test_a_saved_pipeline_holds_the_model(published: ModuleType, copied: Path, tmp_path: Path) -> None:
    network = {"kind": "dit", "width": 8, "depth": 1, "heads": 1}
    pipeline = kgen.assemble(
        encoder={"name": "clip/image", "pretrained": str(copied)},
        generator={"name": "diffusion/diffusion", "network": network},
        image_space=(16, 16, 3),
    )
    frozen = {id(weight) for weight in pipeline.encoder.weights}
    assert pipeline.trainable_weights and not any(id(weight) in frozen for weight in pipeline.trainable_weights)
    kgen.save(pipeline, tmp_path / "saved")
    expected = Embedder(str(copied)).images(published.images())
    shutil.rmtree(copied)
    encoder = kgen.load(tmp_path / "saved").encoder
    found = condition(encoder, published.images())["pooled"] / np.sqrt(10)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ({"dim": 8}, r"'pretrained' has the options of its folder: leave out dim"),
        ({"loss": "sigmoid"}, r"leave out loss"),
        ({"init": "runs/other"}, r"encoder\.init.*has the weights of the files that it names: leave this out"),
        ({"name": "clip/image", "fit": {"steps": 2}}, r"encoder\.fit.*has the weights of the files that it names"),
    ],
)
def test_options_that_have_no_meaning(folder: Path, encoder: dict[str, Any], message: str) -> None:
    with pytest.raises(kgen.ConfigError, match=message):
        kgen.make_encoder(RunConfig.from_dict(config(folder, **encoder)).encoder.choice, [])


def test_before_the_folder_is_read() -> None:
    with pytest.raises(kgen.ConfigError, match=r"has not read no/such/folder yet: call its adapt"):
        Clip(pretrained="no/such/folder").tokenize(["a"])
