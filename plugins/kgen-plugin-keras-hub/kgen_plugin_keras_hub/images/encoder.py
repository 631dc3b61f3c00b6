"""The base class of the pretrained encoders of images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from keras import ops
from kgen_plugin_vision.images import as_bytes
from kgen_plugin_vision.preprocessing import Preprocessing
from pydantic import Field

from kgen import ConditionSpace, ConfigError, read_image
from kgen_plugin_keras_hub.frozen import PresetEncoder
from kgen_plugin_keras_hub.images.converter import read_preprocessing
from kgen_plugin_keras_hub.presets import find, load_backbone

Tensor = Any


class PresetImage(PresetEncoder):
    """A pretrained encoder of images, which is frozen, or trained with the generator.

    "sequence" has the output of the last layer for each position, and "pooled" one vector for the image. The null
    input, no image, is the zero vector, as the only real position. An image of any size is resized and cropped as the
    preset says.

    If the encoder is frozen, its weights stay in the preset. If it is trained, they are saved with the pipeline, and
    the preset is needed for the architecture only. A subclass calls `_load` in its constructor.

    Args:
        preset: A folder in KerasHub's format, "hf://USER/NAME", or a preset of KerasHub.
        field: The field of an example that the encoder reads.
        pool: Whether "sequence" has a single position, which is "pooled".
        frozen: Whether the weights of the preset stay as they are.
    """

    null = None
    probed = "a test image"

    models: ClassVar[tuple[str, ...]]
    """Names of the classes of `keras_hub.models` that can be loaded."""

    published: ClassVar[Preprocessing]
    """How the authors of the model prepare images. Sizes are those of the preset."""

    def __init__(
        self,
        *,
        preset: Annotated[str, Field(min_length=1)],
        field: str,
        pool: bool,
        frozen: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.preset = preset
        self.field = field
        self.pool = pool
        self.frozen = frozen
        self.fields = (field,)
        self.weights_are_external = frozen

    def _load(self, **options: Any) -> None:
        """Loads the preset.

        Args:
            options: Options of KerasHub's model that replace those of the preset.

        Raises:
            ConfigError, PluginError: the preset cannot be loaded, or reads other images than squares of three colors.
        """
        source = find(self.preset, self.models)
        self._set_layers(load_backbone(source, self.models, self.dtype_policy.name, **options))
        height, width, channels = self.vision.image_shape
        if height != width or channels != 3:
            raise ConfigError(f"preset '{self.preset}' reads no squares of 3 colors, but {height}x{width}x{channels}")
        self.preprocessing = read_preprocessing(source, height, self.published)
        if self.frozen:
            self.trainable = False

    def _set_layers(self, backbone: Any) -> None:
        """Stores the layers of a model that are needed: `vision`, and others if `embed` uses them."""
        self.vision = getattr(backbone, "vision_encoder", backbone)

    @abstractmethod
    def embed(self, images: Tensor, training: bool) -> tuple[Tensor, Tensor]:
        """Encodes normalized images: (B, S, S, 3) -> the sequence (B, L, D) and the pooled vector (B, P)."""

    @property
    @abstractmethod
    def positions(self) -> int:
        """Number L of positions of the sequence that `embed` returns."""

    @property
    def pooled_dim(self) -> int:
        """Dimension P of the pooled vector."""
        return int(self.vision.hidden_dim)

    @property
    def condition_space(self) -> ConditionSpace:
        if self.pool:
            return ConditionSpace(1, self.pooled_dim)
        return ConditionSpace(self.positions, self.vision.hidden_dim, self.pooled_dim)

    # ---- inputs ---------------------------------------------------------------------------------------------------

    def tokenize(self, inputs: Sequence[np.ndarray | None]) -> dict[str, np.ndarray]:
        """Returns "image" (B, S, S, 3) uint8, resized and cropped, and "given" (B,) float32, 0 for no image."""
        size = self.preprocessing.crop
        images = np.zeros((len(inputs), size, size, 3), np.uint8)  # (B, S, S, 3)
        for row, image in zip(images, inputs, strict=True):
            if image is not None:
                row[:] = self.preprocessing.cropped(as_bytes(image))
        return {"image": images, "given": np.array([image is not None for image in inputs], np.float32)}

    def parse(self, text: str, field: str) -> np.ndarray:
        return read_image(Path(text), channels=3)

    def probe_input(self) -> np.ndarray:
        """A gradient of three colors, in the size of the model."""
        size = self.preprocessing.crop
        ramp = np.linspace(0, 255, size).astype(np.uint8)
        across, down = np.broadcast_to(ramp, (size, size)), np.broadcast_to(ramp[:, None], (size, size))
        return np.stack([across, down, across[:, ::-1]], axis=-1)  # (S, S, 3)

    # ---- conditions -----------------------------------------------------------------------------------------------

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        images = self.preprocessing.normalized(ops.cast(tokens["image"], "float32") / 127.5 - 1.0)  # (B, S, S, 3)
        made = self.embed(ops.cast(images, self.compute_dtype), training and not self.frozen)
        sequence, pooled = (ops.cast(x, self.compute_dtype) for x in made)  # some layers of KerasHub return float32
        given = ops.cast(tokens["given"], self.compute_dtype)[:, None]  # (B, 1)
        pooled = pooled * given  # (B, P)
        if self.pool:
            return {"sequence": pooled[:, None], "mask": ops.ones_like(given), "pooled": pooled}
        first = ops.cast(ops.arange(self.positions) == 0, self.compute_dtype)  # (L,)
        mask = given + (1.0 - given) * first  # (B, L)
        return {"sequence": sequence * given[..., None], "mask": mask, "pooled": pooled}
