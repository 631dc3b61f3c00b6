"""BERT and similar models, such as MiniLM."""

from __future__ import annotations

from typing import Any, Literal

from keras import ops
from pydantic import PositiveInt

from kgen import ConditionSpace
from kgen_plugin_keras_hub.frozen import FrozenText, real_mean
from kgen_plugin_keras_hub.hugging_face import exact_gelu
from kgen_plugin_keras_hub.presets import load_backbone, read_config


class BertText(FrozenText):
    """A frozen BERT (Devlin et al. 2018) or sentence transformer (Reimers and Gurevych 2019).

    Args:
        preset: Pretrained model: "minilm" (all-MiniLM-L6-v2, 384 dimensions), a folder (KerasHub's or Hugging Face's),
            "hf://USER/NAME", or a preset of KerasHub, such as "bert_tiny_en_uncased".
        length: Number of tokens per text, including start and end token. Longer texts are truncated.
        pooling: Content of "pooled": "mean" of the real positions, as in sentence transformers; "cls", the first
            position; or "pooler", BERT's pooler layer on the first position.
        normalize: Whether "pooled" is normalized to length 1, which sentence transformers do to compare texts.
            Generators learn better from larger values.

    Raises:
        ConfigError, PluginError: The preset cannot be loaded.
        ValueError: `length` is too long for the preset.
    """

    kind = "Bert"
    models = ("BertBackbone",)

    def __init__(
        self,
        *,
        preset: str = "minilm",
        length: PositiveInt = 32,
        pooling: Literal["mean", "cls", "pooler"] = "mean",
        normalize: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(preset=preset, length=length, **kwargs)
        self.pooling = pooling
        self.normalize = normalize
        self.backbone = load_backbone(self.source, self.models, self.dtype_policy.name)
        self.check_sizes(self.backbone.vocabulary_size, self.backbone.max_sequence_length)
        if read_config(self.source).get("hidden_act") == "gelu":
            exact_gelu(self.backbone)
        self.trainable = False

    @property
    def condition_space(self) -> ConditionSpace:
        return ConditionSpace(self.length, self.backbone.hidden_dim)

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        made = self.backbone({**tokens, "segment_ids": ops.zeros_like(tokens["token_ids"])}, training=False)
        sequence = made["sequence_output"]  # (B, L, D)
        mask = ops.cast(tokens["padding_mask"], sequence.dtype)  # (B, L)
        if self.pooling == "mean":
            pooled = real_mean(sequence, mask)  # (B, D)
        else:
            pooled = sequence[:, 0] if self.pooling == "cls" else made["pooled_output"]
        if self.normalize:
            pooled = ops.normalize(pooled, axis=-1)
        return {"sequence": sequence, "mask": mask, "pooled": pooled}
