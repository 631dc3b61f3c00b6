"""The losses of contrastive training: closed forms, published formulas, and two replicas."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from kgen_plugin_clip import losses as module
from kgen_plugin_clip.encoders import Clip
from kgen_plugin_clip.images import VisionTransformer
from kgen_plugin_clip.losses import sigmoid_losses, softmax_losses
from kgen_plugin_clip.texts import Transformer

import kgen
from kgen.testing.execution import arrays, tensors
from kgen.testing.replicas import ReplicaTraining, mirrored

CAPTIONS = ["a red heart", "a blue circle", "a green square", "two stars", "a sun", "a moon", "a dog", "a small cat"]
SIZE = 8


def units(count: int, dim: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32")


def losses(function: Any, *given: Any) -> dict[str, np.ndarray]:
    made: dict[str, np.ndarray] = arrays(function(*(ops.convert_to_tensor(value) for value in given)))
    return made


def test_softmax_of_orthogonal_pairs_in_closed_form() -> None:
    """Each image equals its text and is orthogonal to the others: log(1 + (N - 1) exp(-scale))."""
    for count, scale in ((4, 1.0), (4, 100.0), (7, 14.3)):
        found = losses(
            softmax_losses, np.eye(count, dtype="float32"), np.eye(count, dtype="float32"), np.float32(scale)
        )
        np.testing.assert_allclose(found["loss"], np.full(count, np.log1p((count - 1) * np.exp(-scale))), atol=2e-6)
        np.testing.assert_array_equal(found["accuracy"], np.ones(count))


def test_softmax_is_the_published_pseudocode() -> None:
    """Figure 3 of Radford et al. 2021, by numpy, and the loss of the package `transformers`."""
    import torch
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    images, texts, scale = units(6, 5, 0), units(6, 5, 1), 3.7
    logits = images.astype("float64") @ texts.T.astype("float64") * scale  # (N, N)

    def cross_entropy(rows: np.ndarray) -> np.ndarray:
        probabilities = np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)
        return -np.log(np.diag(probabilities))

    expected = 0.5 * (cross_entropy(logits) + cross_entropy(logits.T))
    found = losses(softmax_losses, images, texts, np.float32(scale))
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    np.testing.assert_array_equal(found["accuracy"], logits.argmax(axis=1) == np.arange(6))
    theirs = float(image_text_contrastive_loss(torch.tensor(logits.T)))
    np.testing.assert_allclose(found["loss"].mean(), theirs, rtol=1e-5)


def test_sigmoid_is_the_published_pseudocode() -> None:
    """Algorithm 1 of Zhai et al. 2023: the sum of log sigmoid(label * logit) over all pairs, divided by N."""
    images, texts, scale, bias = units(6, 5, 0), units(6, 5, 1), 10.0, -3.0
    labels = 2 * np.eye(6) - 1
    logits = images.astype("float64") @ texts.T.astype("float64") * scale + bias
    expected = np.log1p(np.exp(-labels * logits)).sum() / 6
    found = losses(sigmoid_losses, images, texts, np.float32(scale), np.float32(bias))
    np.testing.assert_allclose(found["loss"].mean(), expected, rtol=1e-5)
    np.testing.assert_allclose(found["loss"][2], np.log1p(np.exp(-labels * logits)).sum(axis=1)[2], rtol=1e-5)


@pytest.mark.portable
@pytest.mark.parametrize("function", [softmax_losses, sigmoid_losses])
def test_the_examples_of_other_replicas_are_negatives(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second replica gathers what both have: its losses are those of the second half of the whole batch."""
    images, texts = units(6, 5, 0), units(6, 5, 1)
    others = (np.float32(3.7), np.float32(-1.0))[: 1 if function is softmax_losses else 2]
    whole = losses(function, images, texts, *others)

    def gather(rows: Any) -> Any:
        first = images if np.array_equal(rows, images[3:]) else texts
        return ops.concatenate([ops.convert_to_tensor(first[:3]), rows])

    monkeypatch.setattr(module, "gather_over_replicas", gather)
    found = losses(function, images[3:], texts[3:], *others)
    np.testing.assert_allclose(found["loss"], whole["loss"][3:], rtol=1e-5)
    np.testing.assert_array_equal(found["accuracy"], whole["accuracy"][3:])


def clip(loss: str) -> Clip:
    """A tiny model whose weights are always the same."""
    keras.utils.set_random_seed(0)
    text = Transformer(width=8, depth=1, heads=2, length=6)
    image = VisionTransformer(size=SIZE, patch=4, width=8, depth=1, heads=2)
    encoder = Clip(text=text, image=image, dim=6, loss=loss)
    encoder.adapt(CAPTIONS)
    encoder.null_condition()
    for number, weight in enumerate(encoder.weights):
        weight.assign(np.random.default_rng(number).normal(0.0, 0.4, weight.shape))
    return encoder


def batch(encoder: Clip) -> dict[str, Any]:
    images = np.random.default_rng(0).uniform(-1.0, 1.0, (len(CAPTIONS), SIZE, SIZE, 3)).astype("float32")
    return {"images": images, "tokens": encoder.tokenize(CAPTIONS)}


def loss_of(encoder: Clip, given: dict[str, Any]) -> dict[str, Any]:
    return encoder.compute_losses(given["images"], given["tokens"], training=True)


@pytest.mark.backends
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.distribute is TensorFlow's")
@pytest.mark.parametrize("loss", ["softmax", pytest.param("sigmoid", marks=pytest.mark.slow)])
def test_two_replicas_have_the_loss_and_gradient_of_one_device(loss: str) -> None:
    """The negatives are those of both replicas. The replicas have unequal shares of the batch."""
    import tensorflow as tf

    one = clip(loss)
    given = tensors(batch(one))
    with tf.GradientTape() as tape:
        found = loss_of(one, given)
        mean = ops.mean(found["loss"])
    expected = tape.gradient(mean, [weight.value for weight in one.trainable_weights])
    assert max(float(np.abs(np.array(tf.convert_to_tensor(part))).max()) for part in expected) > 0.01
    for cut, rate in ((4, 1.0), (3, 0.0)):
        strategy = mirrored()
        with strategy.scope():
            two = clip(loss)
            before = [np.array(weight) for weight in two.trainable_weights]
            training = ReplicaTraining(strategy, two, lambda given: loss_of(two, given))  # noqa: B023
            whole = batch(two)
            parts = [keras.tree.map_structure(lambda array: array[rows], whole) for rows in _cut(cut)]  # noqa: B023
            made = training.step(parts, rate)
        for name, value in arrays(found).items():
            together = np.concatenate([losses[name] for losses in made])
            np.testing.assert_allclose(together, value, atol=1e-5, rtol=1e-5, err_msg=f"{name}, {cut} examples first")
        if rate:  # with equal shares, the mean of both gradients is that of the whole batch
            for weight, old, gradient in zip(two.trainable_weights, before, expected, strict=True):
                moved = old - np.array(weight)
                np.testing.assert_allclose(moved, np.array(tf.convert_to_tensor(gradient)), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.backends
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.distribute is TensorFlow's")
def test_fit_under_two_replicas_is_that_of_one_device() -> None:
    """Two steps of Keras's `fit`, as in a run with `distribute: mirrored`."""
    from kgen.pipeline.stage_models import EncoderModel

    space = kgen.Space("continuous", (SIZE, SIZE, 3))

    def fitted() -> EncoderModel:
        model = EncoderModel(clip("softmax"), space)
        model.compile(keras.optimizers.SGD(0.5))
        given = batch(model.encoder)
        model.fit({"image": given["images"], "tokens": given["tokens"]}, batch_size=8, epochs=2, verbose=0)
        return model

    one, before = fitted(), clip("softmax")
    with mirrored().scope():
        two = fitted()
    moved = 0.0
    for first, second, old in zip(one.encoder.weights, two.encoder.weights, before.weights, strict=True):
        np.testing.assert_allclose(np.array(first), np.array(second), atol=1e-5, err_msg=first.path)
        moved = max(moved, float(np.abs(np.array(first) - np.array(old)).max()))
    assert moved > 1e-2


def _cut(first: int) -> tuple[slice, slice]:
    return slice(0, first), slice(first, len(CAPTIONS))


JOB = """\
import json, sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
sys.path.insert(0, sys.argv[1])
from test_losses import batch, clip

found = {}
for loss in ("softmax", "sigmoid"):
    encoder = clip(loss)
    given = batch(encoder)
    trainable = [weight.value for weight in encoder.trainable_variables]
    fixed = [weight.value for weight in encoder.non_trainable_variables]

    def mean(weights, given):
        from keras import StatelessScope
        pairs = zip([*encoder.trainable_variables, *encoder.non_trainable_variables], [*weights, *fixed])
        with StatelessScope(state_mapping=list(pairs)):
            return encoder.compute_losses(given["images"], given["tokens"], training=True)["loss"].mean()

    mesh = Mesh(np.array(jax.devices()), ("batch",))
    split = jax.device_put(given, NamedSharding(mesh, PartitionSpec("batch")))
    assert len(jax.devices()) == 2 == len(split["images"].addressable_shards)
    values = [jax.jit(jax.value_and_grad(mean))(trainable, data) for data in (given, split)]
    (one, first), (two, second) = values
    worst = max(float(abs(np.asarray(a) - np.asarray(b)).max()) for a, b in zip(first, second))
    found[loss] = [abs(float(one) - float(two)), worst, max(float(abs(np.asarray(a)).max()) for a in first)]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_two_jax_devices_have_the_loss_and_gradient_of_one() -> None:
    pytest.importorskip("jax")
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-c", JOB, str(Path(__file__).parent)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for loss, (value, gradient, largest) in json.loads(done.stdout.splitlines()[-1]).items():
        assert value < 1e-5 and gradient < 1e-5 < largest, (loss, value, gradient, largest)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.portable
def test_the_gradient_of_the_temperature(loss: str) -> None:
    """Automatic differentiation against a central difference of float64 sums by numpy."""
    from kgen.testing.execution import Descent

    encoder = clip(loss)
    given = batch(encoder)
    descent = Descent(encoder, lambda data: dict(loss_of(encoder, data)))
    found = {path.split("/")[-1]: gradient for path, gradient in descent.gradients(given).items()}
    step, sides = 1e-2, []
    for sign in (1, -1):
        encoder.log_scale.assign(encoder.log_scale + sign * step)
        sides.append(float(arrays(loss_of(encoder, tensors(given)))["loss"].astype("float64").mean()))
        encoder.log_scale.assign(encoder.log_scale - sign * step)
    numeric = (sides[0] - sides[1]) / (2 * step)
    assert abs(float(found["log_scale"]) - numeric) < 2e-2 * max(1.0, abs(numeric))
