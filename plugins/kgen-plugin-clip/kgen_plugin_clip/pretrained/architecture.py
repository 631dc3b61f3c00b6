"""What distinguishes published CLIP models: the sizes of their towers, and how images are prepared."""

from __future__ import annotations

from dataclasses import dataclass

from kgen_plugin_vision.preprocessing import Preprocessing

from kgen_plugin_clip.transformer import Activation


@dataclass(frozen=True)
class Tower:
    """The transformer of a tower.

    Args:
        width: Dimension of the vectors.
        depth: Number of blocks.
        heads: Number of attention heads.
        hidden: Width of the hidden layers of the blocks.
        activation: Their activation.
        epsilon: The number that the normalizations add to the variance.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    activation: Activation
    epsilon: float


@dataclass(frozen=True)
class Architecture:
    """The architecture of a model.

    Args:
        text: The transformer of the text tower.
        length: Number of tokens per text, including start and end.
        vocabulary: Number of different tokens.
        image: The transformer of the image tower.
        size: Height and width of the images in pixels.
        patch: Height and width of a patch.
        dim: Dimension of the embeddings.
        preprocessing: How an image becomes the input of the image tower.
    """

    text: Tower
    length: int
    vocabulary: int
    image: Tower
    size: int
    patch: int
    dim: int
    preprocessing: Preprocessing


@dataclass(frozen=True)
class TextArchitecture:
    """The architecture of a text tower alone.

    Args:
        text: The transformer.
        length: Number of tokens per text, including start and end.
        vocabulary: Number of different tokens.
        dim: Dimension of the embeddings of texts; None: there is no projection to them.
        padding: The token after the end of a text.
    """

    text: Tower
    length: int
    vocabulary: int
    dim: int | None
    padding: str
