"""Variations and blends of images, and differences of texts, by the embeddings that a decoder turns into images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from kgen import ConfigError, Decoder, Encoder, RunError, open_decoder
from kgen.backend.compiled import Compiled
from kgen.options import check_options
from kgen.random import sample, spherical
from kgen_plugin_unclip.decoder import EmbeddingDecoder

BATCH = 32


class Variations:
    """Decodes embeddings of images, and of changed images, with the trained decoder of a run.

    Args:
        decoder: The decoder: an `EmbeddingDecoder`, or a cascade that begins with one.
        encoder: The encoder of the run.

    Raises:
        ConfigError: the latents of the decoder are not embeddings.
    """

    def __init__(self, decoder: Decoder, encoder: Encoder) -> None:
        first = getattr(decoder, "parts", [decoder])[0]
        if not isinstance(first, EmbeddingDecoder):
            raise ConfigError(
                f"the decoder {type(decoder).__name__} does not decode embeddings of images, so that it makes no "
                "variations: give a run whose decoder is 'unclip/decoder', or a cascade that begins with it"
            )
        self.decoder, self.encoder, self.first = decoder, encoder, first

    @classmethod
    def of_run(cls, path: str | Path) -> Variations:
        """Opens a run whose encoder and decoder are trained; its generator need not be.

        Raises:
            RunError: this is not a run, or nothing is trained yet.
            ConfigError: the latents of its decoder are not embeddings.
        """
        decoder, encoder = open_decoder(path)
        try:
            return cls(decoder, encoder)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def embed_images(self, images: np.ndarray) -> np.ndarray:
        """Embeds images: uint8 (N, H, W, C), of the decoder's size -> (N, D) float32, of length sqrt(D)."""
        program = Compiled(lambda batch: {"latent": self.decoder.encode(batch["image"])}, [self.decoder])
        floats = images.astype(np.float32) / 127.5 - 1.0
        return np.asarray(program.run({"image": floats}, len(images), BATCH)["latent"])

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds N texts: (N, D) float32, of unit length."""
        encoder: Any = self.first.encoder
        program = Compiled(lambda batch: {"text": encoder.embed_texts(batch["tokens"])}, [encoder])
        return np.asarray(program.run({"tokens": encoder.tokenize(list(texts))}, len(texts), BATCH)["text"])

    def decode(
        self,
        embeddings: np.ndarray,
        *,
        n: int = 1,
        prompt: str | Sequence[str] | None = None,
        seed: int | Sequence[int] = 0,
        options: Mapping[str, Any] | None = None,
    ) -> np.ndarray:
        """Decodes each embedding with `n` noises, which all embeddings of one seed share.

        Args:
            embeddings: (N, D), of any length.
            n: Images per embedding.
            prompt: The text that the decoder reads, too, or one for each embedding; None: the embedding alone decides.
            seed: The seed of the noise, or one for each embedding.
            options: Options of the decoder's `decode`.

        Returns:
            uint8 (N, n, H, W, C).

        Raises:
            ConfigError: an option is wrong, or the encoder reads more than texts.
            RunError: the images are not finite.
        """
        decoder, encoder, count = self.decoder, self.encoder, len(embeddings) * n
        if prompt is not None and encoder.fields != ("caption",):
            raise ConfigError(f"a prompt needs an encoder of texts, but this one reads {', '.join(encoder.fields)}")
        texts = [encoder.null if prompt is None else prompt] * len(embeddings)
        texts = texts if prompt is None or isinstance(prompt, str) else list(prompt)
        seeds = [seed] * len(embeddings) if isinstance(seed, int) else list(seed)
        checked = check_options(type(decoder).decode, self._options(options or {}, prompt), "decode")
        batch: dict[str, Any] = {
            "latent": np.repeat(embeddings.astype(np.float32), n, axis=0),
            "tokens": encoder.tokenize([text for text in texts for _ in range(n)]),
            "noise": sample(decoder.noise_spec(**checked), [(one, copy) for one in seeds for copy in range(n)]),
        }

        def image(rows: dict[str, Any]) -> dict[str, Any]:
            images = decoder.decode(rows["latent"], encoder(rows["tokens"]), rows["noise"], **checked)
            return {"image": ops.cast(images, "float32")}

        images = Compiled(image, [decoder, encoder], loops=True).run(batch, count, BATCH)["image"]
        if not np.isfinite(images).all():
            raise RunError("the images are not finite: the decoder's training has diverged")
        pixels = np.rint((np.clip(images, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)
        return pixels.reshape(len(embeddings), n, *pixels.shape[1:])

    def _options(self, given: Mapping[str, Any], prompt: str | Sequence[str] | None) -> dict[str, Any]:
        """The options of `decode`, which without a prompt say that the first decoder reads no text."""
        if prompt is not None:
            return dict(given)
        if self.decoder is self.first:
            return {"text": False, **given}
        first, *others = given.get("parts") or [{}]
        return {**given, "parts": [{"text": False, **first}, *others]}


def blend(first: np.ndarray, second: np.ndarray, at: Sequence[float]) -> np.ndarray:
    """Interpolates spherically between the embeddings of two images (Ramesh et al. 2022, section 3.2).

    Args:
        first, second: (D,).
        at: N positions from 0, the first, to 1, the second.

    Returns:
        (N, D).
    """
    return spherical(first[None], second[None], np.asarray(at))


def shift(image: np.ndarray, before: np.ndarray, after: np.ndarray, at: Sequence[float]) -> np.ndarray:
    """Turns the embedding of an image towards a difference of texts (Ramesh et al. 2022, section 3.3).

    Args:
        image: (D,), the embedding of an image.
        before: (D,), of unit length: the embedding of a text that describes the image, or of the empty text.
        after: (D,), of unit length: the embedding of the text that the image shall have.
        at: N angles as shares of the angle between the image and the difference. The paper uses 0.25 to 0.5.

    Returns:
        (N, D), of the length of `image`.

    Raises:
        ConfigError: both texts have the same embedding.
    """
    difference, length = after - before, np.linalg.norm(image)
    size = np.linalg.norm(difference)
    if size < 1e-6:
        raise ConfigError("both texts have the same embedding, so that there is no difference to follow")
    return blend(image, difference * (length / size), at)
