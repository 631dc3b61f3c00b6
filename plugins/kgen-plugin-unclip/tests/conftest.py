"""A tiny encoder that embeds images and texts, as a contrastive model does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from kgen import ConditionSpace, Encoder

SIZE, DIM = 8, 12


class Embedder(Encoder):
    """Random projections of images and of the letters of texts."""

    image_size = SIZE
    embedding_dim = DIM

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        first, second = (keras.initializers.GlorotUniform(seed=seed) for seed in (0, 1))  # always the same weights
        self.images = keras.layers.Dense(DIM, kernel_initializer=first)
        self.texts = keras.layers.Dense(DIM, kernel_initializer=second)
        self.trainable = False

    @property
    def condition_space(self) -> ConditionSpace:
        return ConditionSpace(4, 8, DIM)

    def tokenize(self, inputs: Sequence[str]) -> dict[str, np.ndarray]:
        letters = [[ord(letter) % 32 / 16 - 1 for letter in text[:32].ljust(32)] for text in inputs]
        return {"letters": np.array(letters, np.float32)}

    def build(self, input_shape: Any = None) -> None:
        self.images.build((None, SIZE * SIZE * 3))
        self.texts.build((None, 32))

    def embed_images(self, images: Any) -> Any:
        images = ops.broadcast_to(images, (*images.shape[:-1], 3)) if images.shape[-1] == 1 else images
        return _unit(self.images(ops.reshape(images, (-1, SIZE * SIZE * 3))))

    def embed_texts(self, tokens: dict[str, Any], training: bool = False) -> Any:
        return _unit(self.texts(tokens["letters"]))

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        sequence = ops.reshape(tokens["letters"], (-1, 4, 8))
        pooled = self.embed_texts(tokens) * DIM**0.5
        return {"sequence": sequence, "mask": ops.ones_like(sequence[:, :, 0]), "pooled": pooled}


def _unit(vectors: Any) -> Any:
    length = ops.sqrt(ops.sum(ops.square(vectors), axis=-1, keepdims=True))
    return vectors / ops.maximum(length, 1e-6)


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    made = Embedder()
    made.null_condition()
    return made
