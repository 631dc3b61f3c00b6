"""The contract of the encoder, which turns a text, a label or an image into a condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

import keras
import numpy as np

from kgen.backend.attributes import freeze_layer
from kgen.errors import ConfigError
from kgen.options import MAX_OPTION, Arguments, Configurable
from kgen.spaces import ConditionSpace

Condition = dict[str, Any]

Tensor = Any

RESERVED = frozenset({"name", "condition_dropout", "fit", "data", "init", "from"})
"""Keys of an encoder in a run file that are not its options: its name, its dropout if it is joined with others, and the
settings of its training."""


class Encoder(Configurable, keras.layers.Layer):  # type: ignore[misc]
    """Turns captions, or other fields of the examples, into conditions.

    An input is the value of the field that `fields` names: a text for "caption", an array for "image". If an encoder
    reads several fields, an input is a mapping of them. A prompt is an input, too.

    A subclass takes its options as keyword arguments of ``__init__``, stores each under its own name, and passes
    ``**kwargs`` (Keras's ``name`` and ``dtype``) to ``super().__init__``. An encoder with frozen weights sets
    ``self.trainable = False``; kgen may then cache its outputs.

    kgen calls ``__init__`` first, then ``adapt`` or ``load_assets``. After that, `condition_space` must be known, and
    kgen builds the weights.

    An encoder that implements `compute_losses` is trained in a separate stage, before the decoder and the generator,
    and is frozen after it. Any other encoder is trained together with the generator, unless it is frozen.

    Attributes:
        fields: The fields of an example that the encoder reads (see `Dataset`). An encoder that reads "image" gets the
            image that is to be generated. The generator then learns to reconstruct it from the condition, and the
            images of a prompt are variations of that image.
        null: The null input: the empty text, or None if the field is not a text. In training, its condition replaces a
            share of the conditions. Classifier-free guidance leads away from it.
        weights_are_external: True if the weights come from elsewhere (a preset, a folder). kgen does not save them, and
            does not train the encoder in a separate stage.
        trained_as: Another class, whose training stage also trains the weights of this encoder. An example is an
            encoder of images that shares its weights with an encoder of texts. Both have the same options, assets and
            weights. A run file must set `from: RUN` for such an encoder. None: the encoder has its own weights.
    """

    arguments: ClassVar[Mapping[str, Arguments]] = {"__init__": Arguments(reserved=RESERVED)}
    largest_option = MAX_OPTION

    fields: tuple[str, ...] = ("caption",)
    null: Any = ""
    weights_are_external: bool = False
    trained_as: ClassVar[type[Encoder] | None] = None

    @property
    def condition_space(self) -> ConditionSpace:
        """The shape of one condition."""
        raise NotImplementedError

    @classmethod
    def is_pretrained(cls, options: Mapping[str, Any]) -> bool:
        """Whether an encoder with these options has trained weights, which it reads from files that the options name.

        Such an encoder reads the files in `adapt`, and assigns the weights when they are built. It needs no `fit`: a
        run copies its assets and weights, and does not need the files afterwards. After `load_assets`, the encoder does
        not read the files, because its weights are loaded, too. Default: False.

        Args:
            options: The options as plain data, as `config` returns them.
        """
        return False

    def adapt(self, inputs: Sequence[Any]) -> None:
        """Learns a vocabulary, or anything else that is not a weight, from the training inputs. Default: nothing.

        Images are read when they are accessed: an encoder that only needs their size accesses one of them.
        """

    def tokenize(self, inputs: Sequence[Any]) -> dict[str, np.ndarray]:
        """Turns B inputs into numpy arrays of fixed shapes (B, ...), on the host.

        It must accept `null`, and images of any size.

        Raises:
            ConfigError: it cannot read an input, such as an unknown class.
        """
        raise NotImplementedError

    def unread(self, value: Any) -> str:
        """Says which part of an input `tokenize` leaves out ("only the first 31 of its 40 words are read"), or "".

        A run counts the captions that are not read completely, and `Pipeline.generate` warns of such prompts. Default:
        "".
        """
        return ""

    def parse(self, text: str, field: str) -> Any:
        """Reads the value of a field from the command line or a run file, such as an image from its path.

        Default: the text itself.

        Raises:
            ConfigError, DataError: the text does not specify a value.
        """
        return text

    def parts(self) -> tuple[Encoder, ...]:
        """The encoders that are joined in this one; the encoder itself if it joins none.

        This is a method because Keras visits all attributes to load weights, and would recurse forever.
        """
        return (self,)

    @property
    def shows_null(self) -> bool:
        """Whether training shows the null condition even if a pipeline has no `condition_dropout`."""
        return False

    def null_tokens(self) -> dict[str, np.ndarray]:
        """The tokens of `null`: arrays (1, ...)."""
        return self.tokenize([self.null])

    def null_condition(self) -> Condition:
        """The condition of `null`, with a batch axis of 1."""
        return self(self.null_tokens())  # type: ignore[no-any-return]

    def call(self, tokens: dict[str, Any], training: bool = False) -> Condition:
        """Encodes tokens.

        Args:
            tokens: The arrays of `tokenize`.
            training: Whether the call is part of the training, as in Keras.

        Returns:
            "sequence" (B, L, D), "mask" (B, L) and "pooled" (B, P), in float, of the shapes in `condition_space`. The
            mask is 1.0 for a real position and 0.0 for padding; at least one position is real.
        """
        raise NotImplementedError

    def compute_losses(self, images: Tensor, tokens: dict[str, Any], training: bool) -> dict[str, Tensor]:
        """Losses per example, as for a generator. Only encoders that are trained in a separate stage implement this.

        The first `call` must create every weight; `compute_losses` must create none.

        Args:
            images: The training images, (B, H, W, C) in [-1, 1].
            tokens: The arrays of `tokenize` for the inputs of the same examples.
            training: Whether the call is part of the training, as in Keras.

        Returns:
            Arrays (B,), in float32 also under mixed precision. "loss" is minimized; the others are reported. A loss
            that compares an example with the other examples of the batch needs the examples of all replicas
            (`kgen.backend.replicas.gather_over_replicas`).
        """
        raise NotImplementedError

    def scores(self, images: np.ndarray, inputs: Sequence[Any]) -> dict[str, float]:
        """Scores by name, which the report shows if the encoder was trained in a separate stage. Default: none.

        Args:
            images: Images, uint8 (N, H, W, C). If the dataset has images that are not used in training, these are such.
            inputs: The N inputs of the same examples.
        """
        return {}

    def save_assets(self, path: str | Path) -> None:
        """Writes what `adapt` learned to the folder `path`. Default: nothing."""

    def load_assets(self, path: str | Path) -> None:
        """Reads what `save_assets` wrote. Called before any weight exists. Default: nothing."""


@runtime_checkable
class ImageEmbedder(Protocol):
    """An encoder with embeddings of images: a contrastive model of images and texts (Radford et al. 2021).

    The two methods need all weights, which the first call of the encoder creates; they create none. They compute every
    row alone, and read no random numbers.

    Attributes:
        embedding_dim: Dimension D of the embeddings. It is known after `adapt` or `load_assets`.
        image_size: Height and width S of the images that `embed_images` takes.
    """

    embedding_dim: int
    image_size: int

    def embed_images(self, images: Tensor) -> Tensor:
        """The embeddings of images: (B, S, S, 1 or 3) in [-1, 1] -> (B, D) float32, of unit length."""

    def embed_texts(self, tokens: dict[str, Tensor], training: bool = False) -> Tensor:
        """The embeddings of texts: the arrays of `Encoder.tokenize` -> (B, D) float32, of unit length."""


def image_embedder(encoder: Encoder | None, owner: str) -> tuple[Encoder, ImageEmbedder]:
    """Finds the encoder of a pipeline that embeds images: the encoder itself, or one of those that are joined in it.

    Args:
        encoder: The encoder of the pipeline.
        owner: Who needs the embeddings, for the message.

    Returns:
        The encoder twice, because Python has no type for "both".

    Raises:
        ConfigError: no encoder embeds images, or several do.
    """
    parts = () if encoder is None else encoder.parts()
    found = [part for part in parts if isinstance(part, ImageEmbedder)]
    if len(found) != 1:
        names = " and ".join(type(part).__name__ for part in (found or parts)) or "no encoder was given"
        what = "several encoders embed images" if found else "the encoder of the run does not embed images"
        raise ConfigError(
            f"{owner} needs one encoder that embeds images as well as texts, but {what} ({names}): choose a "
            "contrastive model of images and texts ('kgen plugins list' shows the encoders), or write an encoder with "
            "the methods of kgen.ImageEmbedder"
        )
    return found[0], cast(ImageEmbedder, found[0])


def has_losses(encoder: type[Encoder]) -> bool:
    """Whether an encoder is trained in a separate stage, so that its `fit` configures training steps."""
    own = encoder.compute_losses is not Encoder.compute_losses
    return own and encoder.trained_as is None and not encoder.weights_are_external


def trained_before(encoder: type[Encoder]) -> bool:
    """Whether an encoder's weights are trained before the generator's training, and frozen during it."""
    return has_losses(encoder) or encoder.trained_as is not None


def freeze_trained(encoder: Encoder) -> None:
    """Freezes an encoder, or those of its joined encoders, if the weights are trained before the generator."""
    parts = encoder.parts()
    for part in parts:
        if trained_before(type(part)):
            freeze_layer(part)
    if not any(part.trainable for part in parts):
        freeze_layer(encoder)
