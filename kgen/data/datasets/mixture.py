"""Several datasets as one."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import pydantic
from pydantic import Field

from kgen.contracts.dataset import SPLITS, Column, Dataset, Decoding, Problem, Split
from kgen.errors import DataError
from kgen.options import Choice, check_options
from kgen.plugins.discovery import registry
from kgen.spaces import Space

MIN_SHARE = 1e-6
"""Smallest share of a dataset. `kgen.data.order`, which worker processes do not import, would round a smaller one."""


class Weight(pydantic.BaseModel):
    """The key of a mixed dataset that is not one of its own options."""

    model_config = pydantic.ConfigDict(extra="forbid")

    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Share of the training examples that come from this dataset, relative to the weights of the others."""


class Mixture(Dataset):
    """Several datasets as one. Their images must have the same size. Buckets of the same shape are joined.

    Weights set the share of the training examples that comes from each dataset: training then repeats a small dataset
    more often than a large one. At any step, the numbers of examples from the datasets differ from these shares by a
    few examples at most. Without weights, training uses every example once per pass. The splits for validation and
    holdout contain all examples of the datasets.

    The examples have the fields that all of the datasets have.

    Args:
        datasets: The name and options of each dataset. Either all or none have the key `weight`.

    Raises:
        DataError: the images have different sizes; only some have a weight; a dataset has no training images.
    """

    def __init__(
        self,
        *,
        datasets: Annotated[tuple[Annotated[dict[str, Any], Choice("dataset", Weight)], ...], Field(min_length=2)],
    ) -> None:
        self.datasets = datasets
        self._weights = [float(choice["weight"]) for choice in datasets if choice.get("weight") is not None]
        self._parts = [_open(choice) for choice in datasets]
        self._labels = [f"{n}: {choice['name'].split('/')[-1]}" for n, choice in enumerate(datasets)]
        if self._weights and len(self._weights) < len(datasets):
            raise DataError("mixture: some datasets have a weight, and others have none: give all of them one, or none")
        for label, weight in zip(self._labels, self._weights, strict=False):
            if weight / sum(self._weights) < MIN_SHARE:
                raise DataError(
                    f"mixture: {label} has the weight {weight:g}, less than a millionth of the sum of all weights, "
                    f"{sum(self._weights):g}, so that training would never use it: make it larger, or leave it out"
                )
        for label, part in zip(self._labels, self._parts, strict=True):
            if part.image_space != self.image_space:
                raise DataError(
                    f"mixture: the images of {label} are {part.image_space}, and those of {self._labels[0]} are "
                    f"{self.image_space}: give both the same size and channels"
                )
            if not part.captions("train"):
                raise DataError(f"mixture: {label} has no images to train on")
        shared = set.intersection(*(set(part.fields) for part in self._parts))
        self.fields = tuple(field for field in self._parts[0].fields if field in shared)
        self.views = math.lcm(*(part.views for part in self._parts))  # each remainder is as likely as another
        self.decodes_elsewhere = all(part.decodes_elsewhere for part in self._parts)
        self.draw_captions = any(part.draw_captions for part in self._parts)
        self.shuffle_tags = any(part.shuffle_tags for part in self._parts)
        self.credit = " ".join(dict.fromkeys(part.credit for part in self._parts if part.credit))
        self._captions = {
            split: list(itertools.chain.from_iterable(part.captions(split) for part in self._parts)) for split in SPLITS
        }
        self._starts = {split: self._first_rows(split) for split in SPLITS}

    @property
    def image_space(self) -> Space:
        return self._parts[0].image_space

    def captions(self, split: Split) -> Sequence[str]:
        return self._captions[split]

    def shares(self, split: Split) -> Sequence[tuple[int, float]]:
        counts = [len(part.captions(split)) for part in self._parts]
        return [(count, weight / sum(self._weights)) for count, weight in zip(counts, self._weights, strict=False)]

    def rows_by_shape(self, split: Split) -> Mapping[tuple[int, int], np.ndarray]:
        found: dict[tuple[int, int], list[np.ndarray]] = {}
        parts = [part.rows_by_shape(split) for part in self._parts]
        for rows, part, first in zip(parts, self._parts, self._starts[split], strict=True):
            height, width, _ = self.image_space.shape
            whole = {(height, width): np.arange(len(part.captions(split)))} if any(parts) else {}
            for shape, own in (rows or whole).items():
                found.setdefault(shape, []).append(np.asarray(own) + first)
        return {shape: np.concatenate(found[shape]) for shape in sorted(found, reverse=True)}

    def image(self, split: Split, index: int) -> np.ndarray:
        number, row = self._find(split, index)
        return self._parts[number].image(split, row)

    def view(self, split: Split, index: int, number: int) -> np.ndarray:
        part, row = self._find(split, index)
        return self._parts[part].view(split, row, number % self._parts[part].views)

    def texts(self, split: Split, index: int) -> Sequence[str]:
        part, row = self._find(split, index)
        return self._parts[part].texts(split, row)

    def drawn_caption(self, split: Split, index: int, number: int) -> str:
        part, row = self._find(split, index)
        return self._parts[part].drawn_caption(split, row, number)

    def decoding(self, split: Split, index: int, view: int | None) -> Decoding:
        number, row = self._find(split, index)
        part = self._parts[number]
        return part.decoding(split, row, None if view is None else view % part.views)

    def replacement(self, split: Split, index: int) -> int:
        number, row = self._find(split, index)
        return self._starts[split][number] + self._parts[number].replacement(split, row)

    def values(self, split: Split, field: str) -> Sequence[Any]:
        if field in ("image", "caption") or field not in self.fields:
            return super().values(split, field)
        columns = [part.values(split, field) for part in self._parts]

        def read(index: int) -> Any:
            number, row = self._find(split, index)
            return columns[number][row]

        return Column(len(self.captions(split)), read)

    def report(self, problem: Problem) -> None:
        for label, part in zip(self._labels, self._parts, strict=True):
            if problem.where.startswith(f"{label} "):
                part.report(Problem(problem.where.removeprefix(f"{label} "), problem.what))

    def problems(self) -> Sequence[Problem]:
        return [
            Problem(f"{label} {problem.where}", problem.what)
            for label, part in zip(self._labels, self._parts, strict=True)
            for problem in part.problems()
        ]

    def check(self) -> Sequence[Problem]:
        for part in self._parts:
            part.check()
        return self.problems()

    def notes(self) -> Sequence[str]:
        own = [
            f"mixture: {share:.1%} of the training examples are from {label}, which has {count:,}"
            for label, (count, share) in zip(self._labels, self.shares("train"), strict=False)
        ]
        return [*itertools.chain.from_iterable(part.notes() for part in self._parts), *own]

    def fingerprint(self) -> str:
        described = [[part.fingerprint() for part in self._parts], self._weights]
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]

    def inventory(self) -> Mapping[str, tuple[str, str]]:
        return {
            f"{label} {name}": digests
            for label, part in zip(self._labels, self._parts, strict=True)
            for name, digests in part.inventory().items()
        }

    def _first_rows(self, split: Split) -> list[int]:
        """The index of the first example of each dataset in a split."""
        return list(itertools.accumulate((len(part.captions(split)) for part in self._parts[:-1]), initial=0))

    def _find(self, split: Split, index: int) -> tuple[int, int]:
        """The number of the dataset that holds an example, and the example's index there."""
        row = range(len(self.captions(split)))[index]
        number = int(np.searchsorted(self._starts[split], row, side="right")) - 1
        return number, row - self._starts[split][number]


def _open(choice: Mapping[str, Any]) -> Dataset:
    component = registry().find("dataset", choice["name"])
    options = {key: value for key, value in choice.items() if key not in ("name", "weight")}
    cls = component.load()
    dataset: Dataset = cls(**check_options(cls, options, component.id))
    return dataset
