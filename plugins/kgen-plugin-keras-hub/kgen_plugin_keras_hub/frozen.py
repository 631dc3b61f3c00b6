"""What the pretrained encoders share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from keras import ops
from typing_extensions import TypedDict

from kgen import ConfigError, Encoder, RunError, read_json
from kgen_plugin_keras_hub.presets import find
from kgen_plugin_keras_hub.tokenizers import Kind, plain, read_tokenizer

FILE = "preset.json"
PROBE = "a red heart"
DRIFT = 0.05
"""How far (relatively) a precision or a backend may move the probe's condition."""


class Fingerprint(TypedDict):
    """What that file holds: a text, and its condition "pooled"."""

    text: str
    pooled: list[float]


class FrozenText(Encoder):
    """A pretrained encoder that is not trained on. Its weights stay in the preset; kgen does not save them.

    With a pipeline, the condition of a short text is saved, and compared when the pipeline is loaded: a preset that was
    replaced in the meantime is refused.

    Args:
        preset: "minilm" (BERT only), a folder, "hf://USER/NAME", or a name that KerasHub knows.
        length: Tokens a text, with the marks of begin and end; longer texts are cut off.
    """

    weights_are_external = True

    kind: ClassVar[Kind]
    """Of tokenizer."""

    models: ClassVar[tuple[str, ...]]
    """The classes of `keras_hub.models` that can be loaded."""

    def __init__(self, *, preset: str, length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.preset = preset
        self.length = length
        self.source = find(preset, self.models)
        self.tokenizer = read_tokenizer(self.source, self.kind, length)

    def check_sizes(self, vocabulary: int, longest: int | None) -> None:
        """Compares tokenizer and options with the model.

        Args:
            vocabulary: How many tokens the model knows.
            longest: Most positions that the model has; None: no limit.

        Raises:
            ConfigError: the tokenizer is another model's. ValueError: `length` is too long.
        """
        if self.tokenizer.size > vocabulary:
            tokens = f"the tokenizer has {self.tokenizer.size} tokens, but the model knows {vocabulary}"
            raise ConfigError(f"preset '{self.preset}': {tokens}")
        if longest is not None and self.length > longest:
            raise ValueError(f"length {self.length} is more than the {longest} positions of preset '{self.preset}'")

    def tokenize(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        return self.tokenizer(texts)

    def unread(self, text: str) -> str:
        """Says what is beyond `length`, and what the preset's vocabulary has no token for."""
        count, unknown = self.tokenizer.counts(plain(text))
        problems = [f"only {self.length} of its {count} tokens are read"] if count > self.length else []
        if unknown:
            problems.append(f"its tokens hold {unknown} that preset '{self.preset}' does not know")
        return "; ".join(problems)

    def save_assets(self, path: str | Path) -> None:
        data = {"text": PROBE, "pooled": self._pooled(PROBE).tolist()}
        (Path(path) / FILE).write_text(json.dumps(data), encoding="utf-8")

    def load_assets(self, path: str | Path) -> None:
        data = read_json(Path(path) / FILE, Fingerprint)
        before, now = np.asarray(data["pooled"], np.float32), self._pooled(data["text"])
        if before.shape != now.shape or np.linalg.norm(now - before) > DRIFT * np.linalg.norm(before):
            raise RunError(
                f"preset '{self.preset}' is not what this pipeline was trained with: it makes another condition of "
                f"'{data['text']}'; restore the preset, or train again"
            )

    def _pooled(self, text: str) -> np.ndarray:
        pooled = self(self.tokenize([text]))["pooled"]
        return np.asarray(ops.convert_to_numpy(ops.cast(pooled, "float32")))[0]


def real_mean(x: Any, mask: Any) -> Any:
    """Mean over the real positions: x (B, L, D), mask (B, L) -> (B, D)."""
    return ops.sum(x * mask[..., None], axis=1) / ops.sum(mask, axis=1)[:, None]
