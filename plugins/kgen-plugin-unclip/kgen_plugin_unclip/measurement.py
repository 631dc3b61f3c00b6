"""Measures what a prior does: its embeddings beside those of the images and of the texts, and what they decode to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kgen import ConfigError, Dataset, GeneratedImages, Metric, Pipeline, Split, Variations
from kgen_plugin_unclip.texts import embed_texts

Source = Literal["image", "prior", "text"]
"""Where an embedding comes from: the right image, the prior, or the text itself."""

SOURCES: tuple[Source, ...] = ("image", "prior", "text")
"""All of them. The text's own embedding is the last."""

SPLITS: tuple[Split, ...] = ("train", "holdout")
"""The splits that are measured. The training has seen the prompts of "train", and not those of "holdout"."""

COSINE, NEARER = "cosine", "nearer than the text's"

Log = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """The embeddings of one source, for the prompts of one split.

    Args:
        split: The split.
        source: The source.
        prompts: Number of prompts, each with one image.
        values: The numbers by name, each with one value for each seed. `COSINE` is the mean cosine similarity with the
            embedding of the right image. `NEARER` is the share of prompts for which this similarity is larger than that
            of the text's own embedding. The others are scores of the decoded images; the decoder reads the text, too,
            or the embedding alone.
    """

    split: Split
    source: Source
    prompts: int
    values: Mapping[str, tuple[float, ...]]


class Measurement:
    """Measures the prior and the decoder of a pipeline (compare Ramesh et al. 2022, section 5.1 and figure 8).

    Args:
        pipeline: A trained pipeline, whose latents are embeddings of images.
        dataset: The dataset of its run.
        metrics: Metrics of images and their prompts, by name. The main number of each is a score.
        options: Options of the generator's `generate`.
        decoder: Options of the decoder's `decode`.

    Raises:
        ConfigError: the latents are not embeddings; the encoder reads more than texts; or there are no metrics.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        dataset: Dataset,
        metrics: Mapping[str, Metric],
        options: Mapping[str, Any],
        decoder: Mapping[str, Any],
    ) -> None:
        self.variations = Variations(pipeline.decoder, pipeline.encoder)
        if pipeline.encoder.fields != ("caption",):
            raise ConfigError("embeddings are measured for prompts that are texts, but this run has other prompts")
        if not metrics:
            raise ConfigError("the run has no metric of its images: 'kgen evaluate RUN --metric retrieval' adds one")
        self.pipeline, self.dataset, self.metrics = pipeline, dataset, metrics
        self.options, self.decoder = options, decoder

    def rows(self, split: Split, most: int) -> list[int]:
        """At most `most` rows of a split, evenly over it."""
        count = len(self.dataset.captions(split))
        return [int(row) for row in np.linspace(0, count - 1, min(count, most))]

    def run(self, seeds: Sequence[int], most: int, log: Log) -> list[Measured]:
        """Measures each split that has images.

        Args:
            seeds: The seeds of the noise of prior and decoder.
            most: Largest number of images per split.
            log: Receives a line for each split and seed.

        Returns:
            For each split, the measurements of the image's, the prior's and the text's embeddings.
        """
        splits = [split for split in SPLITS if self.dataset.captions(split)]
        return [measured for split in splits for measured in self._split(split, self.rows(split, most), seeds, log)]

    def _split(self, split: Split, rows: Sequence[int], seeds: Sequence[int], log: Log) -> list[Measured]:
        captions = [self.dataset.captions(split)[row] for row in rows]
        log(f"{split}: {len(seeds)} seeds of {len(rows)} prompts")
        images = self.variations.embed_images(np.stack([self.dataset.image(split, row) for row in rows]))  # (N, D)
        texts = embed_texts(self.pipeline.encoder, captions)  # (N, D)
        each = [seed for seed in seeds for _ in captions]
        priors = self.pipeline.generate(captions * len(seeds), seed=each, output="latents", **self.options)
        priors = priors.reshape(len(seeds), *images.shape)
        embeddings = np.stack([[images, prior, texts] for prior in priors], axis=1)  # (3, seeds, N, D)
        similar = cosines(embeddings, images)  # (3, seeds, N)
        values = [
            {COSINE: of_seeds.mean(axis=-1), NEARER: (of_seeds > similar[-1]).mean(axis=-1)} for of_seeds in similar
        ]
        for reads, prompts in (("with the text", captions), ("embedding alone", None)):
            decoded = self._decode(embeddings, seeds, prompts)
            for numbers, of_seeds in zip(values, decoded, strict=True):
                scores = [self._scores(split, captions, images) for images in of_seeds]
                numbers |= {f"{name}, {reads}": np.array([one[name] for one in scores]) for name in scores[0]}
        return [
            Measured(split, source, len(rows), {name: tuple(map(float, found)) for name, found in numbers.items()})
            for source, numbers in zip(SOURCES, values, strict=True)
        ]

    def _decode(self, embeddings: np.ndarray, seeds: Sequence[int], prompts: Sequence[str] | None) -> np.ndarray:
        """Decodes each embedding once: (3, S, N, D) -> uint8 (3, S, N, H, W, C).

        The three sources share the noise, so that their images differ only by the embeddings. Each seed and prompt has
        noise of its own.
        """
        sources, _, count, dim = embeddings.shape
        noise = [seed * count + row for seed in seeds for row in range(count)] * sources
        texts = None if prompts is None else list(prompts) * (sources * len(seeds))
        flat = embeddings.reshape(-1, dim)
        images = self.variations.decode(flat, prompt=texts, seed=noise, options=self.decoder)  # (3 S N, 1, H, W, C)
        return images.reshape(*embeddings.shape[:3], *images.shape[2:])

    def _scores(self, split: Split, captions: Sequence[str], images: np.ndarray) -> dict[str, float]:
        """The main number of each metric, by the names of both, for N images (N, H, W, C)."""
        found = {}
        for name, metric in self.metrics.items():
            metric.start(self.dataset, split)
            metric.update(GeneratedImages(images, captions))
            numbers = metric.compute()
            number = metric.headline or next(iter(numbers))
            found[f"{name} {number}"] = float(numbers[number])
        return found


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The cosine similarity of vectors (..., N, D) with the vectors (N, D): (..., N)."""
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return np.asarray((first * second).sum(axis=-1) / np.maximum(lengths, 1e-12))
