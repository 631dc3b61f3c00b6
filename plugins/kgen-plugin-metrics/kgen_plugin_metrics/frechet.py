"""The Fréchet distance of two sets of images, and FID, which is that of the Inception network of 2015."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from kgen import Dataset, OneOf, Split
from kgen_plugin_metrics.base import DEFAULT, FeatureMetric, State, few_images, inception
from kgen_plugin_metrics.inception_features import Implementation
from kgen_plugin_metrics.moments import Moments, MomentStream
from kgen_plugin_metrics.reference import SPLITS, is_file, statistics


def frechet_distance(
    mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other_covariance: np.ndarray
) -> float:
    """Returns the squared Fréchet distance of two Gaussians (Dowson and Landau 1982, equation 4; Heusel et al. 2017).

        d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))

    With C = R R^T, the last trace is the sum of the singular values of R1^T R2. This form needs no root of a matrix
    that is not symmetric, and holds also where covariances have no inverse, such as those of few images: then R has as
    few columns as the rank.

    Args:
        mean, other_mean: (D,), float64.
        covariance, other_covariance: (D, D), float64, symmetric.

    Returns:
        The distance, not negative: a sum that is below 0 by rounding is 0.
    """
    apart = mean - other_mean
    common = np.linalg.svd(_root(covariance).T @ _root(other_covariance), compute_uv=False).sum()
    return max(0.0, float(apart @ apart + np.trace(covariance) + np.trace(other_covariance) - 2.0 * common))


def _root(covariance: np.ndarray) -> np.ndarray:
    """R, (D, rank), with R R^T = covariance."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > max(values[-1], 0.0) * len(values) * np.finfo(np.float64).eps
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))


class _Frechet(FeatureMetric):
    """Streams moments, and computes the distance of two sets of them."""

    better: ClassVar[Literal["higher", "lower"] | None] = "lower"
    headline: ClassVar[str | None] = "distance"
    min_images = 2

    def start(self, dataset: Dataset, split: Split) -> None:
        super().start(dataset, split)
        self._stream: MomentStream | None = None

    def _measure(self, found: Mapping[str, np.ndarray], images: np.ndarray) -> None:
        if self._stream is None:
            self._stream = MomentStream(self._network.dim)
        self._stream.add(np.asarray(found["features"]))

    def state(self) -> State:
        return dict(self.sums) if self._stream is None else {**self.sums, **self._stream.moments().arrays()}

    def merge(self, state: State) -> None:
        names = ("count", "mean", "scatter")
        if "mean" in state:
            moments = Moments.from_arrays(state)
            self._stream = self._stream or MomentStream(len(moments.mean))
            self._stream.merge(moments)
        self.add(**{name: number for name, number in state.items() if name not in names})

    def _numbers(self) -> Mapping[str, float]:
        assert self._stream is not None, "compute comes after update or merge"
        moments = self._stream.moments()
        real = statistics(self._network, self.dataset, self._reference)
        self._source = f"{real.count or 'an unknown number of'} {real.source}"
        distance = frechet_distance(moments.mean, moments.covariance, real.mean, real.covariance)
        return {"distance": distance}

    def caveats(self, dataset: Dataset) -> Sequence[str]:
        name, dim = f"Fréchet distance of {self._network.name}", self._network.dim
        found = [line for split, n in self._sizes.items() for line in few_images(name, n, dim, f"generated {split}")]
        if not is_file(self._reference):
            found += few_images(name, len(_captions(dataset, self._reference)), dim, f"reference {self._reference}")
        elif not statistics(self._network, dataset, self._reference).described:
            found.append(
                f"{name}: {self._reference} does not say which features it holds: make sure that they are those of "
                f"{self._network.name}, with the same resizing"
            )
        return found


class Frechet(_Frechet):
    """The Fréchet distance of any features between the generated images and reference images. Lower is better.

    Args:
        features: The network: a `metrics.features`.
        reference: The split of the reference images, or a file PATH.npz with "mu" and "sigma".
    """

    def __init__(
        self, *, features: Annotated[Any, OneOf("metrics.features")] = DEFAULT, reference: str = "train"
    ) -> None:
        self.features, self.reference = features, reference
        self._use(features, reference)


class FID(_Frechet):
    """The Fréchet Inception distance (Heusel et al. 2017). Lower is better.

    Args:
        weights: The file with the public weights of the Inception network of 2015.
        implementation: The one whose numbers are computed: see the README.
        reference: The split of the reference images, or a file PATH.npz with "mu" and "sigma".
    """

    def __init__(
        self, *, weights: str, implementation: Implementation = "torch-fidelity", reference: str = "train"
    ) -> None:
        self.weights, self.implementation, self.reference = weights, implementation, reference
        self._use(inception(weights, implementation), reference)


def _captions(dataset: Dataset, reference: str) -> Sequence[str]:
    return next(dataset.captions(split) for split in SPLITS if split == reference)
