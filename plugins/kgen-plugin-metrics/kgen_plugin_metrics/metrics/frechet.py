"""The Fréchet distance of two sets of images, and FID, which is this distance for the Inception network of 2015."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from kgen import Dataset, Split
from kgen_plugin_metrics.features.inception import Implementation
from kgen_plugin_metrics.formulas.extrapolation import POINTS, distance_of_infinitely_many
from kgen_plugin_metrics.formulas.frechet import frechet_distance
from kgen_plugin_metrics.formulas.moments import Moments, MomentStream
from kgen_plugin_metrics.metrics.base import (
    DEFAULT,
    Choice,
    FeatureMetric,
    State,
    few_images,
    images_of_split,
    inception,
    without,
)
from kgen_plugin_metrics.metrics.rows import Rows
from kgen_plugin_metrics.reference.cached import is_file, statistics


class _Frechet(FeatureMetric):
    """Streams moments, and computes the distance between two sets of images. Extrapolation needs all features, too."""

    better: ClassVar[Literal["higher", "lower"] | None] = "lower"
    headline: ClassVar[str | None] = "distance"
    min_images = 2
    min_references = 2

    def _compare(self, features: Any, reference: str, extrapolate: bool) -> None:
        """Sets the options."""
        self.reference, self.extrapolate = reference, extrapolate
        self.optional_numbers = ("extrapolated", "extrapolation_error") if extrapolate else ()
        self._use(features, reference)

    def start(self, dataset: Dataset, split: Split) -> None:
        super().start(dataset, split)
        self._stream: MomentStream | None = None
        self._rows = Rows()

    def _measure(self, found: Mapping[str, np.ndarray], images: np.ndarray) -> None:
        if self._stream is None:
            self._stream = MomentStream(self._network.dim)
        self._stream.add(np.asarray(found["features"]))
        if self.extrapolate:
            self._rows.add(found["features"], images)

    def state(self) -> State:
        moments = {} if self._stream is None else self._stream.moments().arrays()
        return {**self.sums, **moments, **self._rows.state()}

    def merge(self, state: State) -> None:
        if "mean" in state:
            moments = Moments.from_arrays(state)
            self._stream = self._stream or MomentStream(len(moments.mean))
            self._stream.merge(moments)
        self._rows.merge(state)
        self.add(**without(state, (*Moments.names, *Rows.names)))

    def _numbers(self) -> Mapping[str, float]:
        assert self._stream is not None, "compute comes after update or merge"
        moments = self._stream.moments()
        real = statistics(self._network, self.dataset, self._reference)
        self._source = f"{real.count or 'an unknown number of'} {real.source}"
        distance = frechet_distance(moments.mean, moments.covariance, real.mean, real.covariance)
        if not self.extrapolate or moments.count < self._enough():
            return {"distance": distance}
        smallest = max(moments.count // 10, 2 * self._network.dim)
        line = distance_of_infinitely_many(self._rows.all(), real.mean, real.covariance, smallest=smallest)
        return {"distance": distance, "extrapolated": line.distance, "extrapolation_error": line.error}

    def _enough(self) -> int:
        """The least number of images to extrapolate from. Below N = D, the bias is not proportional to 1/N."""
        return 4 * self._network.dim

    def protocol(self) -> Mapping[str, str | int | float | bool]:
        return {**super().protocol(), **({"extrapolation points": POINTS} if self.extrapolate else {})}

    def caveats(self, dataset: Dataset) -> Sequence[str]:
        name, dim = f"Fréchet distance of {self._network.name}", self._network.dim
        found = list(self._not_extrapolated(name))
        for split, count in self._sizes.items():
            found += few_images(name, count, dim, f"scored images ({split})")
        if not is_file(self._reference):
            count = images_of_split(dataset, self._reference)
            return [*found, *few_images(name, count, dim, f"reference images ({self._reference})")]
        if not statistics(self._network, dataset, self._reference).described:
            found.append(
                f"{name}: {self._reference} does not say which features it holds: make sure that they are those of "
                f"{self._network.name}, with the same resizing"
            )
        return found

    def _not_extrapolated(self, name: str) -> Iterator[str]:
        for split, count in self._sizes.items():
            if self.extrapolate and count < self._enough():
                yield (
                    f"{name}: it is not extrapolated from {count:,} scored images ({split}): at least "
                    f"{self._enough():,} are needed, four per feature"
                )


class Frechet(_Frechet):
    """The Fréchet distance between the features of generated and of reference images. Lower is better.

    The features may be those of any network. The README has the formula and its sources.

    Args:
        features: The network: a `metrics.features`.
        reference: The split of the reference images, or a file PATH.npz with "mu" and "sigma".
        extrapolate: Whether to extrapolate to infinitely many images, too. This needs the features of all images in
            memory, four images per feature, and minutes.
    """

    def __init__(self, *, features: Choice = DEFAULT, reference: str = "train", extrapolate: bool = False) -> None:
        self.features = features
        self._compare(features, reference, extrapolate)


class FID(_Frechet):
    """The Fréchet Inception distance (Heusel et al. 2017). Lower is better.

    Args:
        weights: The file with the public weights of the Inception network of 2015.
        implementation: The one whose numbers are computed: see the README.
        reference: The split of the reference images, or a file PATH.npz with "mu" and "sigma".
        extrapolate: Whether to extrapolate to infinitely many images, too. This needs the features of all images in
            memory, four images per feature, and minutes.
    """

    def __init__(
        self,
        *,
        weights: str,
        implementation: Implementation = "torch-fidelity",
        reference: str = "train",
        extrapolate: bool = False,
    ) -> None:
        self.weights, self.implementation = weights, implementation
        self._compare(inception(weights, implementation), reference, extrapolate)
