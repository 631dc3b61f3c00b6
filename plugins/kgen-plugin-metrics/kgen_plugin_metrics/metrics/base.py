"""The base classes of the metrics that compare features."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np

from kgen import DataError, Dataset, GeneratedImages, Metric, OneOf, Split, part
from kgen_plugin_metrics.features.contract import Features, in_color
from kgen_plugin_metrics.features.efficientnet import EfficientNetLite0
from kgen_plugin_metrics.features.inception import InceptionFeatures
from kgen_plugin_metrics.metrics.rows import Rows
from kgen_plugin_metrics.reference.cached import SPLITS, is_file, reference_features

DEFAULT = EfficientNetLite0()
"""The default of the option `features`."""

Choice = Annotated[Any, OneOf("metrics.features")]
"""The type of the option `features`."""

State = Mapping[str, np.ndarray]


class FeatureMetric(Metric):
    """A metric of the features of images.

    A subclass calls `_use` in its constructor, and implements `_measure`, `state`, `merge` and `_numbers`.

    Attributes:
        precision: The data type of the computations.
    """

    precision: ClassVar[str] = "float64"
    reads_prompts: ClassVar[bool] = False

    def _use(self, features: Any, reference: str = "") -> None:
        """Sets the network and the reference.

        Args:
            features: The option `features`: a name, a mapping with options, or a network.
            reference: A split, or a file; "": the metric needs no reference images.

        Raises:
            ValueError: `reference` is neither a split nor the name of a file.
        """
        self._network: Features = part("metrics.features", features)
        self._reference = reference
        self._source = ""
        self._sizes: dict[Split, int] = {}
        if reference:
            is_file(reference)

    def _measure(self, found: Mapping[str, np.ndarray], images: np.ndarray) -> None:
        """Adds the outputs of the network, by name, for images (B, H, W, 3)."""
        raise NotImplementedError

    def _numbers(self) -> Mapping[str, float]:
        """Computes the numbers of at least `min_images` images."""
        raise NotImplementedError

    def update(self, batch: GeneratedImages) -> None:
        found = _found(self._network, batch)
        self._measure(found, batch.images)
        self.add(images=len(batch.images))

    def compute(self) -> Mapping[str, float]:
        count = int(self.sums.get("images", 0))
        if count < self.min_images:
            raise DataError(
                f"{type(self).__name__} needs at least {self.min_images} images, but there "
                f"{'is' if count == 1 else 'are'} only {count}: generate more"
            )
        self._sizes = {**self._sizes, self.split: count}
        return self._numbers()

    def protocol(self) -> Mapping[str, str | int | float | bool]:
        told: dict[str, str | int | float | bool] = dict(self._network.protocol)
        if self._reference:
            told["reference"] = self._source or self._reference
        if hasattr(self, "sums"):
            told["images"] = int(self.sums.get("images", 0))
        return {**told, "source format": "uint8", "dtype": self.precision}


class RowMetric(FeatureMetric):
    """A metric that needs the features, or the logits, of all images together: see `Rows`."""

    what: ClassVar[str] = "features"

    def start(self, dataset: Dataset, split: Split) -> None:
        super().start(dataset, split)
        self._rows = Rows()

    def _measure(self, found: Mapping[str, np.ndarray], images: np.ndarray) -> None:
        if self.what not in found:
            raise DataError(f"the features '{self._network.name}' have no {self.what}: choose those of a classifier")
        self._rows.add(found[self.what], images)

    def state(self) -> State:
        return {**self.sums, **self._rows.state()}

    def merge(self, state: State) -> None:
        self._rows.merge(state)
        self.add(**without(state, Rows.names))

    def _references(self) -> np.ndarray:
        """The features of the reference images, (M, D)."""
        rows, source = reference_features(self._network, self.dataset, self._reference)
        self._source = f"{len(rows)} {source}"
        return rows


def without(state: State, names: Iterable[str]) -> State:
    """The part of a state that has other names."""
    return {name: array for name, array in state.items() if name not in names}


def inception(weights: str, implementation: str) -> InceptionFeatures:
    """The network of `weights`, for metrics that are named after it."""
    return part("metrics.features", {"kind": "inception", "weights": weights, "implementation": implementation})


def images_of_split(dataset: Dataset, split: str) -> int:
    """The number of images of a split."""
    return next(len(dataset.captions(known)) for known in SPLITS if known == split)


def few_images(name: str, count: int, dim: int, whose: str) -> Sequence[str]:
    """Warns of a covariance of `dim` features from few images. Returns no sentence if there are enough.

    Args:
        name: The name of the distance.
        count: Number of images; 0: unknown.
        dim: Number of features of an image.
        whose: The images, in words.
    """
    if not count or count >= 5 * dim:
        return ()
    rank = f", so that the covariance has no more than rank {count - 1}" if count <= dim else ""
    return (
        f"{name}: {count:,} {whose} are few for {dim:,} features{rank}: the distance is too large; compare it "
        f"only with distances of equally many images, take {5 * dim:,} or more, or use the unbiased kernel-distance",
    )


_last: list[tuple[GeneratedImages, str, Mapping[str, np.ndarray]]] = []
"""The last batch, its network, and the network's outputs, for other metrics with the same network and batch."""


def _found(network: Features, batch: GeneratedImages) -> Mapping[str, np.ndarray]:
    """The outputs of a network for a batch. Metrics with the same network compute them only once."""
    key = json.dumps(dict(network.protocol), sort_keys=True)
    if _last and _last[0][0] is batch and _last[0][1] == key:
        return _last[0][2]
    found = network(in_color(batch.images))
    _last[:] = [(batch, key, found)]
    return found
