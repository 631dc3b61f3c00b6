"""Changes of an image by a difference of texts, in the space of their embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kgen import ConfigError, Encoder, image_embedder
from kgen.backend.compiled import Compiled
from kgen.random import spherical


def embed_texts(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    """Embeds N texts: (N, D) float32, of unit length.

    Args:
        encoder: A trained encoder that embeds images as well as texts, alone or joined with others.
        texts: N texts.

    Raises:
        ConfigError: the encoder embeds no images.
    """
    layer, embedder = image_embedder(encoder, "a difference of texts")
    program = Compiled(lambda batch: {"text": embedder.embed_texts(batch["tokens"])}, [layer])
    return np.asarray(program.run({"tokens": layer.tokenize(list(texts))}, len(texts), len(texts))["text"])


def shift(image: np.ndarray, before: np.ndarray, after: np.ndarray, at: Sequence[float]) -> np.ndarray:
    """Turns the embedding of an image towards a difference of texts (Ramesh et al. 2022, section 3.3).

    Args:
        image: (D,), the embedding of an image.
        before: (D,), of unit length: the embedding of a text that describes the image, or of the empty text.
        after: (D,), of unit length: the embedding of a text that describes the changed image.
        at: N angles as shares of the angle between the image and the difference. The paper uses 0.25 to 0.5.

    Returns:
        (N, D), of the length of `image`.

    Raises:
        ConfigError: both texts have the same embedding.
    """
    target = difference(before, after) * np.linalg.norm(image)
    return spherical(image[None], target[None], np.asarray(at))


def difference(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The direction from the embedding of one text to that of another: (D,) and (D,) -> (D,), of unit length.

    Raises:
        ConfigError: both texts have the same embedding.
    """
    found = after - before
    size = np.linalg.norm(found)
    if size < 1e-6:
        raise ConfigError("both texts have the same embedding, so that there is no difference to follow: change one")
    return np.asarray(found / size)
