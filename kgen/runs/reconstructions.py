"""Reconstructions by a decoder, as sheets of images and as scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kgen.contracts.dataset import Dataset, Split
from kgen.contracts.decoder import Decoder
from kgen.contracts.encoder import Encoder
from kgen.contracts.inputs import EncoderInputs
from kgen.experiments.directory import RunDirectory
from kgen.experiments.inputs import BATCH, eval_split
from kgen.pipeline.stage_models import Reconstructor, uses_encoder
from kgen.pixels import to_uint8
from kgen.reporting.sheets import matrix, save_png
from kgen.training.outputs import Sheets

SHOWN = 8
"""Number of images on a sheet of reconstructions."""

MAX_SCORED = 512
"""Largest number of images on which a trained decoder is scored."""


class Reconstructions:
    """Reconstructions of a dataset's images by a decoder. If possible, the images are not from its training.

    Args:
        name: The name of the run.
        dataset: The dataset.
        encoder: The encoder of the captions, for a decoder that reads them.
    """

    def __init__(self, name: str, dataset: Dataset, encoder: Encoder) -> None:
        self.name = name
        self.dataset = dataset
        self.encoder = encoder
        self.split: Split = eval_split(dataset) or "train"

    def scores(self, decoder: Decoder) -> dict[str, Any]:
        """The scores of the decoder, and the PSNR of its reconstructions."""
        reconstructor = Reconstructor(decoder, self.encoder)
        batches, errors, differences = [], [], []
        for rows in self._rows(MAX_SCORED):
            images, prompts, _ = self._images(decoder, rows)
            latents, made = reconstructor.reconstruct(images, prompts)
            errors.append((len(images), psnr(images, made)))
            if decoder.latent_is_image:
                again = reconstructor.reconstruct(made, prompts)[0]
                differences.append((len(images), float(np.abs(again - latents).mean())))
            batches += [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        found = {"images": f"{sum(map(len, batches))} ({self.split})", "PSNR": _mean(errors)}
        if differences:
            found["encoded again, mean absolute error"] = _mean(differences)
        return found | {name: float(value) for name, value in decoder.scores(batches).items()}

    def save_sheet(self, reconstructor: Reconstructor, path: Path) -> Any:
        """Writes a sheet of some images and their reconstructions. Returns the sheet."""
        rows = max(self._rows(MAX_SCORED), key=len)  # of the shape of most images
        shown = _spaced(rows, SHOWN)
        sheet = reconstructions(reconstructor, *self._images(reconstructor.decoder, shown))[0]
        save_png(path, sheet, {"model": self.name})
        return sheet

    def sheets(self, decoder: Decoder, directory: RunDirectory) -> Sheets:
        """Such sheets during the decoder's training."""
        reconstructor = Reconstructor(decoder, self.encoder)
        return Sheets(directory.samples, "reconstructions", lambda path: self.save_sheet(reconstructor, path))

    def _rows(self, count: int) -> list[list[int]]:
        """The rows of up to `count` images, evenly spaced, by the shape of the images."""
        rows = _spaced(range(len(self.dataset.captions(self.split))), count)
        groups = self.dataset.rows_by_shape(self.split).values()
        found = [np.intersect1d(rows, group).tolist() for group in groups] or [rows]
        return [own for own in found if own]

    def _images(self, decoder: Decoder, rows: Sequence[int]) -> tuple[np.ndarray, list[Any], list[str]]:
        """Images of one shape; the encoder's inputs, if the decoder reads them; and the captions."""
        captions = self.dataset.captions(self.split)
        inputs = EncoderInputs(self.dataset, self.split, self.encoder.fields if uses_encoder(decoder) else ("caption",))
        images = np.stack([self.dataset.image(self.split, row) for row in rows])
        return images, [inputs[row] for row in rows], [captions[row] for row in rows]


def reconstructions(
    reconstructor: Reconstructor, images: np.ndarray, prompts: Sequence[Any], captions: Sequence[str], seed: int = 0
) -> tuple[Any, np.ndarray]:
    """Encodes and decodes images.

    Args:
        reconstructor: The encoder and decoder of images.
        images: uint8 (N, H, W, C).
        prompts: N inputs of the encoder, for a decoder that uses it.
        captions: N texts, which the sheet shows.
        seed: The seed of the decoder's noise.

    Returns:
        A sheet of the images, their latents if these are images, and the reconstructions; and the reconstructions,
        uint8 (N, H, W, C).
    """
    latents, made = reconstructor.reconstruct(images, prompts, seed=seed)
    rows, names = [images, made], ["image", "decoded"]
    if reconstructor.decoder.latent_is_image:
        rows.insert(1, _enlarged(latents, images.shape[1:3]))
        names.insert(1, "latent")
    return matrix(rows, names, captions), made


def psnr(images: np.ndarray, others: np.ndarray) -> float:
    """The peak signal-to-noise ratio in dB, averaged over images, uint8 (N, H, W, C)."""
    error = np.square(images.astype(np.float64) - others).mean(axis=(1, 2, 3))
    return float(np.mean(10.0 * np.log10(255.0**2 / np.maximum(error, 1e-10))))


def _spaced(rows: Sequence[int], count: int) -> list[int]:
    """Up to `count` rows, evenly spaced."""
    return [rows[int(i)] for i in np.linspace(0, len(rows) - 1, min(count, len(rows)))]


def _mean(values: Sequence[tuple[int, float]]) -> float:
    """The mean of values with the number of images that each is a mean of."""
    counts, means = zip(*values, strict=True)
    return float(np.average(means, weights=counts))


def _enlarged(latents: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Converts latents (N, h, w, C) in [-1, 1] to uint8 images of `size`, with a square of pixels per number."""
    factor = size[0] // latents.shape[1]
    return to_uint8(latents.repeat(factor, axis=1).repeat(factor, axis=2))
