"""Batches are a function of the seed and the step."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from parts import Patterns, Words

from kgen.data.loader import Loader


@pytest.fixture
def parts() -> tuple[Patterns, Words]:
    dataset, encoder = Patterns(), Words()
    encoder.adapt(dataset.captions("train"))
    return dataset, encoder


def take(batches, count: int) -> list[dict]:
    return list(itertools.islice(iter(batches), count))


def test_step_k_is_the_same_from_the_start_or_resumed(parts: tuple[Patterns, Words]) -> None:
    loader = Loader(*parts, batch_size=5)
    whole, resumed = take(loader.training(seed=1), 20), take(loader.training(start=13, seed=1), 7)
    for one, other in zip(whole[13:], resumed, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["tokens"]["id"], other["tokens"]["id"])


def test_every_pass_sees_every_image_once_in_a_new_order(parts: tuple[Patterns, Words]) -> None:
    loader = Loader(*parts, batch_size=1)
    ids = [int(batch["tokens"]["id"][0]) for batch in take(loader.training(seed=0), 46)]
    assert sorted(ids[:23]) == sorted(ids[23:]) == list(range(2, 25))
    assert ids[:23] != ids[23:]
    assert ids != [int(b["tokens"]["id"][0]) for b in take(loader.training(seed=1), 46)]


def test_images_and_captions_belong_together(parts: tuple[Patterns, Words]) -> None:
    dataset, encoder = parts
    for batch in take(Loader(dataset, encoder, batch_size=4).training(), 6):
        for image, token in zip(batch["image"], batch["tokens"]["id"], strict=True):
            row = dataset.captions("train").index(encoder.words[token - 2])
            np.testing.assert_array_equal(image, dataset.image("train", row))


def test_workers_share_every_batch(parts: tuple[Patterns, Words]) -> None:
    """Their parts, one after the other, are the batch of one process."""
    whole = take(Loader(*parts, batch_size=6).training(seed=2), 8)
    workers = [take(Loader(*parts, batch_size=6, shard=i, shards=3).training(seed=2), 8) for i in range(3)]
    for step, batch in enumerate(whole):
        shared = np.concatenate([worker[step]["tokens"]["id"] for worker in workers])
        np.testing.assert_array_equal(shared, batch["tokens"]["id"])
    with pytest.raises(ValueError, match="multiple of the 4 processes"):
        Loader(*parts, batch_size=6, shards=4)


def test_once_reads_everything_in_order(parts: tuple[Patterns, Words]) -> None:
    loader = Loader(*parts, batch_size=10)
    batches = list(loader.once())
    assert [len(b["image"]) for b in batches] == [10, 10, 10]
    assert len(loader) == 3
    dataset, encoder = parts
    tokens, weights = (np.concatenate([read(b) for b in batches]) for read in (lambda b: b["tokens"]["id"], weight))
    expected = encoder.tokenize(dataset.captions("train"))["id"]
    np.testing.assert_array_equal(tokens, np.concatenate([expected, expected[:7]]))
    np.testing.assert_array_equal(weights, [1] * 23 + [0] * 7)


@pytest.mark.parametrize(("devices", "size"), [(1, 23), (2, 24), (4, 24), (5, 25)])
def test_a_small_split_is_one_batch_that_devices_can_share(
    parts: tuple[Patterns, Words], devices: int, size: int
) -> None:
    loader = Loader(*parts, batch_size=40)
    (batch,) = loader.once(devices)
    assert len(batch["image"]) == size and len(loader) == 1
    assert weight(batch).sum() == 23


def test_processes_share_the_batches_of_one_pass(parts: tuple[Patterns, Words]) -> None:
    """Each has its part of every batch, also of the last one, whose padding has weight 0."""
    whole, *shards = (
        list(Loader(*parts, batch_size=10, shard=n, shards=k).once(2)) for n, k in [(0, 1), (0, 2), (1, 2)]
    )
    for batch, *parts_of_it in zip(whole, *shards, strict=True):
        rows = np.concatenate([part["tokens"]["id"] for part in parts_of_it])
        np.testing.assert_array_equal(rows, batch["tokens"]["id"])
        np.testing.assert_array_equal(np.concatenate([weight(part) for part in parts_of_it]), weight(batch))


def weight(batch: dict[str, Any]) -> np.ndarray:
    return np.asarray(batch["weight"])
