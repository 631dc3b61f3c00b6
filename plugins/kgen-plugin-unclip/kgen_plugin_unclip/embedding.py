"""The image embeddings of a trained encoder, as a layer that is never trained."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from kgen import Encoder, freeze_layer, image_embedder

Tensor = Any


class ImageEmbedding(keras.layers.Layer):
    """Embeds images by the image tower of a trained encoder, such as CLIP.

    The layer shares the weights of the encoder, and freezes them: `trainable` stays False.

    Args:
        encoder: The encoder of the pipeline, or None.
        owner: Who needs the embeddings, for messages.

    Raises:
        ConfigError: the encoder does not embed images.
    """

    def __init__(self, encoder: Encoder | None, owner: str, **kwargs: Any) -> None:
        super().__init__(trainable=False, autocast=False, **kwargs)
        self.encoder, embedder = image_embedder(encoder, owner)
        self.size, self.dim = embedder.image_size, embedder.embedding_dim
        self.encoder.trainable = False

    @property
    def trainable(self) -> bool:
        return False

    @trainable.setter
    def trainable(self, value: bool) -> None:
        """Freezes also the layers that were added; a value of True, as of a layer around this one, has no effect."""
        keras.layers.Layer.trainable.fset(self, False)

    def build(self, input_shape: Any = None) -> None:
        if not self.encoder.built:
            self.encoder.null_condition()
        freeze_layer(self.encoder)  # also the layers that its build made
        self.built = True

    def call(self, images: Tensor) -> Tensor:
        """Embeds images: (B, H, W, 1 or 3) in [-1, 1] -> (B, D) float32, of length sqrt(D).

        Images of another size than the encoder's are resized bilinearly, with antialiasing.
        """
        images = ops.cast(images, "float32")
        if tuple(images.shape[1:3]) != (self.size, self.size):
            images = ops.image.resize(images, (self.size, self.size), interpolation="bilinear", antialias=True)
        return self.encoder.embed_images(images) * math.sqrt(self.dim)
