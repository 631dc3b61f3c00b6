"""The encoder of T5."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from pydantic import PositiveInt

from kgen import ConditionSpace
from kgen_plugin_keras_hub.frozen import FrozenText, real_mean
from kgen_plugin_keras_hub.hugging_face import t5
from kgen_plugin_keras_hub.presets import load_backbone, read_config


class T5Text(FrozenText):
    """The frozen encoder of a T5 (Raffel et al. 2020) or Flan-T5, as in Imagen.

    "pooled" is the mean of the real positions.

    Args:
        preset: Pretrained model: a folder (KerasHub's or Hugging Face's), "hf://USER/NAME", or a preset of KerasHub,
            such as "t5_small_multi".
        length: Number of tokens per text, including the end token. Longer texts are truncated. The model itself has no
            limit.

    Raises:
        ConfigError, PluginError: The preset cannot be loaded.
    """

    kind = "T5"
    models = ("T5Backbone",)

    def __init__(self, *, preset: str, length: PositiveInt = 64, **kwargs: Any) -> None:
        super().__init__(preset=preset, length=length, **kwargs)
        backbone = self._load()
        self.check_sizes(backbone.vocabulary_size, None)
        self.dim = backbone.hidden_dim
        inputs = {name: backbone.input[name] for name in ("encoder_token_ids", "encoder_padding_mask")}
        self.text = keras.Model(inputs, backbone.output["encoder_sequence_output"])  # without the decoder's weights
        self.trainable = False

    def _load(self) -> Any:
        config, dtype = read_config(self.source), self.dtype_policy.name
        if not isinstance(self.source, str) and config.get("model_type") == "t5":
            return t5(self.source, config, dtype)
        return load_backbone(self.source, self.models, dtype)

    @property
    def condition_space(self) -> ConditionSpace:
        return ConditionSpace(self.length, self.dim)

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        given = {f"encoder_{name}": value for name, value in tokens.items()}
        sequence = self.text(given, training=False)  # (B, L, D)
        mask = ops.cast(tokens["padding_mask"], sequence.dtype)  # (B, L)
        return {"sequence": sequence, "mask": mask, "pooled": real_mean(sequence, mask)}
