"""CLIP's text encoder."""

from __future__ import annotations

from typing import Any

from keras import ops
from pydantic import PositiveInt

from kgen import ConditionSpace, ConfigError
from kgen_plugin_keras_hub.frozen import FrozenText
from kgen_plugin_keras_hub.hugging_face import clip_text
from kgen_plugin_keras_hub.presets import load_backbone, read_config


class ClipText(FrozenText):
    """The frozen text encoder of a CLIP (Radford et al. 2021), as in Stable Diffusion.

    "sequence" is the normalized output of the last layer. "pooled" is its position at the end token.

    Args:
        preset: Pretrained model: a folder (KerasHub's or Hugging Face's; Stable Diffusion's ``text_encoder`` with
            ``tokenizer`` beside it), "hf://USER/NAME", or a preset of KerasHub, such as "clip_vit_base_patch32".
        length: Number of tokens per text, including start and end token. Longer texts are truncated.
        project: Whether "pooled" is projected into the embedding space that texts share with images.

    Raises:
        ConfigError, PluginError: The preset cannot be loaded, or has no projection.
        ValueError: `length` is too long for the preset.
    """

    kind = "CLIP"
    models = ("CLIPBackbone", "CLIPTextEncoder")

    def __init__(self, *, preset: str, length: PositiveInt = 77, project: bool = False, **kwargs: Any) -> None:
        super().__init__(preset=preset, length=length, **kwargs)
        self.project = project
        self.text, self.projection = self._load()
        self.check_sizes(self.text.vocabulary_size, self.text.max_sequence_length)
        if project and self.projection is None:
            raise ConfigError(f"preset '{preset}' has no projection: leave 'project' out, or use a whole CLIP")
        self.trainable = False

    def _load(self) -> tuple[Any, Any]:
        """Returns the text encoder, and its projection or None."""
        config, dtype = read_config(self.source), self.dtype_policy.name
        if not isinstance(self.source, str) and config.get("model_type") in ("clip", "clip_text_model"):
            return clip_text(self.source, config, dtype)
        backbone = load_backbone(self.source, self.models, dtype)
        return getattr(backbone, "text_encoder", backbone), getattr(backbone, "text_projection", None)

    @property
    def condition_space(self) -> ConditionSpace:
        pooled = self.projection.units if self.project else self.text.hidden_dim
        return ConditionSpace(self.length, self.text.hidden_dim, pooled)

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        sequence = self.text({"token_ids": tokens["token_ids"]}, training=False)  # (B, L, D)
        end = ops.sum(tokens["padding_mask"], axis=1) - 1  # (B,)
        pooled = ops.take_along_axis(sequence, end[:, None, None], axis=1)[:, 0]  # (B, D)
        if self.project:
            pooled = self.projection(pooled)  # (B, P)
        return {"sequence": sequence, "mask": ops.cast(tokens["padding_mask"], sequence.dtype), "pooled": pooled}
