"""Every dataset of image files sorts the same images into the same buckets, and trains on the same batches."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sources import SOURCES
from PIL import Image
from worker_batches import Texts

from kgen import make_dataset
from kgen.contracts.dataset import Dataset
from kgen.data import loader as loading
from kgen.data.loader import Loader
from kgen.data.reading.workers import Workers

pytestmark = pytest.mark.portable

SIZES = [(16, 16), (16, 30), (30, 16), (20, 24), (16, 29), (24, 18)] * 3
OPTIONS: dict[str, Any] = {"size": 16, "resize": "bucket", "crops": 2}

Batches = list[tuple[np.ndarray, list[str]]]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(loading, "MEMORY_LIMIT", 0)  # every visit reads the image


def written(tmp_path: Path, source: str) -> dict[str, Any]:
    """The name and path of a dataset of noisy images of several shapes."""
    folder = tmp_path / source
    folder.mkdir()
    random = np.random.default_rng(0)
    images = []
    for size in SIZES:
        data = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(data, "PNG")
        images.append(data.getvalue())
    SOURCES[source](folder, images, [f"image {number}" for number in range(len(SIZES))])
    return {"name": source, "path": str(folder), **OPTIONS}


def batches(dataset: Dataset, workers: int = 0, start: int = 0) -> Batches:
    processes = Workers(dataset, workers) if workers else None
    loader = Loader(dataset, Texts(), batch_size=3, flip=True, workers=processes)  # type: ignore[arg-type]
    found = list(itertools.islice(iter(loader.training(start=start, seed=3)), 15 - start))
    loader.close()
    return [(batch["image"], batch["tokens"]["text"].tolist()) for batch in found]


def same(ones: Batches, others: Batches) -> bool:
    return len(ones) == len(others) and all(
        texts == others_texts and np.array_equal(images, others_images)
        for (images, texts), (others_images, others_texts) in zip(ones, others, strict=True)
    )


@pytest.mark.parametrize("source", [source for source in SOURCES if source != "imagefolder"])
def test_its_batches_are_those_of_a_folder(tmp_path: Path, source: str) -> None:
    expected = batches(make_dataset(written(tmp_path, "imagefolder")))
    assert len({images.shape for images, _ in expected}) == 3
    dataset = make_dataset(written(tmp_path, source))
    assert same(batches(dataset, workers=2 if source in ("webdataset", "parquet") else 0), expected)
    assert same(batches(dataset, start=7), expected[7:])


def test_a_mixture_of_shards_and_tables_reads_the_same_with_workers(tmp_path: Path) -> None:
    parts = [{**written(tmp_path, source), "weight": weight} for source, weight in (("webdataset", 1), ("parquet", 3))]
    mixed = make_dataset({"name": "mixture", "datasets": parts})
    whole = batches(mixed)
    assert len({images.shape for images, _ in whole}) == 3
    assert same(batches(mixed, workers=2), whole) and same(batches(mixed, workers=1, start=6), whole[6:])
