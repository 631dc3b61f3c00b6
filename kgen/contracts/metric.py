"""The contract of a metric of generated images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from kgen.contracts.dataset import Dataset, Split
from kgen.errors import PluginError
from kgen.options import Arguments, Configurable

if TYPE_CHECKING:  # importing an encoder imports Keras
    from kgen.contracts.encoder import Encoder

State = Mapping[str, np.ndarray]
"""The measurements of a metric so far, by name: arrays that can be sent to another process."""


Plain = str | int | float | bool
"""A value that a file can hold."""


@dataclass(frozen=True)
class GeneratedImages:
    """A batch of generated images, each with its prompt.

    Args:
        images: uint8 (B, height, width, channels), which are read-only.
        prompts: B texts.
        references: For each image, the one to compare it with: of the same type and shape, and read-only, too. Only
            metrics of pairs get them (see `Metric.pairs`).
    """

    images: np.ndarray
    prompts: Sequence[str]
    references: np.ndarray | None = None

    def __post_init__(self) -> None:
        if len(self.images) != len(self.prompts):
            raise ValueError(f"{len(self.images)} images, but {len(self.prompts)} prompts")
        object.__setattr__(self, "images", _read_only(self.images))
        if self.references is not None:
            told = [f"{images.dtype} {images.shape}" for images in (self.images, self.references)]
            if told[0] != told[1]:
                raise ValueError(f"images are {told[0]}, but references are {told[1]}")
            object.__setattr__(self, "references", _read_only(self.references))


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


class Metric(Configurable, ABC):
    """Scores images against the prompts that they were generated from, and against the dataset.

    Images come in batches, so that they are never in memory together: kgen calls `start`, then `update` for each batch,
    then `compute`. Several workers can share the images: each has its own metric, and one of them `merge`s the `state`
    of the others. The numbers depend neither on the sizes of the batches, nor on their order, nor on the workers.

    A metric whose numbers follow from sums over images only needs `add`::

        class Brightness(Metric):
            def update(self, batch):
                self.add(levels=batch.images.sum(dtype=np.float64), count=batch.images.size)

            def compute(self):
                return {"mean": float(self.sums["levels"] / self.sums["count"]) / 255}

    The report of a run, `kgen compare` and `kgen sweep` show the first paragraph of the class's docstring, which says
    what the numbers are. A metric that stores something else overrides `start`, `state` and `merge`.

    Attributes:
        requires: The dataset class that the metric needs; None: any dataset.
        pairs: Whether the metric compares each image with one other, such as its original, which `batch.references`
            holds. Such a metric compares two folders of images. It does not fit the evaluation of a run, whose images
            have prompts, but no references.
        reads_prompts: Whether the metric needs prompts, or fields of the dataset besides its images. A metric that does
            not, and that has no `requires`, can also compare two folders of images.
        any_shape: Whether the metric also supports datasets whose images differ in shape (`Dataset.rows_by_shape`).
        headline: The name of the main number, for places that show only one; None: the first that is returned.
        better: Whether higher or lower numbers are better, if that holds for all of them; None: it is not known.
        min_images: The least number of images for which `compute` has numbers. A metric may set it from its options.
        min_references: The least number of reference images for which `compute` has numbers, for metrics that compare
            the images with those of a split or a folder. A metric may set it from its options.
        optional_numbers: The names of numbers that `compute` returns only for enough images, such as an extrapolation.
            A metric may set it from its options.
        dataset, split: The arguments of `start`.
        sums: The sums of `add`, float64 arrays by name.

    Raises:
        PluginError: in the definition of a subclass that has `__call__`, as metrics had before they took batches.
    """

    arguments: ClassVar[Mapping[str, Arguments]] = {
        "__init__": Arguments(
            reserved=frozenset(
                {
                    *("name", "dataset", "split", "sums", "protocol"),
                    *("min_images", "min_references", "optional_numbers"),
                }
            )
        )
    }

    requires: ClassVar[type[Any] | None] = None
    pairs: ClassVar[bool] = False
    reads_prompts: ClassVar[bool] = True
    any_shape: ClassVar[bool] = False
    headline: ClassVar[str | None] = None
    better: ClassVar[Literal["higher", "lower"] | None] = None

    min_images: int = 1
    min_references: int = 0
    optional_numbers: tuple[str, ...] = ()

    dataset: Dataset
    split: Split
    sums: dict[str, np.ndarray]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "__call__" in vars(cls):
            raise PluginError(
                f"{cls.__module__}:{cls.__qualname__}: a metric is no longer called with all images at once: in place "
                "of __call__(images, prompts, split, dataset) write update(batch), which is called with "
                "batch.images and batch.prompts and finds self.split and self.dataset, and compute(), which returns "
                "the numbers; see kgen.Metric"
            )
        super().__init_subclass__(**kwargs)

    def caveats(self, dataset: Dataset) -> Sequence[str]:
        """Sentences that a reader of the scores must know, without a full stop. Default: none.

        kgen calls it before a training, to warn of the dataset, and again after `compute`, which may add what the
        number of images means for the scores.
        """
        return ()

    def bias_towards(self, encoder: Encoder) -> str:
        """Why the numbers favor a pipeline with this encoder, without a full stop; "" if they do not. Default: "".

        A metric that judges by a model favors a generator whose encoder is the same model. kgen warns of it
        (`BiasedMetricWarning`), and notes it beside the scores.

        Args:
            encoder: The trained encoder of the pipeline.
        """
        return ""

    def protocol(self) -> Mapping[str, Plain]:
        """Everything besides the images that determines the numbers: two numbers are comparable only if this is equal.

        Examples are a hash of the weights of the network that computes features, how images are resized and scaled for
        it, the number of reference images and where they are from, and the precision. Call it after `compute`. Default:
        nothing, which fits a metric that depends on its options and the dataset alone; kgen then records the options.

        Returns:
            Plain values by name.
        """
        return {}

    def start(self, dataset: Dataset, split: Split) -> None:
        """Starts a measurement, and discards the previous one.

        Args:
            dataset: The dataset that the pipeline was trained on.
            split: The split of the prompts: "train" (seen in training) or "holdout".
        """
        self.dataset = dataset
        self.split = split
        self.sums = {}

    @abstractmethod
    def update(self, batch: GeneratedImages) -> None:
        """Measures a batch of images."""

    @abstractmethod
    def compute(self) -> Mapping[str, float]:
        """Returns the numbers by name, for all images of `update` and of `merge`, of which there is at least one.

        Raises:
            DataError: there are too few images for this metric.
        """

    def add(self, **numbers: Any) -> None:
        """Adds numbers, or arrays that always have the same shape, to `sums`, in float64."""
        for name, number in numbers.items():
            self.sums[name] = np.asarray(self.sums.get(name, 0.0) + np.asarray(number, np.float64))

    def state(self) -> State:
        """The measurements so far, for `merge` of another metric with the same options. Default: `sums`."""
        return dict(self.sums)

    def merge(self, state: State) -> None:
        """Adds the measurements of another metric on other images. Default: adds the sums."""
        self.add(**state)


def measure(metric: Metric, dataset: Dataset, split: Split, batches: Iterable[GeneratedImages]) -> Mapping[str, float]:
    """Computes the numbers of a metric for all images of the batches, of which there must be at least one."""
    metric.start(dataset, split)
    for batch in batches:
        metric.update(batch)
    return metric.compute()
