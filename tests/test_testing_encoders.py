"""The conformance kit of encoders: passes one that is right, and fails each that breaks one rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from kit_checks import fails

import kgen
from kgen import ConditionSpace
from kgen.testing import EncoderConformance


class Letters(kgen.Encoder):
    """Learns one vector a letter; pooled by their mean."""

    def __init__(self, *, dim: int = 8, length: int = 12, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.length = length
        self.alphabet = ""

    @property
    def condition_space(self) -> ConditionSpace:
        return ConditionSpace(self.length, self.dim)

    def adapt(self, texts: Any) -> None:
        self.alphabet = "".join(sorted(set("".join(texts))))

    def build(self, input_shape: Any = None) -> None:
        self.embedding = keras.layers.Embedding(len(self.alphabet) + 2, self.dim)

    def tokenize(self, texts: Any) -> dict[str, np.ndarray]:
        ids = np.zeros((len(texts), self.length), np.int32)  # (B, L): 0 pads, 1 begins, as it does the empty text
        ids[:, 0] = 1
        for row, text in zip(ids, texts, strict=True):
            known = [self.alphabet.index(letter) + 2 for letter in text if letter in self.alphabet]
            row[1 : 1 + len(known)] = known[: self.length - 1]
        return {"ids": ids}

    def call(self, tokens: Any, training: bool = False) -> dict[str, Any]:
        sequence = self.embedding(tokens["ids"])  # (B, L, D)
        mask = ops.cast(tokens["ids"] != 0, "float32")  # (B, L)
        weights = ops.cast(mask, sequence.dtype)[..., None]
        pooled = ops.sum(sequence * weights, axis=1) / ops.sum(weights, axis=1)  # (B, D)
        return {"sequence": sequence, "mask": mask, "pooled": pooled}

    def save_assets(self, path: Any) -> None:
        (Path(path) / "alphabet.json").write_text(json.dumps(self.alphabet))

    def load_assets(self, path: Any) -> None:
        self.alphabet = json.loads((Path(path) / "alphabet.json").read_text())


@pytest.mark.backends
class TestLetters(EncoderConformance):
    def build(self) -> Letters:
        return Letters(dim=6)


class Colors(Letters):
    """It is trained in a separate stage: the vector of a caption predicts the mean color of the image."""

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)
        self.color = self.add_weight(shape=(self.dim, 3), initializer="glorot_uniform", name="color")

    def compute_losses(self, images: Any, tokens: Any, training: bool) -> dict[str, Any]:
        found = ops.cast(ops.matmul(self(tokens)["pooled"], self.color), "float32")  # (B, 3)
        return {"loss": ops.mean(ops.square(found - ops.mean(images, axis=(1, 2))), axis=-1)}

    def scores(self, images: Any, inputs: Any) -> dict[str, float]:
        return {"brightness": float(images.mean())}


@pytest.mark.backends
class TestColors(EncoderConformance):
    def build(self) -> Colors:
        return Colors(dim=6)


def colors(**members: Any) -> Any:
    broken = type("Broken", (Colors,), members)
    return lambda: broken(dim=6)


def averaged(self: Any, images: Any, tokens: Any, training: bool) -> dict[str, Any]:
    return {"loss": ops.mean(Colors.compute_losses(self, images, tokens, training)["loss"])}


def contrastive(self: Any, images: Any, tokens: Any, training: bool) -> dict[str, Any]:
    loss = Colors.compute_losses(self, images, tokens, training)["loss"]
    return {"loss": loss - ops.mean(loss)}


def growing(self: Any, images: Any, tokens: Any, training: bool) -> dict[str, Any]:
    losses = Colors.compute_losses(self, images, tokens, training)
    if training:
        self.late = self.add_weight(shape=(), name="late")
    return losses


def half(self: Any, images: Any, tokens: Any, training: bool) -> dict[str, Any]:
    found = Colors.compute_losses(self, images, tokens, training)
    return {name: ops.cast(value, "bfloat16") for name, value in found.items()}


def detached(self: Any, images: Any, tokens: Any, training: bool) -> dict[str, Any]:
    found = ops.matmul(ops.stop_gradient(self(tokens)["pooled"]), self.color)
    return {"loss": ops.mean(ops.square(found - ops.mean(images, axis=(1, 2))), axis=-1)}


STAGES: list[tuple[str, dict[str, Any], str]] = [
    ("test_losses_are_finite_and_per_example", {"compute_losses": averaged}, "must be one number per example"),
    ("test_losses_are_finite_and_per_example", {"compute_losses": half}, "must be float32"),
    ("test_losses_do_not_mix_examples", {"compute_losses": contrastive}, "changes with the other examples"),
    ("test_no_weights_appear_late", {"compute_losses": growing}, "creates weights|cannot add"),
    ("test_every_weight_has_a_gradient", {"compute_losses": detached}, "does not depend on the trainable weights"),
    ("test_scores_are_numbers", {"scores": lambda *a: {"brightness": float("nan")}}, "must be a number"),
]


@pytest.mark.parametrize(("check", "members", "match"), STAGES, ids=[f"{c}-{m}" for c, _, m in STAGES])
def test_broken_training_of_an_encoder_fails(check: str, members: dict[str, Any], match: str) -> None:
    fails(EncoderConformance, check, colors(**members), match)


def letters(**members: Any) -> Any:
    broken = type("Broken", (Letters,), members)
    return lambda: broken(dim=6)


def ragged(self: Any, texts: Any) -> dict[str, np.ndarray]:
    return {"ids": Letters.tokenize(self, texts)["ids"][:, : 1 + max(map(len, texts))]}


def wide(self: Any, texts: Any) -> dict[str, np.ndarray]:
    return {"ids": Letters.tokenize(self, texts)["ids"].astype(np.int64)}


def crowded(self: Any, texts: Any) -> dict[str, np.ndarray]:
    ids = Letters.tokenize(self, texts)["ids"]
    return {"ids": np.maximum(ids, len(texts) == 1)}


def leaking(self: Any, tokens: Any, training: bool = False) -> dict[str, Any]:
    condition = Letters.call(self, tokens)
    return {**condition, "sequence": condition["sequence"] + ops.max(condition["sequence"], axis=0, keepdims=True)}


def blank(self: Any, tokens: Any, training: bool = False) -> dict[str, Any]:
    condition = Letters.call(self, tokens)
    return {**condition, "mask": ops.cast(tokens["ids"] > 1, "float32")}


def narrow(self: Any, tokens: Any, training: bool = False) -> dict[str, Any]:
    condition = Letters.call(self, tokens)
    return {**condition, "pooled": condition["pooled"][:, :3]}


def frozen_by_mistake(self: Any, tokens: Any, training: bool = False) -> dict[str, Any]:
    return {name: ops.stop_gradient(value) for name, value in Letters.call(self, tokens).items()}


def unpadded(self: Any, tokens: Any, training: bool = False) -> dict[str, Any]:
    condition = Letters.call(self, tokens)
    return {**condition, "mask": ops.ones_like(condition["mask"])}


def noisy_letters(self: Any, *, dim: int = 8, length: int = 12) -> None:
    Letters.__init__(self, dim=dim, length=length)
    self.seeds = kgen.SeedGenerator(0)


def noisy(self: Any, tokens: Any, training: bool = False) -> dict[str, Any]:
    condition = Letters.call(self, tokens)
    pooled = condition["pooled"]
    return {**condition, "pooled": pooled + 0.1 * keras.random.normal(ops.shape(pooled), seed=self.seeds)}


def half_conditions(self: Any, tokens: Any, training: bool = False) -> dict[str, Any]:
    return {name: ops.cast(value, "float16") for name, value in Letters.call(self, tokens).items()}


ENCODERS = [
    ("test_mask_covers_no_padding", {"call": unpadded}, "must be 0.0 for padding"),
    ("test_same_input_same_condition", {"__init__": noisy_letters, "call": noisy}, "differs from call to call"),
    ("test_conditions_are_in_the_space", {"call": half_conditions}, "must be float32, not float16"),
    ("test_tokens_are_plain_arrays_of_fixed_shape", {"tokenize": ragged}, "must have the shape"),
    ("test_tokens_are_plain_arrays_of_fixed_shape", {"tokenize": wide}, "every backend"),
    ("test_tokens_of_an_input_are_always_the_same", {"tokenize": crowded}, "alone and in a batch"),
    ("test_batch_neighbors_change_nothing", {"call": leaking}, "alone and in a batch"),
    ("test_conditions_are_in_the_space", {"call": blank}, "at least one"),
    ("test_conditions_are_in_the_space", {"call": narrow}, "must have the shape"),
    ("test_every_weight_has_a_gradient", {"call": frozen_by_mistake}, "does not depend on"),
    ("test_assets_and_weights_survive_files", {"load_assets": lambda self, path: self.adapt("ab")}, "differs|shape"),
]


@pytest.mark.parametrize(("check", "members", "match"), ENCODERS, ids=[f"{c}-{m}" for c, _, m in ENCODERS])
def test_broken_encoder_fails(check: str, members: dict[str, Any], match: str) -> None:
    broken = letters(**members)
    if check == "test_assets_and_weights_survive_files":
        with pytest.raises((AssertionError, kgen.RunError), match=match):
            type(
                "Case", (EncoderConformance,), {"build": lambda self: broken()}
            )().test_assets_and_weights_survive_files()
    else:
        fails(EncoderConformance, check, broken, match)
