"""The quantizers, compared with vector-quantize-pytorch on the same vectors and codebooks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from keras import ops
from kgen_plugin_codecs.quantizers import FiniteScalar, Vector

RNG = np.random.default_rng(0)
SIZE, DIM, DECAY = 32, 4, 0.9


def array(x: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(x))


def gradient(function: Any, x: np.ndarray) -> np.ndarray:
    """Returns the gradient of a scalar function by the backend's autodiff."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        variable = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(variable)
            value = function(variable)
        return np.asarray(tape.gradient(value, variable))
    if keras.backend.backend() == "jax":
        import jax

        return np.asarray(jax.grad(function)(x))
    import torch

    variable = torch.tensor(x, requires_grad=True)
    function(variable).backward()
    return variable.grad.numpy()


def vectors(scale: float = 1.0) -> np.ndarray:
    """Returns random vectors (B, h, w, D)."""
    return (scale * RNG.normal(size=(3, 4, 5, DIM))).astype("float32")


def peer(z: np.ndarray, book: np.ndarray, cosine: bool, train: bool) -> tuple[np.ndarray, np.ndarray, Any]:
    """Returns quantized vectors and codes of vector-quantize-pytorch, and its codebook after the step."""
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("vector_quantize_pytorch")
    layer = library.VectorQuantize(
        dim=DIM,
        codebook_size=SIZE,
        decay=DECAY,
        use_cosine_sim=cosine,
        commitment_weight=1.0,
        threshold_ema_dead_code=0,
        rotation_trick=False,
    )
    inner = layer._codebook
    inner.embed.data.copy_(torch.tensor(book)[None])
    inner.embed_avg.data.copy_(torch.tensor(book)[None])
    inner.cluster_size.data.fill_(1.0)
    layer.train(train)
    flat = torch.tensor(z.reshape(len(z), -1, DIM), requires_grad=True)
    quantized, codes, _ = layer(flat)
    weight = torch.tensor(WEIGHT.reshape(len(z), -1, DIM))
    straight = torch.autograd.grad((quantized * weight).sum(), flat)[0]
    return (
        quantized.detach().numpy().reshape(z.shape),
        codes.numpy().reshape(z.shape[:-1]),
        (inner.embed[0].numpy(), straight.numpy().reshape(z.shape)),
    )


WEIGHT = RNG.normal(size=(3, 4, 5, DIM)).astype("float32")


def ours(book: np.ndarray, cosine: bool) -> Any:
    quantizer = Vector(size=SIZE, dim=DIM, decay=DECAY, cosine=cosine, revive=0.0).build()
    quantizer.build(None)
    quantizer.set_codebook(book)
    return quantizer


@pytest.mark.parametrize("cosine", [False, True], ids=["euclidean", "cosine"])
def test_codes_gradients_and_update_are_those_of_the_peer(cosine: bool) -> None:
    z, book = vectors(), RNG.normal(size=(SIZE, DIM)).astype("float32")
    if cosine:
        book /= np.linalg.norm(book, axis=1, keepdims=True)
    wanted, codes, (after, straight) = peer(z, book, cosine, train=True)
    quantizer = ours(book, cosine)
    found, found_codes, _ = quantizer(ops.convert_to_tensor(z), training=False)
    np.testing.assert_array_equal(array(found_codes), codes)
    np.testing.assert_allclose(array(found), wanted, atol=1e-5)
    np.testing.assert_allclose(array(quantizer.lookup(found_codes)), wanted, atol=1e-5)
    slope = gradient(lambda x: ops.sum(ops.multiply(quantizer(x, training=False)[0], WEIGHT)), z)
    np.testing.assert_allclose(slope, straight, atol=1e-5)
    quantizer(ops.convert_to_tensor(z), training=True)
    np.testing.assert_allclose(array(quantizer.codebook), after, atol=1e-5)
    assert np.abs(after - book).max() > 0.01


def test_commitment_is_the_distance_from_the_codes() -> None:
    z, book = vectors(), RNG.normal(size=(SIZE, DIM)).astype("float32")
    quantizer = ours(book, False)
    codes = array(quantizer(ops.convert_to_tensor(z), training=False)[1])
    expected = 0.25 * np.square(z - book[codes]).mean((1, 2, 3))
    np.testing.assert_allclose(array(quantizer(ops.convert_to_tensor(z))[2]), expected, rtol=1e-5)
    slope = gradient(lambda x: ops.sum(quantizer(x)[2]), z)
    np.testing.assert_allclose(slope, 0.5 * (z - book[codes]) / np.prod(z.shape[1:]), rtol=1e-4, atol=1e-7)


def test_dead_codes_are_revived() -> None:
    """Codes far from all vectors are moved to some of them; codes in use move little."""
    book = RNG.normal(size=(SIZE, DIM)).astype("float32")
    book[SIZE // 2 :] += 100.0
    quantizer = Vector(size=SIZE, dim=DIM, decay=DECAY, revive=0.1).build()
    quantizer.build(None)
    quantizer.set_codebook(book)
    for _ in range(60):
        quantizer(ops.convert_to_tensor(vectors()), training=True)
    codes = array(quantizer.codebook)
    assert np.abs(codes).max() < 6.0
    used = np.unique(array(quantizer(ops.convert_to_tensor(RNG.normal(size=(50, 8, 8, DIM)).astype("float32")))[1]))
    assert len(used) > 0.9 * SIZE


@pytest.mark.backends
def test_codes_start_at_the_centers_of_clusters() -> None:
    centers = RNG.normal(size=(SIZE, DIM)) * 10
    sample = (np.repeat(centers, 50, axis=0) + 0.01 * RNG.normal(size=(SIZE * 50, DIM))).astype("float32")
    quantizer = ours(np.zeros((SIZE, DIM), "float32"), False)
    quantizer.start_from(sample)
    book = array(quantizer.codebook)
    distance = np.linalg.norm(sample[:, None] - book, axis=-1).min(1)
    assert np.median(distance) < 0.1
    np.testing.assert_array_equal(array(quantizer.sums), book)


def test_finite_scalars_are_those_of_the_paper() -> None:
    quantizer = FiniteScalar(levels=(8, 5, 5, 5)).build()
    z = ops.convert_to_tensor(np.stack([np.full((1, 1, 4), v, "float32") for v in (0.0, 10.0, -10.0)]))
    assert array(quantizer(z)[1]).reshape(-1).tolist() == [500, 999, 0]


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (7, 4), (6, 3, 16)])
def test_finite_scalars_are_those_of_the_peer(levels: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("vector_quantize_pytorch")
    z = (2.0 * RNG.normal(size=(3, 4, 5, len(levels)))).astype("float32")
    weight = RNG.normal(size=z.shape).astype("float32")
    flat = torch.tensor(z.reshape(3, 20, -1), requires_grad=True)
    wanted, codes = library.FSQ(list(levels))(flat)
    straight = torch.autograd.grad((wanted * torch.tensor(weight.reshape(3, 20, -1))).sum(), flat)[0]
    quantizer = FiniteScalar(levels=levels).build()
    found, found_codes, _ = quantizer(ops.convert_to_tensor(z))
    np.testing.assert_array_equal(array(found_codes), codes.numpy().reshape(3, 4, 5))
    np.testing.assert_allclose(array(found), wanted.detach().numpy().reshape(z.shape), atol=1e-5)
    np.testing.assert_allclose(array(quantizer.lookup(found_codes)), array(found), atol=1e-5)
    slope = gradient(lambda x: ops.sum(ops.multiply(quantizer(x)[0], weight)), z)
    np.testing.assert_allclose(slope, straight.numpy().reshape(z.shape), atol=1e-5)


@pytest.mark.backends
@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (3, 2)])
def test_every_code_is_one_vector(levels: tuple[int, ...]) -> None:
    option = FiniteScalar(levels=levels)
    codes = np.arange(option.vocabulary, dtype="int32").reshape(1, 1, -1)
    vectors_ = array(option.build().lookup(ops.convert_to_tensor(codes)))
    assert len(np.unique(vectors_.reshape(-1, option.dim), axis=0)) == option.vocabulary
    assert np.abs(vectors_).max() <= 1.0


def test_two_levels_are_split_at_zero() -> None:
    """Each level gets half of the values that are symmetric about 0, and the gradient is largest at 0."""
    quantizer = FiniteScalar(levels=(2, 2, 2)).build()
    z = np.random.default_rng(1).normal(scale=1.5, size=(1, 60, 60, 3)).astype("float32")
    rounded, codes, _ = quantizer(ops.convert_to_tensor(z))
    np.testing.assert_array_equal(array(rounded), np.where(z > 0, 0.0, -1.0))
    np.testing.assert_array_equal(array(quantizer.lookup(codes)), array(rounded))
    shares = np.bincount(array(codes).ravel(), minlength=8) / 3600
    np.testing.assert_allclose(shares, 1 / 8, atol=0.025)
    slope = gradient(lambda x: ops.sum(quantizer(x)[0]), np.array([[[[0.0, 3.0, -3.0]]]], "float32"))
    np.testing.assert_allclose(slope.ravel(), 0.5005 / np.cosh([0, 3, -3]) ** 2, rtol=1e-4)
