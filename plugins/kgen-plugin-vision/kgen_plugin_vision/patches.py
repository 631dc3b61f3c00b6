"""A small vision transformer, trained with the generator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import keras
import numpy as np
from keras import ops
from pydantic import Field, PositiveInt
from typing_extensions import TypedDict

from kgen import ConditionSpace, ConfigError, DataError, Encoder, read_image, read_json
from kgen.nn import TransformerBlock, space_to_depth
from kgen_plugin_vision.images import as_bytes, resized

FILE = "images.json"

MAX_SIDE = 2**12


class Learned(TypedDict):
    """The content of `images.json`: height, width and channels."""

    shape: tuple[
        Annotated[int, Field(ge=1, le=MAX_SIDE)],
        Annotated[int, Field(ge=1, le=MAX_SIDE)],
        Annotated[int, Field(ge=1, le=3)],
    ]


class Patches(Encoder):
    """A vision transformer (Dosovitskiy et al. 2021): self-attention among the patches of an image.

    "sequence" has the normalized output for each patch, row by row, and "pooled" is its mean. Positions are learned.
    The null input, no image, is one position with a learned vector. Images of another size are cropped and resized.

    By default, the encoder reads the image that the generator learns to generate. A generator that sees all patches
    then learns to copy this image. With `pool`, it only sees their mean, which is not enough to copy the image. It
    then generates variations of the image, like DALL-E 2's decoder (Ramesh et al. 2022, section 3.1). With another
    `field`, the encoder reads another image of the example, such as a sketch, or the image to caption.

    Args:
        field: The field of an example that the encoder reads.
        size: Height and width to which images are resized, in pixels; null: those of the training images.
        patch: Height and width of a patch, which must divide those of the images.
        dim: Dimension of the vectors.
        depth: Number of blocks.
        heads: Number of attention heads, which must divide `dim`.
        expansion: Width of the blocks' hidden layer as a multiple of `dim`.
        dropout: Dropout rate of the blocks.
        pool: Whether "sequence" has a single position, the mean of the patches.

    Raises:
        ValueError: `heads` does not divide `dim`.
    """

    null = None

    def __init__(
        self,
        *,
        field: Annotated[str, Field(min_length=1)] = "image",
        size: Annotated[int, Field(ge=1, le=MAX_SIDE)] | None = None,
        patch: PositiveInt = 8,
        dim: PositiveInt = 128,
        depth: PositiveInt = 2,
        heads: PositiveInt = 4,
        expansion: PositiveInt = 4,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        pool: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if dim % heads:
            raise ValueError(f"dim {dim} must be a multiple of heads {heads}")
        self.field = field
        self.size = size
        self.patch = patch
        self.dim = dim
        self.depth = depth
        self.heads = heads
        self.expansion = expansion
        self.dropout = dropout
        self.pool = pool
        self.fields = (field,)
        self.shape: tuple[int, int, int] | None = None
        policy = self.dtype_policy
        self.project = keras.layers.Dense(dim, dtype=policy, name="project")
        self.blocks = [
            TransformerBlock(heads, expansion * dim, dropout, dtype=policy, name=f"block_{i}") for i in range(depth)
        ]
        self.norm = keras.layers.LayerNormalization(epsilon=1e-6, dtype=policy, name="norm")

    @property
    def condition_space(self) -> ConditionSpace:
        return ConditionSpace(1 if self.pool else self._count(), self.dim)

    # ---- inputs ---------------------------------------------------------------------------------------------------

    def adapt(self, inputs: Sequence[np.ndarray]) -> None:
        if not len(inputs):
            raise DataError("encoder 'patches' cannot learn the size of images: there are no images")
        height, width, channels = as_bytes(inputs[0]).shape
        self._use((height, width, channels) if self.size is None else (self.size, self.size, channels))

    def _use(self, shape: tuple[int, int, int]) -> None:
        if shape[0] % self.patch or shape[1] % self.patch:
            raise ConfigError(
                f"encoder 'patches': patch {self.patch} does not divide images of {shape[0]}x{shape[1]}: give another, "
                "or a size that is a multiple of it"
            )
        self.shape = shape

    def _known(self) -> tuple[int, int, int]:
        if self.shape is None:
            raise ConfigError("encoder 'patches' does not know the size of images yet: call its adapt(images) first")
        return self.shape

    def _count(self) -> int:
        height, width, _ = self._known()
        return height * width // self.patch**2

    def tokenize(self, inputs: Sequence[np.ndarray | None]) -> dict[str, np.ndarray]:
        shape = self._known()
        images = np.zeros((len(inputs), *shape), np.uint8)  # (B, H, W, C)
        for row, image in zip(images, inputs, strict=True):
            if image is not None:
                row[:] = resized(as_bytes(image), shape)
        return {"image": images, "given": np.array([image is not None for image in inputs], np.float32)}

    def parse(self, text: str, field: str) -> np.ndarray:
        return read_image(Path(text), channels=3)

    # ---- conditions -----------------------------------------------------------------------------------------------

    def build(self, input_shape: Any) -> None:
        normal = keras.initializers.RandomNormal(stddev=0.02)
        count, numbers = self._count(), self.patch**2 * self._known()[2]
        self.positions = self.add_weight(shape=(count, self.dim), initializer=normal, name="positions")
        self.nothing = self.add_weight(shape=(self.dim,), initializer=normal, name="nothing")
        self.project.build((None, count, numbers))
        for block in self.blocks:
            block.build((None, count, self.dim))
        self.norm.build((None, count, self.dim))

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        images = ops.cast(tokens["image"], "float32") / 127.5 - 1.0  # (B, H, W, C)
        given = ops.cast(tokens["given"], self.compute_dtype)[:, None]  # (B, 1)
        x = self.project(self._cut(images)) + ops.cast(self.positions, self.compute_dtype)  # (B, N, D)
        for block in self.blocks:
            x = block(x, training=training)
        x = self.norm(x)
        nothing = ops.cast(self.nothing, self.compute_dtype)
        pooled = given * ops.mean(x, axis=1) + (1.0 - given) * nothing  # (B, D)
        if self.pool:
            return {"sequence": pooled[:, None], "mask": ops.ones_like(given), "pooled": pooled}
        first = ops.cast(ops.arange(x.shape[1]) == 0, self.compute_dtype)  # (N,)
        sequence = given[..., None] * x + (1.0 - given)[..., None] * first[:, None] * nothing  # (B, N, D)
        mask = given + (1.0 - given) * first  # (B, N)
        return {"sequence": sequence, "mask": mask, "pooled": pooled}

    def _cut(self, images: Any) -> Any:
        """Divides images (B, H, W, C) into patches, row by row: (B, N, patch * patch * C)."""
        patches = ops.cast(space_to_depth(images, self.patch), self.compute_dtype)  # (B, H/p, W/p, p*p*C)
        return ops.reshape(patches, (-1, self._count(), patches.shape[-1]))

    # ---- files ----------------------------------------------------------------------------------------------------

    def save_assets(self, path: str | Path) -> None:
        (Path(path) / FILE).write_text(json.dumps({"shape": self._known()}), encoding="utf-8")

    def load_assets(self, path: str | Path) -> None:
        self._use(tuple(read_json(Path(path) / FILE, Learned)["shape"]))
