"""Variations of images, by a decoder whose latents are embeddings of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kgen.backend.compiled import Compiled
from kgen.contracts.decoder import Decoder
from kgen.contracts.encoder import Encoder
from kgen.data.batches import check_images
from kgen.errors import ConfigError
from kgen.pipeline.prompts import check_memory, check_number, check_prompts, check_seeds, warn_of_unread
from kgen.pipeline.sampler import noise_spec, validate_options
from kgen.pipeline.stage_models import Reconstructor
from kgen.pixels import floats
from kgen.plugins.discovery import component_id

BATCH = 32


class Variations:
    """Decodes embeddings of images, of which each has many images.

    `kgen.open_decoder` opens the trained decoder and the encoder of a run. A pipeline has them, too.

    Args:
        decoder: A trained decoder with `latent_is_embedding`.
        encoder: The encoder of the same run.

    Raises:
        ConfigError: the latents of the decoder are not embeddings.
    """

    def __init__(self, decoder: Decoder, encoder: Encoder) -> None:
        if not decoder.latent_is_embedding:
            raise ConfigError(
                f"variations and blends of images need a decoder of their embeddings, but the latents of decoder "
                f"'{component_id(decoder)}' are not embeddings: give a run with another decoder, which "
                "'kgen plugins list' names"
            )
        self.decoder = decoder
        self.encoder = encoder

    def embed_images(self, images: np.ndarray) -> np.ndarray:
        """Embeds images of the size of the decoder's: uint8 (N, H, W, C) -> (N, D) float32.

        Raises:
            DataError: the images have another size or type.
        """
        images = check_images(images, self.decoder.image_space)
        program = Compiled(lambda batch: {"latent": self.decoder.encode(floats(batch["image"]))}, [self.decoder])
        return np.asarray(program.run({"image": images}, len(images), BATCH)["latent"])

    def decode(
        self,
        embeddings: np.ndarray,
        *,
        n: int = 1,
        prompt: Any = None,
        seed: int | Sequence[int] = 0,
        options: Mapping[str, Any] | None = None,
    ) -> np.ndarray:
        """Decodes each embedding with `n` noises, which all embeddings of one seed share.

        Between two embeddings, `kgen.random.spherical` interpolates.

        Args:
            embeddings: (N, D), of any length.
            n: Images per embedding.
            prompt: The prompt that the decoder reads, too, or a list of one for each embedding; None: the embedding
                alone decides.
            seed: The seed of the noise, or one for each embedding.
            options: Options of the decoder's `decode`.

        Returns:
            uint8 (N, n, H, W, C).

        Raises:
            ConfigError: an option or a prompt is wrong, the number of prompts or seeds is wrong, or the images do not
                fit into memory.
            RunError: the images are not finite.

        Warns:
            UnreadTextWarning: the encoder does not read the prompt completely.
        """
        count = check_number("n", n) * len(embeddings)
        seeds = check_seeds(seed, len(embeddings))
        checked = validate_options(self.decoder, "decode", options or {})
        read = [self.encoder.null]
        if prompt is None:
            checked = self.decoder.without_text(checked)
        else:
            read = check_prompts(self.encoder, prompt)
            warn_of_unread(self.encoder, read)
        if len(read) not in (1, len(embeddings)):
            raise ConfigError(f"{len(read)} prompts for {len(embeddings)} embeddings: give one, or one for each")
        read = read * len(embeddings) if len(read) == 1 else read
        check_memory(count, self.decoder.image_space, noise_spec(self.decoder, checked).values())
        images = Reconstructor(self.decoder, self.encoder, checked, loops=True).decode(
            np.repeat(np.asarray(embeddings, np.float32), n, axis=0),
            [prompt for prompt in read for _ in range(n)],
            keys=[(one, copy) for one in seeds for copy in range(n)],
            batch_size=BATCH,
        )
        return images.reshape(len(embeddings), n, *images.shape[1:])
