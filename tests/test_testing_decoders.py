"""The conformance kit of decoders: passes those that are right, and fails each that breaks one rule."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from kit_checks import SPACE, fails, hoarding

import kgen
from kgen import Space
from kgen.contracts.identity import Identity
from kgen.testing import DecoderConformance


class Halves(kgen.Decoder):
    """A trained decoder: half as many numbers, linear both ways."""

    def __init__(self, image_space: Space, *, size: int = 24, **kwargs: Any) -> None:
        super().__init__(image_space, **kwargs)
        self.size = size
        self.down = keras.layers.Dense(size)
        self.up = keras.layers.Dense(image_space.size)

    @property
    def latent_space(self) -> Space:
        return Space("continuous", (self.size,))

    def encode(self, images: Any) -> Any:
        return self.down(ops.reshape(images, (-1, self.image_space.size)))

    def decode(self, latent: Any, condition: Any, noise: Any) -> Any:
        return ops.reshape(self.up(latent), (-1, *self.image_space.shape))

    def compute_losses(self, images: Any, condition: Any, training: bool) -> dict[str, Any]:
        error = ops.square(ops.cast(self.decode(self.encode(images), condition, {}), "float32") - images)
        return {"loss": ops.mean(error, axis=(1, 2, 3))}


class PCA(kgen.Decoder):
    """Principal components, scaled to unit variance: without losses, but calibrated."""

    def __init__(self, image_space: Space, *, components: int = 6, **kwargs: Any) -> None:
        super().__init__(image_space, **kwargs)
        self.components = components

    def build(self, input_shape: Any = None) -> None:
        shapes = {"mean": (self.image_space.size,), "basis": (self.image_space.size, self.components)}
        for name, shape in {**shapes, "scale": (self.components,)}.items():
            setattr(self, name, self.add_weight(name=name, shape=shape, initializer="zeros", trainable=False))

    @property
    def latent_space(self) -> Space:
        return Space("continuous", (self.components,), bounded=False)

    def calibrate(self, batches: Any) -> None:
        x = np.concatenate([batch.reshape(len(batch), -1) / 127.5 - 1.0 for batch in batches])
        _, sizes, basis = np.linalg.svd(x - x.mean(0), full_matrices=False)
        self.mean.assign(x.mean(0))
        self.basis.assign(basis[: self.components].T)
        self.scale.assign(sizes[: self.components] / len(x) ** 0.5)

    def encode(self, images: Any) -> Any:
        x = ops.reshape(images, (-1, self.image_space.size)) - self.mean
        return ops.matmul(x, self.basis) / ops.maximum(self.scale, 1e-6)

    def decode(self, latent: Any, condition: Any, noise: Any) -> Any:
        x = ops.matmul(latent * self.scale, ops.transpose(self.basis)) + self.mean
        return ops.reshape(x, (-1, *self.image_space.shape))


@pytest.mark.backends
class TestPCA(DecoderConformance):
    def build(self) -> PCA:
        return PCA(SPACE, components=6)


class TestIdentity(DecoderConformance):
    reconstruction = 0.0

    def build(self) -> Identity:
        return Identity(SPACE)


@pytest.mark.backends
class TestHalves(DecoderConformance):
    def build(self) -> Halves:
        return Halves(SPACE, size=24)


def halves(**members: Any) -> Any:
    broken = type("Broken", (Halves,), members)
    return lambda: broken(SPACE)


DECODERS = [
    ("test_encodes_into_the_latent_space", {"latent_space": Space("continuous", (23,))}, "encode must make"),
    (
        "test_decodes_into_the_image_space",
        {
            "decode": lambda self, latent, condition, noise: self.up(latent),
            "compute_losses": kgen.Decoder.compute_losses,
        },
        "decode must make",
    ),
    (
        "test_alone_as_in_a_batch",
        {"encode": lambda self, images: Halves.encode(self, images - ops.mean(images, axis=0))},
        "something else",
    ),
    (
        "test_losses_do_not_mix_examples",
        {
            "compute_losses": lambda self, images, condition, training: {
                "loss": ops.softmax(Halves.compute_losses(self, images, condition, training)["loss"])
            }
        },
        "other examples",
    ),
    ("test_all_layers_are_built", {"__init__": hoarding}, "has not built .*spare"),
    (
        "test_supports_the_sizes_that_it_accepts",
        {"check_space": lambda self, image_space: None},
        "but then a method fails",
    ),
    (
        "test_supports_the_sizes_that_it_accepts",
        {
            "check_space": lambda self, image_space: None,
            "encode": lambda self, images: self.down(ops.reshape(images, (ops.shape(images)[0], -1))[:, : SPACE.size]),
            "decode": lambda self, latent, condition, noise: ops.reshape(self.up(latent), (-1, *SPACE.shape)),
            "compute_losses": kgen.Decoder.compute_losses,
        },
        "decode must have the shape",
    ),
]


@pytest.mark.parametrize(("check", "members", "match"), DECODERS, ids=[f"{c}-{m}" for c, _, m in DECODERS])
def test_broken_decoder_fails(check: str, members: dict[str, Any], match: str) -> None:
    fails(DecoderConformance, check, halves(**members), match)


def forgetful(self: Any, batches: Any) -> None:
    PCA.calibrate(self, batches)
    object.__setattr__(self, "spread", float(np.concatenate(list(batches)).std()))  # neither a weight nor an asset


def spread_encode(self: Any, images: Any) -> Any:
    return PCA.encode(self, images) * (1.0 + getattr(self, "spread", 0.0) / 100.0)


def crashing(self: Any, batches: Any) -> None:
    raise ValueError("boom")


def random_encode(self: Any, images: Any) -> Any:
    z = PCA.encode(self, images)
    return z + 0.1 * keras.random.normal(ops.shape(z), seed=self.seeds)


def seeded_pca(self: Any, image_space: Any) -> None:
    PCA.__init__(self, image_space)
    self.seeds = kgen.SeedGenerator(0)


def among_others(self: Any, latent: Any, condition: Any, noise: Any) -> Any:
    images = PCA.decode(self, latent, condition, noise)
    return images - 0.1 * ops.mean(images, axis=0)


MEASURED = [
    ("test_weights_survive_a_file", {"calibrate": forgetful, "encode": spread_encode}, "round trip"),
    ("test_latents_have_unit_variance", {"encode": lambda self, x: 100 * PCA.encode(self, x)}, "not between 0.5 and 2"),
    ("test_latents_have_unit_variance", {"calibrate": lambda self, batches: None}, "not between 0.5 and 2"),
    ("test_images_depend_on_the_latent", {"decode": lambda self, z, *a: PCA.decode(self, 0 * z, *a)}, "any latents"),
    ("test_encodes_into_the_latent_space", {"calibrate": crashing}, "boom"),
    (
        "test_alone_as_in_a_batch",
        {"encode": lambda self, x: PCA.encode(self, x) - ops.mean(PCA.encode(self, x), axis=0)},
        "something else",
    ),
    ("test_alone_as_in_a_batch", {"decode": among_others}, "something else"),
    ("test_same_input_same_output", {"__init__": seeded_pca, "encode": random_encode}, "something else"),
    (
        "test_decodes_into_the_image_space",
        {"decode": lambda self, *a: ops.cast(PCA.decode(self, *a), "float16")},
        "must make float32, not float16",
    ),
]


@pytest.mark.parametrize(("check", "members", "match"), MEASURED, ids=[f"{c}-{m}" for c, _, m in MEASURED])
def test_broken_calibrated_decoder_fails(check: str, members: dict[str, Any], match: str) -> None:
    fails(DecoderConformance, check, lambda: type("Broken", (PCA,), members)(SPACE), match)


def test_lossy_decoder_is_not_lossless() -> None:
    fails(DecoderConformance, "test_reconstructs", halves(), "off, more than", reconstruction=0.01)
