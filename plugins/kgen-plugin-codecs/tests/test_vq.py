"""The autoencoder of tokens."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from keras import ops
from kgen_plugin_codecs.networks import Network
from kgen_plugin_codecs.quantizers import FiniteScalar, Vector
from kgen_plugin_codecs.vq import VQAutoencoder

from kgen import Space
from kgen.testing import DecoderConformance

pytestmark = pytest.mark.portable

SPACE = Space("continuous", (16, 16, 3))
TINY = Network(width=8, multipliers=(1, 2), patch=2)
ONE_LEVEL = Network(width=8, multipliers=(1,), patch=2, attention=False)  # test_kl has more levels
RNG = np.random.default_rng(0)


@pytest.mark.backends
class TestVector(DecoderConformance):
    def build(self) -> VQAutoencoder:
        return VQAutoencoder(SPACE, quantizer=Vector(size=16, dim=4, revive=0.0), network=ONE_LEVEL)


@pytest.mark.slow  # test_quantizers compares its codes, gradients and updates with another library
class TestCosine(DecoderConformance):
    replicas: ClassVar = False  # revived codes come from the first replica's vectors

    def build(self) -> VQAutoencoder:
        return VQAutoencoder(SPACE, quantizer=Vector(size=16, dim=4, cosine=True, revive=0.1), network=ONE_LEVEL)


class TestFiniteScalar(DecoderConformance):
    replicas: ClassVar = False

    def build(self) -> VQAutoencoder:
        return VQAutoencoder(SPACE, quantizer=FiniteScalar(levels=(4, 3, 3)), network=ONE_LEVEL, reconstruction="l2")


def test_tokens() -> None:
    codec = VQAutoencoder(SPACE, quantizer=FiniteScalar(levels=(4, 3)), network=TINY)
    assert codec.latent_space == Space("tokens", (4, 4), vocabulary=12)


def test_scores_count_the_codes() -> None:
    codec = VQAutoencoder(SPACE, quantizer=Vector(size=8, dim=4), network=TINY)
    codec.build(None)
    images = RNG.integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)
    codes = ops.convert_to_numpy(codec.encode(ops.convert_to_tensor(images / np.float32(127.5) - np.float32(1))))
    scores = codec.scores([images[:4], images[4:]])
    share = np.bincount(codes.reshape(-1), minlength=8) / codes.size
    share = share[share > 0]
    assert scores["codes used"] == len(share)
    assert scores["perplexity"] == pytest.approx(np.prod(share**-share))


def test_starts_with_codes_that_are_used() -> None:
    codec = VQAutoencoder(SPACE, quantizer=Vector(size=16, dim=4), network=TINY)
    codec.build(None)
    images = RNG.integers(0, 256, (32, 16, 16, 3)).astype(np.uint8)
    codec.quantization.set_codebook(np.full((16, 4), 50.0, "float32") + np.eye(16, 4, dtype="float32"))
    before = codec.scores([images])["perplexity"]
    codec.initialize([images])
    assert codec.scores([images])["perplexity"] > max(8.0, 2 * before)
