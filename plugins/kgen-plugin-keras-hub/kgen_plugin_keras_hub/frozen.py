"""The base classes of the pretrained encoders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NotRequired

import numpy as np
from keras import ops
from kgen_plugin_text.pieces import TextTokenizer, plain
from typing_extensions import TypedDict

from kgen import ConfigError, Encoder, RunError, read_json
from kgen_plugin_keras_hub.presets import find
from kgen_plugin_keras_hub.tokenizers import Kind, read_tokenizer

FILE = "preset.json"
PROBE = "a red heart"
DRIFT = 0.05
"""Largest relative change of the probe's condition that another precision or backend may cause."""


class Fingerprint(TypedDict):
    """The content of `FILE`: the condition "pooled" of `PresetEncoder.probe_input`; older files have the text, too."""

    pooled: list[float]
    text: NotRequired[str]


class PresetEncoder(Encoder):
    """A frozen pretrained encoder. Its weights stay in the preset, and kgen does not save them.

    A saved pipeline holds the condition of one input. Loading the pipeline compares it, and raises an error if the
    preset has been replaced in the meantime. A subclass has the option `preset`. If it sets `weights_are_external` to
    false, its weights are saved, and nothing is compared.

    Attributes:
        probed: The name of that input, for the message.
    """

    weights_are_external = True
    probed: ClassVar[str] = f"'{PROBE}'"

    preset: str

    def check_vocabulary(self, tokenizer: TextTokenizer, vocabulary: int) -> None:
        """Raises ConfigError if a tokenizer has more tokens than the model, whose number is `vocabulary`."""
        if tokenizer.size > vocabulary:
            tokens = f"the tokenizer has {tokenizer.size} tokens, but the model knows {vocabulary}"
            raise ConfigError(f"preset '{self.preset}': {tokens}")

    def save_assets(self, path: str | Path) -> None:
        if self.weights_are_external:
            data: Fingerprint = {"pooled": self.probe().tolist()}
            (Path(path) / FILE).write_text(json.dumps(data), encoding="utf-8")

    def load_assets(self, path: str | Path) -> None:
        if not self.weights_are_external:
            return
        before, now = np.asarray(read_json(Path(path) / FILE, Fingerprint)["pooled"], np.float32), self.probe()
        if before.shape != now.shape or np.linalg.norm(now - before) > DRIFT * np.linalg.norm(before):
            raise RunError(
                f"preset '{self.preset}' is not the one that this pipeline was trained with, because it encodes "
                f"{self.probed} differently: restore the preset, or train again"
            )

    def probe_input(self) -> Any:
        """The input whose condition is compared."""
        return PROBE

    def probe(self) -> np.ndarray:
        """The numbers of its condition that are compared: "pooled" (P,)."""
        pooled = self(self.tokenize([self.probe_input()]))["pooled"]
        return np.asarray(ops.convert_to_numpy(ops.cast(pooled, "float32")))[0]


class FrozenText(PresetEncoder):
    """A frozen pretrained encoder with one tokenizer.

    Args:
        preset: Pretrained model: "minilm" (BERT only), a folder, "hf://USER/NAME", or a preset of KerasHub.
        length: Number of tokens per text, including special tokens. Longer texts are truncated.
    """

    kind: ClassVar[Kind]
    """Kind of tokenizer."""

    models: ClassVar[tuple[str, ...]]
    """Names of the classes of `keras_hub.models` that can be loaded."""

    def __init__(self, *, preset: str, length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.preset = preset
        self.length = length
        self.source = find(preset, self.models)
        self.tokenizer = read_tokenizer(self.source, self.kind, length)

    def check_sizes(self, vocabulary: int, longest: int | None) -> None:
        """Compares tokenizer and options with the model.

        Args:
            vocabulary: Number of tokens of the model.
            longest: Number of positions of the model. None means no limit.

        Raises:
            ConfigError: The tokenizer has more tokens than the model.
            ValueError: `length` is too long.
        """
        self.check_vocabulary(self.tokenizer, vocabulary)
        if longest is not None and self.length > longest:
            raise ValueError(f"length {self.length} is more than the {longest} positions of preset '{self.preset}'")

    def tokenize(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        return self.tokenizer(texts)

    def unread(self, text: str) -> str:
        """Returns a message about tokens beyond `length` and unknown tokens, or ""."""
        count, unknown = self.tokenizer.counts(plain(text))
        problems = [f"only {self.length} of its {count} tokens are read"] if count > self.length else []
        if unknown:
            problems.append(f"{unknown} of its tokens are unknown to preset '{self.preset}'")
        return "; ".join(problems)


def real_mean(x: Any, mask: Any) -> Any:
    """Returns the mean over the real positions: x (B, L, D), mask (B, L) -> (B, D)."""
    return ops.sum(x * mask[..., None], axis=1) / ops.sum(mask, axis=1)[:, None]
