"""Nearest real images: what is found, compared with a plain search by scikit-learn and with cases done by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from kgen import Space
from kgen.contracts.dataset import Dataset, Split
from kgen.contracts.metric import GeneratedImages, Metric, measure
from kgen.metrics import retrieval
from kgen.metrics.retrieval import Retrieval
from kgen.testing import MetricConformance
from kgen.testing.metric import Bounds

SIZE = 6


class Gallery(Dataset):
    """Images that are given, by split."""

    def __init__(self, *, splits: dict[str, Any]) -> None:
        self.splits = splits  # by name: images (N, SIZE, SIZE, 3) as lists, and N captions

    @property
    def image_space(self) -> Space:
        return Space("continuous", (SIZE, SIZE, 3))

    def captions(self, split: Split) -> Sequence[str]:
        return self.splits[split][1] if split in self.splits else ()

    def image(self, split: Split, index: int) -> np.ndarray:
        return np.array(self.splits[split][0][index], np.uint8)


def gallery(**splits: tuple[np.ndarray, Sequence[str]]) -> Gallery:
    return Gallery(splits=splits)


def noise(count: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def grays(*levels: int) -> np.ndarray:
    return np.stack([np.full((SIZE, SIZE, 3), level, np.uint8) for level in levels])


def names(count: int, start: int = 0) -> list[str]:
    return [f"caption {i}" for i in range(start, start + count)]


def score(metric: Metric, images: np.ndarray, prompts: Sequence[str], dataset: Dataset, size: int = 64) -> Any:
    starts = range(0, len(images), size)
    batches = [GeneratedImages(images[i : i + size], prompts[i : i + size]) for i in starts]
    return measure(metric, dataset, "train", batches)


class TestRetrieval(MetricConformance):
    real: ClassVar[Bounds] = {"R@1": (1.0, 1.0), "R@5": (1.0, 1.0)}
    noise: ClassVar[Bounds] = {"R@1": (0.0, 0.2)}  # 1 in 44 by chance

    def build(self) -> Metric:
        return Retrieval()

    def dataset(self) -> Dataset:
        return gallery(train=(noise(40), names(40)), holdout=(noise(4, 1), names(4, 40)))


def test_by_hand() -> None:
    """Real grays 0, 10, 20, 30, 40 named a..e; generated grays are near the 1st, 2nd, 3rd of their captions."""
    dataset = gallery(train=(grays(0, 10, 20), ["a", "b", "c"]), holdout=(grays(30, 40), ["d", "e"]))
    generated = grays(1, 14, 4, 18)  # nearest: a; b c; a b c; c b d
    scores = score(Retrieval(k=(1, 2, 3, 5)), generated, ["a", "c", "c", "d"], dataset)
    assert scores == {"R@1": 0.25, "R@2": 0.5, "R@3": 1.0, "R@5": 1.0}


def test_all_splits_are_searched() -> None:
    """An image of what is held out is wrong if it looks like one from training, and the other way round."""
    by_split = {"train": grays(0, 50), "validation": grays(100), "holdout": grays(150, 200)}
    dataset = gallery(
        **{split: (images, names(len(images), 10 * i)) for i, (split, images) in enumerate(by_split.items())}
    )
    for i, split in enumerate(by_split):
        images = np.concatenate([*by_split.values()])
        scores = score(Retrieval(k=(1,)), images, [f"caption {10 * i}"] * 5, dataset)
        assert scores == {"R@1": 0.2}, split


@pytest.mark.parametrize("chunk", [1, 3, 7, 1000])
def test_agrees_with_a_plain_search(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """Several images per caption, in chunks of any size."""
    monkeypatch.setattr(retrieval, "CHUNK_BYTES", chunk * 8 * SIZE * SIZE * 3)
    real, generated = noise(60), noise(50, 2)
    captions = [f"caption {i % 12}" for i in range(60)]
    prompts = [f"caption {i % 12}" for i in range(50)]
    dataset = gallery(
        train=(real[:40], captions[:40]), validation=(real[40:45], captions[40:45]), holdout=(real[45:], captions[45:])
    )
    search = NearestNeighbors(n_neighbors=9, algorithm="brute").fit(real.reshape(60, -1).astype(float))
    nearest = search.kneighbors(generated.reshape(50, -1).astype(float), return_distance=False)
    scores = score(Retrieval(k=(1, 4, 9)), generated, prompts, dataset, size=7)
    for k in (1, 4, 9):
        hits = [prompt in [captions[i] for i in row[:k]] for prompt, row in zip(prompts, nearest, strict=True)]
        assert scores[f"R@{k}"] == np.mean(hits)


def test_captions_of_the_same_image_are_both_right() -> None:
    """Also where numbers are large: a difference of one in one pixel still counts."""
    real = grays(255, 255, 255)
    real[2, 0, 0, 0] = 254
    dataset = gallery(train=(real, ["a", "b", "c"]))
    for prompt, right in (("a", 1.0), ("b", 1.0), ("c", 0.0)):
        assert score(Retrieval(k=(1,)), grays(255), [prompt], dataset) == {"R@1": right}


def test_unknown_prompts_and_small_datasets() -> None:
    dataset = gallery(train=(grays(0), ["a"]))
    assert score(Retrieval(), grays(0, 0), ["a", "no such caption"], dataset) == {"R@1": 0.5, "R@5": 0.5}


def test_k_must_be_positive() -> None:
    for k in ((), (0,), (1, -1)):
        with pytest.raises(ValueError, match="positive"):
            Retrieval(k=k)


def test_many_images_per_caption_give_a_caveat() -> None:
    class Cifar(Gallery):
        def captions(self, split: Split) -> list[str]:
            return ["cat", "dog"] * {"train": 10, "validation": 2, "holdout": 0}[split]

    (caveat,) = Retrieval().caveats(Cifar.__new__(Cifar))
    assert "here 24 images share 2 captions" in caveat and "choose another metric" in caveat
