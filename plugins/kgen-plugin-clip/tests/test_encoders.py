"""The encoders: their contract, what their embeddings are, and a training that finds the captions of images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
from keras import ops
from kgen_plugin_clip.encoders import Clip, ClipImage
from kgen_plugin_clip.images import Convolutional, Residual, VisionTransformer
from kgen_plugin_clip.retrieval import recall, retrieval_scores
from kgen_plugin_clip.texts import Frozen, Transformer

import kgen
from kgen.config import RunConfig
from kgen.plugins.discovery import registry
from kgen.runs.run import check, run
from kgen.testing import EncoderConformance

pytestmark = pytest.mark.portable

TEXT = Transformer(width=8, depth=1, heads=2, length=8)
VIT = VisionTransformer(size=8, patch=4, width=8, depth=1, heads=2)
CONVOLUTIONS = Convolutional(size=8, width=4, multipliers=(1, 2))


class Conformance(EncoderConformance):
    neighbors: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    replicas: ClassVar[bool] = False


@pytest.mark.backends
class TestTransformers(Conformance):
    replicas: ClassVar[bool] = True

    def build(self) -> Clip:
        return Clip(text=TEXT, image=VIT, dim=6)


class TestConvolutionsAndPairs(Conformance):
    def build(self) -> Clip:
        text = Transformer(width=8, depth=2, heads=1, length=40, tokens="pairs", vocabulary=300)
        return Clip(text=text, image=CONVOLUTIONS, dim=6, loss="sigmoid")


class TestFrozenText(Conformance):
    pads: ClassVar[bool] = True

    def build(self) -> Clip:
        text = Frozen(encoder={"name": "text/bag", "dim": 12, "length": 6})
        return Clip(text=text, image=CONVOLUTIONS, dim=6)


def images(count: int = 3, size: int = 8, channels: int = 3) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, size, size, channels), dtype=np.uint8))


class TestImages(EncoderConformance):
    inputs: ClassVar[Any] = tuple(images())
    pads: ClassVar[bool] = False

    def build(self) -> ClipImage:
        encoder = ClipImage(text=TEXT, image=VIT, dim=6)
        encoder.text_tower.adapt(["a red heart"])  # which comes with the weights
        return encoder

    @property
    def hard_inputs(self) -> list[Any]:
        large = np.random.default_rng(1).integers(0, 256, (20, 9, 1), dtype=np.uint8)
        return [*self.inputs, None, large]


def adapted(encoder: Clip, *captions: str) -> Clip:
    encoder.text_tower.adapt(captions or ["a red heart", "a blue circle"])
    encoder.null_condition()
    return encoder


def of(encoder: Clip, *inputs: Any) -> dict[str, np.ndarray]:
    tokens = {name: ops.convert_to_tensor(array) for name, array in encoder.tokenize(inputs).items()}
    return {name: ops.convert_to_numpy(value) for name, value in encoder(tokens).items()}


def test_they_are_registered() -> None:
    assert registry().find("encoder", "clip/clip").load() is Clip
    assert registry().find("encoder", "clip/image").load() is ClipImage


def test_pooled_is_the_embedding_with_unit_variance() -> None:
    encoder = adapted(Clip(text=TEXT, image=VIT, dim=6))
    made = of(encoder, "a red heart", "")
    np.testing.assert_allclose(np.linalg.norm(made["pooled"], axis=1), math.sqrt(6), rtol=1e-5)
    tokens = {name: ops.convert_to_tensor(array) for name, array in encoder.tokenize(["a red heart", ""]).items()}
    embedded = ops.convert_to_numpy(encoder.embed_texts(tokens))
    np.testing.assert_allclose(made["pooled"], embedded * math.sqrt(6), rtol=1e-5)
    ends = made["sequence"][[0, 1], [4, 1]] @ ops.convert_to_numpy(encoder.text_projection.kernel)  # of the end tokens
    np.testing.assert_allclose(embedded, ends / np.linalg.norm(ends, axis=1, keepdims=True), atol=1e-5)
    assert encoder.condition_space == kgen.ConditionSpace(8, 8, 6)


def test_a_text_ends_with_its_own_token_and_reads_only_what_comes_before() -> None:
    encoder = adapted(Clip(text=TEXT, image=VIT, dim=6), "a red heart")
    ids = encoder.tokenize(["a red heart", "", "a a a a a a a a a a"])["ids"]
    end = ids.max()
    assert ids[0].tolist().index(end) == 4 and ids[1].tolist()[:2] == [1, end] and ids[2][-1] == end
    first, second = of(encoder, "a red heart")["sequence"][0], of(encoder, "a red red")["sequence"][0]
    np.testing.assert_allclose(first[:3], second[:3], atol=1e-6)  # start, a, red
    assert np.abs(first[3] - second[3]).max() > 1e-4
    assert of(encoder, "a red heart")["mask"][0].tolist() == [1, 1, 1, 1, 1, 0, 0, 0]


def test_long_and_unknown_words_are_named() -> None:
    encoder = adapted(Clip(text=TEXT, image=VIT, dim=6))
    assert "'green' was not learned" in encoder.unread("a green heart") and encoder.unread("a red heart") == ""
    assert "only the first 6 of its 9 words" in encoder.unread("a a a a a a a a a")


def test_the_temperature_is_learned_up_to_a_hundred() -> None:
    encoder = adapted(Clip(text=TEXT, image=VIT, dim=6))
    assert abs(float(encoder.scale) - 1 / 0.07) < 1e-4
    encoder.log_scale.assign(9.0)
    assert abs(float(encoder.scale) - 100.0) < 1e-3
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.apply([ops.convert_to_tensor(-1.0)], [encoder.log_scale])
    assert abs(float(encoder.log_scale) - math.log(100.0)) < 1e-5  # the optimizer brings it back
    optimizer.apply([ops.convert_to_tensor(1.0)], [encoder.log_scale])
    assert abs(float(encoder.log_scale) - math.log(100.0) + 1.0) < 1e-5


def test_the_first_temperature_and_bias_of_the_sigmoid_loss() -> None:
    """Section 3.2 of Zhai et al. 2023: t' = log 10, b = -10."""
    encoder = adapted(Clip(text=TEXT, image=VIT, dim=6, loss="sigmoid"))
    assert abs(float(encoder.scale) - 10.0) < 1e-4 and float(encoder.bias) == -10.0


def test_images_of_another_size_are_refused_in_training_and_resized_as_prompts() -> None:
    encoder = adapted(Clip(text=TEXT, image=VIT, dim=6))
    with pytest.raises(kgen.ConfigError, match=r"takes images of 8x8, but these are 16x16: set image.size"):
        encoder.embed_images(ops.zeros((2, 16, 16, 3)))
    gray = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 1)).astype("float32")
    colored = ops.convert_to_tensor(np.repeat(gray, 3, axis=-1))
    np.testing.assert_allclose(
        ops.convert_to_numpy(encoder.embed_images(ops.convert_to_tensor(gray))),
        ops.convert_to_numpy(encoder.embed_images(colored)),
        atol=1e-6,
    )
    reader = adapted(ClipImage(text=TEXT, image=VIT, dim=6))
    made = of(reader, images()[0], None, images(1, 24)[0])
    assert made["pooled"].shape == (3, 6) and not made["pooled"][1].any() and made["pooled"][2].any()


def test_wide_images_are_cropped_not_squashed() -> None:
    wide = images(1, 16)[0][:8]  # (8, 16, 3)
    np.testing.assert_array_equal(adapted(Clip(text=TEXT, image=VIT, dim=6)).prepared([wide])[0], wide[:, 4:12])


def test_a_residual_block_adds_to_its_input() -> None:
    block, x = Residual(4), np.random.default_rng(0).standard_normal((2, 4, 4, 4)).astype("float32")
    block.build(x.shape)
    for weight in block.conv2.weights:
        weight.assign(ops.zeros_like(weight))
    np.testing.assert_array_equal(ops.convert_to_numpy(block(ops.convert_to_tensor(x))), x)


@pytest.mark.backends
def test_a_frozen_text_tower_is_not_trained() -> None:
    """Here, it is two encoders, with pooled vectors that are wider than the sequence."""
    bags = [{"name": "text/bag", "dim": dim, "length": 6} for dim in (12, 8)]
    encoder = adapted(Clip(text=Frozen(encoder={"name": "kgen/joint", "encoders": bags}), image=VIT, dim=6))
    assert encoder.condition_space == kgen.ConditionSpace(12, 12, 6)
    assert encoder.text_tower.weights and not any(weight.trainable for weight in encoder.text_tower.weights)
    (kernel,) = encoder.text_projection.trainable_weights
    assert tuple(kernel.shape) == (20, 6)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"text": {"kind": "transformer", "width": 6, "heads": 4}}, "width 6 must be a multiple of heads 4"),
        ({"image": {"kind": "vit", "size": 10}}, "patch 4 must divide size 10"),
        ({"image": {"kind": "convolutional", "size": 12}}, "3 stages need a size that 8 divides"),
        ({"text": {"kind": "frozen"}}, "encoder"),
        ({"text": {"kind": "frozen", "encoder": "text/label"}}, "must read captions, not label"),
        ({"text": {"kind": "frozen", "encoder": "clip/clip"}}, r"'Clip' must be trained .* keras-hub/clip-text"),
        ({"loss": "hinge"}, "must be 'softmax' or 'sigmoid'"),
    ],
)
def test_bad_options(option: dict[str, Any], message: str) -> None:
    with pytest.raises((kgen.ConfigError, ValueError), match=message):
        kgen.make_encoder({"name": "clip/clip", **option}, None)


def test_recall_counts_columns_that_are_nearer() -> None:
    similarity = np.array([[0.9, 0.1, 0.2], [0.8, 0.7, 0.1], [0.3, 0.2, 0.1]])
    right = np.eye(3, dtype=bool)
    assert [recall(similarity, right, k) for k in (1, 2, 3)] == [1 / 3, 2 / 3, 1.0]
    with_equal = right | right[::-1]  # the first and the third caption are equal
    assert recall(similarity, with_equal, 1) == 2 / 3
    without = right & [[True], [True], [False]]
    assert [recall(similarity, without, k) for k in (1, 3, 9)] == [1 / 3, 2 / 3, 2 / 3]
    scores = retrieval_scores(np.eye(3), np.eye(3)[[1, 0, 2]], ["a", "b", "c"])
    assert scores["image to text R@1"] == scores["text to image R@1"] == 1 / 3
    assert scores["image to text R@5"] == 1.0
    assert set(retrieval_scores(np.eye(3), np.eye(3)[[2, 1, 0]], ["a", "b", "a"]).values()) == {1.0}


CONFIG: dict[str, Any] = {
    "data": {"name": "shapes", "size": 16, "count": 64, "objects": 1},
    "encoder": {
        "name": "clip/clip",
        "text": {"kind": "transformer", "width": 16, "depth": 1, "heads": 2, "length": 12},
        "image": {"kind": "convolutional", "size": 16, "width": 8, "multipliers": [1, 2]},
        "dim": 16,
        "fit": {"steps": 2, "batch_size": 8},
    },
    "generator": {"name": "diffusion/diffusion", "network": {"kind": "dit", "width": 8, "depth": 1, "heads": 1}},
    "fit": {"steps": 2, "batch_size": 8},
    "sample": {"every": 0, "options": {"steps": 2}},
}


def test_a_run_trains_it_and_another_run_reads_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path / "cache"))
    run(RunConfig.from_dict(CONFIG), tmp_path / "texts", log=lambda text: None)
    encoder = kgen.load(tmp_path / "texts").encoder
    assert isinstance(encoder, Clip) and not encoder.trainable
    config = {**CONFIG, "encoder": {"name": "clip/image", "from": str(tmp_path / "texts")}}
    run(RunConfig.from_dict(config), tmp_path / "images", log=lambda text: None)
    pipeline = kgen.load(tmp_path / "images")
    assert isinstance(pipeline.encoder, ClipImage)
    (image,) = images(1, 16)
    floats = ops.convert_to_tensor(image[None].astype("float32") / 127.5 - 1.0)
    expected = ops.convert_to_numpy(encoder.embed_images(floats)) * math.sqrt(16)
    np.testing.assert_allclose(of(pipeline.encoder, image)["pooled"], expected, atol=1e-5)
    assert pipeline.generate([image], n=2, steps=2).shape == (2, 16, 16, 3)
    opened = kgen.open_encoder(tmp_path / "texts")
    assert opened.scores(np.stack(images(3, 16)), ["a", "b", "c"]).keys() == {
        *("image to text R@1", "image to text R@5", "text to image R@1", "text to image R@5", "scale")
    }


def test_wrong_sizes_are_found_before_the_training() -> None:
    with pytest.raises(kgen.ConfigError, match=r"takes images of 16x16, but these are 32x32"):
        check(RunConfig.from_dict(CONFIG, ["data.size=32"]))
    with pytest.raises(kgen.ConfigError, match=r"clip/image' uses the weights of a trained 'Clip': set 'from"):
        RunConfig.from_dict({**CONFIG, "encoder": "clip/image"})


def test_a_run_with_another_encoder_has_no_image_tower(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("encoder: {name: text/bag, dim: 8, length: 6}", encoding="utf-8")
    with pytest.raises(kgen.ConfigError, match=r"uses the weights of a trained 'Clip', but .* has 'text/bag'") as error:
        RunConfig.from_dict({**CONFIG, "encoder": {"name": "clip/image", "from": str(tmp_path)}})
    assert "unknown key" not in str(error.value)


@pytest.mark.slow
def test_training_finds_the_captions_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of another random choice; by chance, the recall would be 1/64."""
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path / "cache"))
    fit = {"steps": 300, "batch_size": 64, "learning_rate": 3e-3, "ema": None}
    data = {**CONFIG["data"], "count": 864}  # all scenes
    config = {**CONFIG, "data": data, "encoder": {**CONFIG["encoder"], "fit": fit}}
    run(RunConfig.from_dict(config), tmp_path / "run", stage="encoder", log=lambda text: None)
    dataset = kgen.make_dataset({**CONFIG["data"], "seed": 5})
    captions = dataset.captions("train")
    shown = np.stack([dataset.image("train", row) for row in range(len(captions))])
    scores = kgen.open_encoder(tmp_path / "run").scores(shown, list(captions))
    assert scores["image to text R@1"] > 0.25, scores
