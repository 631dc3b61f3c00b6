"""Text towers: an encoder has ``text: {kind: transformer, width: 128}``, and `build` makes the layer.

Any plugin can add one: ``registry.add("clip.text", "mine", "package.module:Mine", summary=...)``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import keras
import numpy as np
from keras import ops
from kgen_plugin_text.bpe import PAD, SMALLEST, BytePairs
from kgen_plugin_text.words import UNKNOWN, Words
from pydantic import Field, PositiveInt

from kgen import ConfigError, DataError, Encoder, freeze_layer, make_encoder, read_json
from kgen.options import Choice
from kgen_plugin_clip.transformer import EPSILON, blocks

Tensor = Any

WORDS, PAIRS = "words.json", "tokenizer.json"


class TextTower(Protocol):
    """The protocol of a `clip.text`: the options of a network, from which `build` makes the layer."""

    def build(self, policy: Any) -> TextLayer:
        """Makes the layer in a dtype policy."""


class TextLayer(keras.layers.Layer):  # type: ignore[misc]
    """The base class of the layers. For its other methods, see `kgen.Encoder`.

    Attributes:
        length, width: The shape (L, D) of the sequence of a text.
        features: The number of features of a text.
    """

    length: int
    width: int
    features: int

    def adapt(self, inputs: Sequence[str]) -> None:
        """Learns a vocabulary from the training captions."""
        raise NotImplementedError

    def tokenize(self, inputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Turns B texts into arrays (B, ...)."""
        raise NotImplementedError

    def unread(self, value: str) -> str:
        """Says which part of a text `tokenize` leaves out, or ""."""
        return ""

    def call(self, tokens: dict[str, Tensor], training: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the sequence (B, L, D), its mask (B, L), and the features of each text (B, F)."""
        raise NotImplementedError

    def save_assets(self, path: Path) -> None:
        """Writes what `adapt` learned to the folder `path`."""
        raise NotImplementedError

    def load_assets(self, path: Path) -> None:
        """Reads what `save_assets` wrote."""
        raise NotImplementedError


class CausalLayer(TextLayer):
    """A causal transformer over tokens, with learned positions.

    Args:
        length: Number of tokens per text.
        width, depth, heads: See `Transformer`.
        style: Other options of `Block`, and the epsilon of all normalizations.
    """

    def __init__(
        self, length: int, width: int, depth: int, heads: int, style: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        style = style or {}
        self.length, self.width, self.features = length, width, width
        self.blocks = blocks(width, depth, heads, True, self.dtype_policy, **style)
        epsilon = style.get("epsilon", EPSILON)
        self.norm = keras.layers.LayerNormalization(epsilon=epsilon, dtype=self.dtype_policy, name="norm")

    @property
    def vocabulary_size(self) -> int:
        """Number of different tokens. It is known when the weights are created."""
        raise NotImplementedError

    def build(self, input_shape: Any = None) -> None:
        shape, normal = (None, self.length, self.width), keras.initializers.RandomNormal
        table = (self.vocabulary_size, self.width)
        self.table = self.add_weight(shape=table, initializer=self.first_tokens, name="tokens")
        self.positions = self.add_weight(shape=shape[1:], initializer=normal(stddev=0.01), name="positions")
        for layer in (*self.blocks, self.norm):
            layer.build(shape)

    def first_tokens(self, shape: tuple[int, ...], dtype: Any = None) -> Tensor:
        """The initial vectors of the tokens."""
        return keras.initializers.RandomNormal(stddev=0.02)(shape, dtype=dtype)

    def read(self, ids: Tensor) -> Tensor:
        """The output for each token: ids (B, L) -> (B, L, D)."""
        return self.norm(self.states(ids)[-1])

    def states(self, ids: Tensor) -> list[Tensor]:
        """The vectors of the tokens, and the outputs of all blocks: ids (B, L) -> depth + 1 times (B, L, D)."""
        found = [ops.cast(ops.take(self.table, ids, axis=0) + self.positions, self.compute_dtype)]
        for block in self.blocks:
            found.append(block(found[-1]))
        return found


@dataclass(frozen=True)
class Transformer:
    """The text tower of CLIP (Radford et al. 2021, section 2.4): a causal transformer with learned positions.

    The features of a text are those of its last token, which stands for its end. The tower learns its vocabulary from
    the captions.

    Args:
        width: Dimension of the vectors.
        depth: Number of blocks.
        heads: Number of attention heads, which must divide `width`.
        length: Number of tokens per text, including one for its start and one for its end. Longer texts are truncated.
        tokens: "words", or "pairs" of bytes, which can spell every word.
        vocabulary: Largest number of different tokens.
    """

    width: PositiveInt = 128
    depth: PositiveInt = 2
    heads: PositiveInt = 4
    length: Annotated[int, Field(ge=3)] = 24
    tokens: Literal["words", "pairs"] = "words"
    vocabulary: Annotated[int, Field(ge=SMALLEST)] = 8192

    def build(self, policy: Any) -> TransformerLayer:
        return TransformerLayer(self, dtype=policy, name="text")


class TransformerLayer(CausalLayer):
    """The layer of `Transformer`."""

    def __init__(self, options: Transformer, **kwargs: Any) -> None:
        super().__init__(options.length, options.width, options.depth, options.heads, **kwargs)
        self.options = options
        self.vocabulary: Words | BytePairs | None = None

    def adapt(self, inputs: Sequence[str]) -> None:
        if not inputs:
            raise DataError("encoder 'clip' cannot learn a vocabulary: there are no captions")
        if self.options.tokens == "words":
            self.vocabulary = Words.learn(inputs, self.options.vocabulary, 1)
        else:
            self.vocabulary = BytePairs.learn(inputs, self.options.vocabulary, lowercase=True)

    def _learned(self) -> Words | BytePairs:
        if self.vocabulary is None:
            raise ConfigError("encoder 'clip' has no vocabulary yet: call its adapt(captions) first")
        return self.vocabulary

    def tokenize(self, inputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns "ids", int32 (B, L): a start token, the text, an end token with the largest id, and `PAD`."""
        vocabulary = self._learned()
        ids = np.full((len(inputs), self.length), PAD, np.int32)  # (B, L)
        ids[:, :-1] = vocabulary(inputs, self.length - 1)
        ends = np.count_nonzero(ids != PAD, axis=1)  # (B,)
        ids[np.arange(len(ids)), ends] = vocabulary.size
        return {"ids": ids}

    def unread(self, value: str) -> str:
        return self._learned().unread(value, self.length - 1)

    @property
    def vocabulary_size(self) -> int:
        return self._learned().size + 1  # with that of the end

    def first_tokens(self, shape: tuple[int, ...], dtype: Any = None) -> Tensor:
        """The vector of unknown words is zero. Training does not change it if all words of the captions are known."""
        table = super().first_tokens(shape, dtype)
        known = np.ones((shape[0], 1), np.float32)
        known[UNKNOWN] = 0.0 if self.options.tokens == "words" else 1.0
        return table * ops.cast(known, table.dtype)

    def call(self, tokens: dict[str, Tensor], training: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        ids = tokens["ids"]
        x = self.read(ids)  # (B, L, D)
        end = ops.cast(ops.equal(ids, self._learned().size), x.dtype)  # (B, L), 1 at the end
        features = ops.sum(x * end[..., None], axis=1)  # (B, D)
        return x, ops.cast(ops.not_equal(ids, PAD), x.dtype), features

    def save_assets(self, path: Path) -> None:
        vocabulary = self._learned()
        if isinstance(vocabulary, Words):
            (path / WORDS).write_text(json.dumps(vocabulary.words), encoding="utf-8")
        else:
            vocabulary.save(path / PAIRS)

    def load_assets(self, path: Path) -> None:
        if self.options.tokens == "words":
            self.vocabulary = Words(read_json(path / WORDS, list[str]))
        else:
            self.vocabulary = BytePairs.load(path / PAIRS, lowercase=True)


@dataclass(frozen=True)
class Frozen:
    """Any other encoder of texts, such as a pretrained one. It is frozen: only the projection of its output is trained.

    Args:
        encoder: The name of the encoder, or a mapping with its name and options. The features of a text are "pooled".
    """

    encoder: Annotated[dict[str, Any], Choice("encoder")]

    def build(self, policy: Any) -> FrozenLayer:
        return FrozenLayer(make_encoder(self.encoder, None), dtype=policy, name="text")


class FrozenLayer(TextLayer):
    """The layer of `Frozen`."""

    def __init__(self, encoder: Encoder, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if encoder.fields != ("caption",):
            raise ValueError(f"text: the encoder must read captions, not {' and '.join(encoder.fields)}")
        if type(encoder).compute_losses is not Encoder.compute_losses:
            raise ValueError(
                f"text: '{type(encoder).__name__}' must be trained in a stage of its own, which a text tower does not "
                "have. For a published CLIP, use its text tower, {name: keras-hub/clip-text, preset: FOLDER}; or use "
                "the whole model, encoder: {name: clip/clip, pretrained: FOLDER}"
            )
        self.encoder = encoder
        self.encoder.trainable = False

    @property
    def length(self) -> int:  # type: ignore[override]
        return self.encoder.condition_space.length

    @property
    def width(self) -> int:  # type: ignore[override]
        return self.encoder.condition_space.dim

    @property
    def features(self) -> int:  # type: ignore[override]
        return self.encoder.condition_space.pooled_dim

    def adapt(self, inputs: Sequence[str]) -> None:
        self.encoder.adapt(inputs)

    def tokenize(self, inputs: Sequence[str]) -> dict[str, np.ndarray]:
        return self.encoder.tokenize(inputs)

    def unread(self, value: str) -> str:
        return self.encoder.unread(value)

    def build(self, input_shape: Any = None) -> None:
        self.encoder.null_condition()
        freeze_layer(self.encoder)  # also the layers that its build made

    def call(self, tokens: dict[str, Tensor], training: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        made = self.encoder(tokens)
        return tuple(ops.cast(made[name], self.compute_dtype) for name in ("sequence", "mask", "pooled"))

    def save_assets(self, path: Path) -> None:
        self.encoder.save_assets(path)

    def load_assets(self, path: Path) -> None:
        self.encoder.load_assets(path)
