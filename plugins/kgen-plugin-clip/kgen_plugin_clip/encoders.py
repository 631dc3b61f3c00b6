"""The contrastive image-text model, as an encoder of texts and as one of images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import keras
import numpy as np
from keras import ops
from kgen_plugin_vision.images import as_bytes, resized
from pydantic import Field, PositiveInt

from kgen import ConditionSpace, ConfigError, Encoder, OneOf, read_image
from kgen.backend.compiled import Compiled
from kgen.pretrained import LoraNames
from kgen_plugin_clip.images import Convolutional, ImageTower, floats
from kgen_plugin_clip.losses import sigmoid_losses, softmax_losses
from kgen_plugin_clip.pretrained.model import Pretrained
from kgen_plugin_clip.retrieval import retrieval_scores
from kgen_plugin_clip.texts import TextLayer, TextTower, Transformer

Tensor = Any

MAX_SCALE = 100.0
"""Largest inverse of the temperature (Radford et al. 2021, section 2.5)."""

FIRST_SCALE = {"softmax": 1 / 0.07, "sigmoid": 10.0}
"""Its first value (Radford et al. 2021, section 2.5; Zhai et al. 2023, section 3.2)."""

FIRST_BIAS = -10.0
"""The first bias of the sigmoid loss (Zhai et al. 2023, section 3.2)."""

DIM = 128
"""The default of the dimension of the embeddings."""

BATCH = 64


class Clip(Encoder):
    """A contrastive image-text model (CLIP, Radford et al. 2021), which encodes texts.

    Two towers embed images and texts as vectors of unit length. They are trained in a stage of their own. The training
    increases the cosine of an image and its caption, and decreases those of the image and all other captions of the
    batch, on all replicas. A large batch therefore helps.

    "sequence" has the output of the text tower for each token. "pooled" is the embedding of the text, times the square
    root of `dim`, so that its numbers have a variance of about 1.

    With `pretrained`, it is a published model, by OpenAI or OpenCLIP, which needs no training. Its architecture, its
    vocabulary and its weights are those of a local folder.

    Args:
        text: Text tower, `Transformer`, `Frozen` or another `clip.text`, with its options; None: `Transformer`.
        image: Image tower, `Convolutional`, `VisionTransformer` or another `clip.image`, with its options; None:
            `Convolutional`. Its `size` must be that of the training images.
        dim: Dimension of the embeddings; None: 128.
        loss: "softmax", the symmetric cross-entropy of CLIP; or "sigmoid", the loss of SigLIP (Zhai et al. 2023). Both
            learn the temperature.
        pretrained: A folder with a CLIP in the layout of the package `transformers`, or in that of OpenCLIP's own
            library, instead of all other options; None: the model is trained.

    Raises:
        ValueError: `pretrained` is given together with other options.
        ConfigError: in `adapt`, the folder is not that of such a model.
    """

    def __init__(
        self,
        *,
        text: Annotated[TextTower, OneOf("clip.text")] | None = None,
        image: Annotated[ImageTower, OneOf("clip.image")] | None = None,
        dim: PositiveInt | None = None,
        loss: Literal["softmax", "sigmoid"] = "softmax",
        pretrained: Annotated[str, Field(min_length=1)] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.loss = loss
        self.pretrained = pretrained
        self.model: Pretrained | None = None
        if pretrained is None:
            self.text, self.image, self.dim = text or Transformer(), image or Convolutional(), dim or DIM
            policy = self.dtype_policy
            self._set_layers(self.text.build(policy), self.image.build(policy), self.image.size, self.dim)
        else:
            given = {"text": text, "image": image, "dim": dim, "loss": loss if loss != "softmax" else None}
            if odd := [name for name, option in given.items() if option is not None]:
                raise ValueError(f"'pretrained' has the options of its folder: leave out {' and '.join(odd)}")
            self.text, self.image, self.dim = None, None, None
        if self.trained_as is not None:
            self.trainable = False

    def _set_layers(self, text: TextLayer, image: keras.layers.Layer, size: int, dim: int) -> None:
        """Sets the towers, and makes the projections.

        Args:
            text, image: The towers.
            size: Height and width of the images.
            dim: Dimension of the embeddings.
        """
        self.image_size, self.embedding_dim = size, dim
        self.text_tower, self.image_tower = text, image
        self.text_projection, self.image_projection = (
            keras.layers.Dense(dim, use_bias=False, dtype=self.dtype_policy, name=f"{name}_projection")
            for name in ("text", "image")
        )

    def _set_model(self, model: Pretrained) -> None:
        """Makes the layers of a published model."""
        self.model, found, policy = model, model.architecture, self.dtype_policy
        self._set_layers(model.text_tower(policy), model.image_tower(policy), found.size, found.dim)

    def _require_layers(self) -> None:
        if self.pretrained is not None and self.model is None:
            raise ConfigError(f"encoder 'clip' has not read {self.pretrained} yet: call its adapt([]) first")

    @classmethod
    def is_pretrained(cls, options: Mapping[str, Any]) -> bool:
        return options.get("pretrained") is not None

    @property
    def condition_space(self) -> ConditionSpace:
        self._require_layers()
        return ConditionSpace(self.text_tower.length, self.text_tower.width, self.embedding_dim)

    # ---- inputs ---------------------------------------------------------------------------------------------------

    def adapt(self, inputs: Sequence[str]) -> None:
        if self.pretrained is None:
            self.text_tower.adapt(inputs)
        else:
            self._set_model(Pretrained.of_folder(self.pretrained))

    def tokenize(self, inputs: Sequence[str]) -> dict[str, np.ndarray]:
        self._require_layers()
        return self.text_tower.tokenize(inputs)

    def unread(self, value: str) -> str:
        self._require_layers()
        return self.text_tower.unread(value)

    def prepared(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Resizes and crops images as the image tower needs them, on the host.

        Args:
            images: B images of any size, uint8 or float in [-1, 1], (height, width, 1 or 3).

        Returns:
            uint8 (B, size, size, 3), which `embed_images` takes after scaling to [-1, 1].
        """
        self._require_layers()
        size = self.image_size
        if self.model is not None:
            return np.stack([self.model.architecture.preprocessing.cropped(as_bytes(image)) for image in images])
        return np.stack([resized(as_bytes(image), (size, size, 3)) for image in images])

    @property
    def preparation(self) -> str:
        """A description of `prepared`, for the protocols of metrics."""
        return "Pillow, cropped" if self.model is None else str(self.model.architecture.preprocessing)

    # ---- embeddings -----------------------------------------------------------------------------------------------

    def build(self, input_shape: Any = None) -> None:
        self._require_layers()
        size = self.image_size
        self.text_tower.build(None)
        self.image_tower.build((None, size, size, 3))
        self.text_projection.build((None, self.text_tower.features))
        self.image_projection.build((None, self.image_tower.features))
        first = keras.initializers.Constant(math.log(FIRST_SCALE[self.loss]))
        self.log_scale = self.add_weight(shape=(), initializer=first, constraint=_below_most, name="log_scale")
        if self.loss == "sigmoid":
            self.bias = self.add_weight(shape=(), initializer=keras.initializers.Constant(FIRST_BIAS), name="bias")
        if self.model is not None:
            others = {"text/projection": self.text_projection.kernel, "image/projection": self.image_projection.kernel}
            self.model.fill(self.text_tower, self.image_tower, {**others, "scale": self.log_scale})

    @property
    def scale(self) -> Tensor:
        """The inverse of the temperature, at most 100 if the model was trained here: a scalar, float32."""
        log_scale = ops.cast(self.log_scale, "float32")
        return ops.exp(log_scale if self.model is not None else ops.minimum(log_scale, math.log(MAX_SCALE)))

    def embed_texts(self, tokens: dict[str, Tensor], training: bool = False) -> Tensor:
        """The embeddings of texts, of unit length: arrays of `tokenize` -> (B, dim) float32."""
        return _unit(self.text_projection(self.text_tower(tokens, training=training)[2]))

    def embed_images(self, images: Tensor) -> Tensor:
        """The embeddings of images, of unit length: (B, size, size, 1 or 3) in [-1, 1] -> (B, dim) float32.

        Raises:
            ConfigError: the images have another size.
        """
        size = self.image_size
        if tuple(images.shape[1:3]) != (size, size):
            height, width = images.shape[1:3]
            own = "set image.size of the encoder, or the size of the data"
            raise ConfigError(
                f"encoder 'clip' takes images of {size}x{size}, but these are {height}x{width}: "
                f"{own if self.model is None else 'set the size of the data'}"
            )
        if images.shape[-1] == 1:
            images = ops.repeat(images, 3, axis=-1)
        if self.model is not None:
            images = self.model.architecture.preprocessing.normalized(images)
        return _unit(self.image_projection(self.image_tower(images)))

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        sequence, mask, features = self.text_tower(tokens, training=training)
        pooled = _unit(self.text_projection(features)) * math.sqrt(self.embedding_dim)
        return {"sequence": sequence, "mask": mask, "pooled": ops.cast(pooled, self.compute_dtype)}

    # ---- training -------------------------------------------------------------------------------------------------

    def compute_losses(self, images: Tensor, tokens: dict[str, Any], training: bool) -> dict[str, Tensor]:
        """Returns the contrastive loss of the images and texts of a batch, with a softmax or a sigmoid."""
        embedded, texts = self.embed_images(images), self.embed_texts(tokens, training)
        if self.loss == "softmax":
            return softmax_losses(embedded, texts, self.scale)
        return sigmoid_losses(embedded, texts, self.scale, ops.cast(self.bias, "float32"))

    def scores(self, images: np.ndarray, inputs: Sequence[str]) -> dict[str, float]:
        """The recall among the given images and texts, and the learned inverse of the temperature."""

        def embed(batch: dict[str, Any]) -> dict[str, Tensor]:
            return {"image": self.embed_images(floats(batch["image"])), "text": self.embed_texts(batch["tokens"])}

        batch = {"image": self.prepared(images), "tokens": self.tokenize(inputs)}
        made = Compiled(embed, [self]).run(batch, len(images), BATCH)
        found = retrieval_scores(made["image"], made["text"], list(inputs))
        return {**found, "scale": float(ops.convert_to_numpy(self.scale))}

    # ---- files ----------------------------------------------------------------------------------------------------

    def lora_names(self) -> LoraNames | None:
        """The names of a published model's layers in LoRA files."""
        return None if self.model is None else self.model.lora_names()

    def save_assets(self, path: str | Path) -> None:
        if self.model is not None:
            self.model.save(Path(path))
        self.text_tower.save_assets(Path(path))

    def load_assets(self, path: str | Path) -> None:
        if self.pretrained is None:
            self.text_tower.load_assets(Path(path))
        else:
            self._set_model(Pretrained.of_assets(Path(path)))


class ClipImage(Clip):
    """Encodes images by the image tower of a trained `Clip`, whose options and weights it has.

    "pooled", and the only position of "sequence", is the embedding of the image, times the square root of `dim`. A
    generator that reads it learns to generate variations of the image, like DALL-E 2's decoder (Ramesh et al. 2022,
    section 3.1). The null input, no image, is the zero vector (section 2.1 of that paper). An image of any size is
    cropped and resized.

    Args:
        text, image, dim, loss: Those of the trained `Clip`. A run file gives none of them, but `from: RUN`.
        pretrained: The folder of a published model, which needs no `from`; see `Clip`.
    """

    fields = ("image",)
    null = None
    trained_as = Clip

    @property
    def condition_space(self) -> ConditionSpace:
        self._require_layers()
        return ConditionSpace(1, self.embedding_dim, self.embedding_dim)

    def adapt(self, inputs: Sequence[Any]) -> None:
        """Learns nothing: the vocabulary of the texts comes with the weights."""
        if self.pretrained is not None:
            super().adapt([])

    def tokenize(self, inputs: Sequence[np.ndarray | None]) -> dict[str, np.ndarray]:
        self._require_layers()
        size = self.image_size
        images = np.zeros((len(inputs), size, size, 3), np.uint8)  # (B, S, S, 3)
        for row, image in zip(images, inputs, strict=True):
            if image is not None:
                row[:] = self.prepared([image])[0]
        return {"image": images, "given": np.array([image is not None for image in inputs], np.float32)}

    def unread(self, value: Any) -> str:
        return ""

    def scores(self, images: np.ndarray, inputs: Sequence[Any]) -> dict[str, float]:
        """None: the model's own scores are those of `Clip`."""
        return {}

    def parse(self, text: str, field: str) -> np.ndarray:
        return read_image(Path(text), channels=3)

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        embedded = self.embed_images(floats(tokens["image"]))  # (B, D)
        given = ops.cast(tokens["given"], self.compute_dtype)[:, None]  # (B, 1)
        pooled = ops.cast(embedded * math.sqrt(self.embedding_dim), self.compute_dtype) * given
        return {"sequence": pooled[:, None], "mask": ops.ones_like(given), "pooled": pooled}


def _unit(x: Tensor) -> Tensor:
    """Vectors (B, D) scaled to unit length, float32."""
    x = ops.cast(x, "float32")
    return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=-1, keepdims=True), 1e-12))


def _below_most(log_scale: Tensor) -> Tensor:
    return ops.minimum(log_scale, math.log(MAX_SCALE))
