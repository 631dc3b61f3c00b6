"""PSNR and SSIM, which compare each image with another one, such as a reconstruction with its original."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from kgen import DataError, GeneratedImages, Metric
from kgen_plugin_metrics.formulas.pairs import psnr, ssim

MAX_DECIBELS = 100.0
"""The decibels of an image that equals its reference. The formula gives infinity, which would spoil the mean."""


class _Pairs(Metric):
    """A mean over pairs of images."""

    pairs: ClassVar[bool] = True
    better: ClassVar[Literal["higher", "lower"] | None] = "higher"

    def update(self, batch: GeneratedImages) -> None:
        if batch.references is None:
            raise DataError(
                f"{type(self).__name__} compares each image with one other, and a prompt has none: use it to compare "
                "two folders whose files have the same names"
            )
        self._measure(batch.images, batch.references)
        self.add(pairs=len(batch.images))

    def _mean(self, name: str) -> float:
        return float(self.sums[name] / self.sums["pairs"])

    def protocol(self) -> Mapping[str, str | int | float | bool]:
        told = {"images": int(self.sums.get("pairs", 0))} if hasattr(self, "sums") else {}
        return {**told, "peak": 255, "source format": "uint8", "dtype": "float64"}

    @abstractmethod
    def _measure(self, images: np.ndarray, references: np.ndarray) -> None:
        """Adds the numbers of pairs of images (B, H, W, C)."""


class PSNR(_Pairs):
    """The mean peak signal-to-noise ratio of pairs of images, in decibels. Higher is better.

    It is the mean of the images' decibels, as the literature reports, and not the decibels of the mean error. The PSNR
    of an image that equals its reference is infinite, so each image counts with at most `MAX_DECIBELS`. "equal" is the
    share of such images.
    """

    headline: ClassVar[str | None] = "decibels"

    def _measure(self, images: np.ndarray, references: np.ndarray) -> None:
        found = psnr(images, references)  # (B,)
        self.add(decibels=np.minimum(found, MAX_DECIBELS).sum(), equal=np.isinf(found).sum())

    def compute(self) -> Mapping[str, float]:
        return {"decibels": self._mean("decibels"), "equal": self._mean("equal")}


class SSIM(_Pairs):
    """The mean structural similarity of pairs of images (Wang et al. 2004), at most 1. Higher is better."""

    headline: ClassVar[str | None] = "mean"

    def _measure(self, images: np.ndarray, references: np.ndarray) -> None:
        self.add(similarity=ssim(images, references).sum())

    def compute(self) -> Mapping[str, float]:
        return {"mean": self._mean("similarity")}
