"""The text tower of a published CLIP, as it conditions Stable Diffusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import keras
import numpy as np
from keras import ops
from pydantic import Field, NonNegativeInt

from kgen import ConditionSpace, ConfigError, Encoder
from kgen.pretrained import LoraNames
from kgen_plugin_clip.pretrained.text_model import PretrainedTextModel

Tensor = Any


class ClipText(Encoder):
    """The text tower of a published CLIP alone (Radford et al. 2021), which is not trained.

    Its architecture, its tokenizer and its weights are those of a local folder. Texts are padded as the tokenizer says,
    and all positions are real, as for Stable Diffusion (Rombach et al. 2022). "sequence" has the outputs for all
    tokens. "pooled" is the output of the last block for the end token, normalized, and projected if the model has a
    projection.

    Args:
        pretrained: The folder of a `CLIPTextModel` or `CLIPTextModelWithProjection` in the layout of the package
            `transformers`, or of a pipeline of diffusers with the folders "text_encoder" and "tokenizer".
        variant: The variant of the weights, such as "fp16"; None: the files without a variant.
        skip: Number of the last blocks that "sequence" leaves out: 1 for SDXL.
        norm: Whether "sequence" is normalized by the final normalization. For SDXL, it is not.

    Raises:
        ConfigError: in `adapt`, the folder is not that of such a model, or has no more than `skip` blocks.
    """

    def __init__(
        self,
        *,
        pretrained: Annotated[str, Field(min_length=1)],
        variant: Annotated[str, Field(min_length=1)] | None = None,
        skip: NonNegativeInt = 0,
        norm: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pretrained = pretrained
        self.variant = variant
        self.skip = skip
        self.norm = norm
        self.model: PretrainedTextModel | None = None
        self.projection: keras.layers.Dense | None = None
        self.trainable = False

    @classmethod
    def is_pretrained(cls, options: Mapping[str, Any]) -> bool:
        return True

    def _set_model(self, model: PretrainedTextModel) -> None:
        found = model.architecture
        if self.skip >= found.text.depth:
            raise ConfigError(
                f"encoder 'text': skip must be smaller than the {found.text.depth} blocks of {self.pretrained}"
            )
        self.model = model
        self.tower = model.tower(self.dtype_policy)
        if found.dim is not None:
            self.projection = keras.layers.Dense(found.dim, use_bias=False, dtype=self.dtype_policy, name="projection")

    def _require_model(self) -> PretrainedTextModel:
        if self.model is None:
            raise ConfigError(f"encoder 'text' has not read {self.pretrained} yet: call its adapt([]) first")
        return self.model

    @property
    def condition_space(self) -> ConditionSpace:
        found = self._require_model().architecture
        return ConditionSpace(found.length, found.text.width, found.dim or found.text.width)

    def adapt(self, inputs: Sequence[str]) -> None:
        self._set_model(PretrainedTextModel.of_folder(self.pretrained, self.variant))

    def tokenize(self, inputs: Sequence[str]) -> dict[str, np.ndarray]:
        self._require_model()
        return self.tower.tokenize(inputs)

    def unread(self, value: str) -> str:
        self._require_model()
        return self.tower.unread(value)

    def build(self, input_shape: Any = None) -> None:
        model = self._require_model()
        self.tower.build(None)
        if self.projection is not None:
            self.projection.build((None, self.tower.width))
        model.fill(self.tower, None if self.projection is None else self.projection.kernel)

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        ids = tokens["ids"]
        states = self.tower.states(ids)  # depth + 1 times (B, L, D)
        last = self.tower.norm(states[-1])
        sequence = states[-1 - self.skip]
        if self.norm:
            sequence = self.tower.norm(sequence) if self.skip else last
        pooled = self.tower.at_end(last, ids)  # (B, D)
        if self.projection is not None:
            pooled = self.projection(pooled)  # (B, dim)
        mask = ops.ones((ops.shape(ids)[0], self.tower.length), dtype=self.compute_dtype)
        return {"sequence": sequence, "mask": mask, "pooled": pooled}

    def lora_names(self) -> LoraNames:
        """The names of the layers in LoRA files."""
        return self._require_model().lora_names()

    def save_assets(self, path: str | Path) -> None:
        self._require_model().save(Path(path))
        self.tower.save_assets(Path(path))

    def load_assets(self, path: str | Path) -> None:
        self._set_model(PretrainedTextModel.of_assets(Path(path)))
