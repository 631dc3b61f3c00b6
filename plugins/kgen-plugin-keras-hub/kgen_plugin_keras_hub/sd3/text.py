"""The text encoders of Stable Diffusion 3, joined in one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import keras
import numpy as np
from keras import ops
from kgen_plugin_text.pieces import TextTokenizer, plain
from pydantic import Field, PositiveInt

from kgen import ConditionSpace, ConfigError
from kgen.pretrained import Section
from kgen_plugin_keras_hub.frozen import PresetEncoder
from kgen_plugin_keras_hub.sd3.library import hub_class, t5_encoder_class
from kgen_plugin_keras_hub.sd3.preset import Published, load_part, open_preset
from kgen_plugin_keras_hub.t5 import T5Text
from kgen_plugin_keras_hub.tokenizers import pads_with_end, read_tokenizer

Tensor = Any

T5_LENGTH = 256
"""Number of tokens that KerasHub's T5 reads, and diffusers' pipelines."""


class StableDiffusion3Text(PresetEncoder):
    """The text encoders of Stable Diffusion 3 and 3.5: two of CLIP, and a T5, which is optional (Esser et al. 2024).

    "sequence" has the last but one layers of the two CLIPs, joined in width and padded to the width of T5. The output
    of T5 follows, or as many zeros as CLIP has positions. "pooled" has the projected end tokens of the CLIPs. Stable
    Diffusion attends to all positions, so that "mask" is 1 everywhere (section 4 and figure 2).

    Args:
        preset: Pretrained model: a folder in KerasHub's format, "hf://USER/NAME", or a preset of KerasHub, such as
            "stable_diffusion_3_medium".
        t5: The T5 that the preset lacks, as all of KerasHub's own presets do: a preset of the encoder `T5Text`, such as
            a folder of "google/t5-v1_1-xxl". None: the T5 of the preset, if it has any.
        t5_length: Number of tokens per text that the T5 reads, including the end token. None means 256.

    Raises:
        ConfigError: the preset is damaged or is of another model; or `t5` or `t5_length` does not fit it.
        PluginError: KerasHub has another version, or a package is missing.
    """

    def __init__(
        self,
        *,
        preset: Annotated[str, Field(min_length=1)],
        t5: Annotated[str, Field(min_length=1)] | None = None,
        t5_length: PositiveInt | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.preset = preset
        self.t5 = t5
        self.t5_length = t5_length
        folder = open_preset(preset)
        published = Published.read(folder)
        if t5 is not None and published.t5 is not None:
            raise ConfigError(f"preset '{preset}' has a T5: leave 't5' out")
        if t5_length is not None and t5 is None and published.t5 is None:
            raise ConfigError(f"preset '{preset}' has no T5: leave 't5_length' out, or set 't5'")
        length = t5_length or T5_LENGTH
        self._separate = None if t5 is None else T5Text(preset=t5, length=length, dtype=self.dtype_policy)
        self._read(folder, published)
        self.trainable = False

    # ---- files ----------------------------------------------------------------------------------------------------

    def _read(self, folder: Path, published: Published) -> None:
        """Makes the models and their tokenizers, and loads the weights."""
        clips = {name: self._clip(name, getattr(published, name)) for name in ("clip_l", "clip_g")}
        self._tokenizers, self._paddings = {}, {}
        for name, clip in clips.items():
            file = f"{name}_tokenizer"
            tokenizer = read_tokenizer(folder, "CLIP", clip.max_sequence_length, file)
            self.check_vocabulary(tokenizer, clip.vocabulary_size)
            self._tokenizers[name] = tokenizer
            self._paddings[name] = tokenizer.ids("")[-1] if pads_with_end(folder, file) else 0
        inputs = {name: keras.Input((None,), dtype="int32") for name in clips}
        outputs = {}  # in the order in which KerasHub numbers layers of one class in the file
        for name, clip in clips.items():
            made = clip({"token_ids": inputs[name]})
            project = hub_class("CLIPProjection")(clip.hidden_dim, dtype=self.dtype_policy, name=f"{name}_projection")
            outputs[name] = made["intermediate_output"]
            outputs[f"{name}_pooled"] = project(made["sequence_output"], inputs[name])
        if published.t5 is not None:
            t5 = _made(published.t5, t5_encoder_class(), self.dtype_policy.name, "t5")
            self._tokenizers["t5"] = read_tokenizer(folder, "T5", self.t5_length or T5_LENGTH, "t5_tokenizer")
            self.check_vocabulary(self._tokenizers["t5"], t5.vocabulary_size)
            inputs["t5"] = keras.Input((None,), dtype="int32")
            outputs["t5"] = t5({"token_ids": inputs["t5"], "padding_mask": ops.ones_like(inputs["t5"])})
        elif self._separate is not None:
            self._tokenizers["t5"] = self._separate.tokenizer
        self.text_encoders = keras.Model(list(inputs.values()), list(outputs.values()))
        self._input_names, self._output_names = list(inputs), list(outputs)
        load_part(self.text_encoders, folder)
        self._set_space(published, clips)

    def _clip(self, name: str, config: Section) -> Any:
        """A text encoder of CLIP. Raises ConfigError if the configuration does not describe one."""
        import keras_hub

        if type(number := config.value("intermediate_output_index")) is not int:
            config.refuse("intermediate_output_index", f"must be the number of a block, not {number!r:.80}")
        return _made(config, keras_hub.models.CLIPTextEncoder, self.dtype_policy.name, name)

    def _set_space(self, published: Published, clips: dict[str, Any]) -> None:
        dim = published.context_dim
        if self._separate is not None and self._separate.dim != dim:
            raise ConfigError(f"t5: '{self.t5}' has {self._separate.dim} features, but the model reads {dim}")
        if published.pooled_dim > dim:
            raise ConfigError(
                f"{published.file}: the two CLIPs have {published.pooled_dim} features, more than the {dim} of T5"
            )
        length, other = (clips[name].max_sequence_length for name in ("clip_l", "clip_g"))
        if length != other:
            raise ConfigError(f"{published.file}: the two CLIPs read {length} and {other} tokens, not the same number")
        rest = self._tokenizers["t5"].length if "t5" in self._tokenizers else length
        self._lengths = (length, rest)
        self._space = ConditionSpace(length + rest, dim, published.pooled_dim)

    @property
    def condition_space(self) -> ConditionSpace:
        return self._space

    # ---- texts ----------------------------------------------------------------------------------------------------

    def tokenize(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns "clip_l" and "clip_g" (B, L), and "t5" (B, M) if there is a T5: int32."""
        return {name: self._ids(name, tokenizer, texts) for name, tokenizer in self._tokenizers.items()}

    def _ids(self, name: str, tokenizer: TextTokenizer, texts: Sequence[str]) -> np.ndarray:
        tokens = tokenizer(texts)
        return np.where(tokens["padding_mask"], tokens["token_ids"], self._paddings.get(name, 0)).astype(np.int32)

    def unread(self, text: str) -> str:
        """Returns a message about tokens that an encoder does not read, or ""."""
        problems = []
        for name, label in (("clip_l", "CLIP"), ("t5", "T5")):
            if name in self._tokenizers:
                count, most = self._tokenizers[name].counts(plain(text))[0], self._tokenizers[name].length
                problems += [f"{label} reads only {most} of its {count} tokens"] if count > most else []
        return "; ".join(problems)

    def call(self, tokens: dict[str, Tensor], training: bool = False) -> dict[str, Tensor]:
        """The tokens -> "sequence" (B, L + M, D), "mask" (B, L + M), "pooled" (B, P)."""
        outputs = self.text_encoders([tokens[name] for name in self._input_names], training=False)
        made = dict(zip(self._output_names, outputs, strict=True))
        clips = ops.concatenate([made["clip_l"], made["clip_g"]], axis=-1)  # (B, L, P)
        clips = ops.pad(clips, [[0, 0], [0, 0], [0, self._space.dim - clips.shape[-1]]])  # (B, L, D)
        if "t5" in made:
            rest = made["t5"]  # (B, M, D)
        elif self._separate is not None:
            ids = tokens["t5"]
            given = {"encoder_token_ids": ids, "encoder_padding_mask": ops.ones_like(ids)}
            rest = self._separate.text(given, training=False)
        else:
            rest = ops.zeros_like(clips)
        sequence = ops.concatenate([clips, ops.cast(rest, clips.dtype)], axis=1)  # (B, L + M, D)
        pooled = ops.concatenate([made["clip_l_pooled"], made["clip_g_pooled"]], axis=-1)  # (B, P)
        return {"sequence": sequence, "mask": ops.ones_like(sequence[..., 0]), "pooled": pooled}

    def probe(self) -> np.ndarray:
        """ "pooled", and the mean of "sequence" over the positions of each half: (P + 2 D,)."""
        made = self(self.tokenize([self.probe_input()]))
        halves = [ops.mean(part, axis=1) for part in ops.split(made["sequence"], [self._lengths[0]], axis=1)]
        whole = ops.concatenate([made["pooled"], *halves], axis=-1)
        return np.asarray(ops.convert_to_numpy(ops.cast(whole, "float32")))[0]


def _made(config: Section, cls: Any, dtype: str, name: str) -> Any:
    """A model of KerasHub. Raises ConfigError if the configuration does not describe one."""
    try:
        return cls.from_config({**config.data, "dtype": dtype, "name": name})
    except Exception as error:  # configurations can be wrong in many ways
        raise ConfigError(
            f"{config.file}: '{config.place.rstrip('.')}' does not describe a model: {type(error).__name__}: {error}"
        ) from error
