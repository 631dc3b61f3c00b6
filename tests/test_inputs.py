"""The inputs of a run: which latents, conditions and images a training reads."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from parts import BFLOAT16, Codec, MeanColor, Patterns

from kgen.contracts.dataset import Split
from kgen.data.reading.workers import image_of
from kgen.experiments import inputs as inputs_module
from kgen.experiments.inputs import Inputs
from kgen.pixels import floats

pytestmark = pytest.mark.portable


class Shifted(Patterns):
    """Each image has two views: the second is shifted."""

    views = 2

    def view(self, split: Split, index: int, number: int) -> np.ndarray:
        return np.roll(self.image(split, index), 3 * number, axis=1)


class Corner(MeanColor):
    """The condition is the color of the first pixel, which differs between views and mirror images."""

    def tokenize(self, inputs: Sequence[np.ndarray | None]) -> dict[str, np.ndarray]:
        return super().tokenize([None if image is None else image[:1, :1] for image in inputs])


class Pool:
    """Reads images in place of worker processes."""

    count = 1

    def __init__(self, dataset: Patterns) -> None:
        self.dataset, self.read_rows, self.calls = dataset, 0, 0

    def read(self, split: Split, numbers: Sequence[int], flip: bool, views: int, shape: Any) -> np.ndarray:
        self.read_rows += len(numbers)
        self.calls += 1
        return np.stack([image_of(self.dataset, split, number, flip, views) for number in numbers])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path / "cache"))


def codec(dataset: Patterns) -> Codec:
    made = Codec(dataset.image_space)
    made.build()
    return made


@pytest.mark.parametrize(("flip", "workers"), [(False, 0), (True, 0), (True, 1)])
def test_cached_latents_and_conditions_are_those_of_the_images(
    flip: bool, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training, which uses all views, and in the other splits."""
    monkeypatch.setattr(inputs_module, "make_workers", lambda dataset, count: Pool(dataset) if count else None)
    dataset, encoder = Shifted(), Corner()
    encoder.null_condition()
    decoder = codec(dataset)
    plain, cached = Inputs(dataset, None, flip=flip), Inputs(dataset, encoder, decoder, flip=flip, workers=workers)
    read: tuple[Callable[[Inputs], Any], ...] = (
        lambda inputs: inputs.loader("train", 4).training(seed=3),
        lambda inputs: inputs.loader("train", 4).once(),
        lambda inputs: inputs.loader("holdout", 1).once(),
    )
    for batches in read:
        for one, other in itertools.islice(zip(batches(plain), batches(cached), strict=False), 12):
            latents = decoder.encode(floats(keras.ops.convert_to_tensor(one["image"])))
            np.testing.assert_allclose(other["latent"], keras.ops.convert_to_numpy(latents), 2**-10, 1e-4)
            np.testing.assert_allclose(other["condition"]["pooled"], one["image"][:, 0, 0] / 255, rtol=BFLOAT16)


def test_workers_read_images_until_all_latents_are_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs_module, "fit_into_memory", lambda *given: False)
    dataset, made = Patterns(), list[Pool]()

    def make_workers(dataset: Any, count: int | None) -> Any:
        made.append(Pool(dataset))
        return made[-1]

    monkeypatch.setattr(inputs_module, "make_workers", make_workers)
    decoder = codec(dataset)
    for number, reads in ((1, True), (1, False), (2, True)):
        loader = Inputs(dataset, None, decoder, workers=1 if number == 2 else None).loader("train", 4)
        assert (loader.workers is not None) == reads
        list(loader.once())
        assert len(made) == number
        assert made[0].read_rows == len(dataset.captions("train")), "each image is read once, by the workers"
        assert loader.latents is not None and loader.latents.written == len(loader.latents)


def test_workers_read_the_images_of_an_encoder_in_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """All latents are cached, but not the conditions. Later, these are cached, too, and no image is read."""
    monkeypatch.setattr(inputs_module, "fit_into_memory", lambda *given: False)
    dataset, encoder = Patterns(), MeanColor()
    monkeypatch.setattr(inputs_module, "make_workers", lambda dataset, count: Pool(dataset))
    encoder.null_condition()
    decoder = codec(dataset)
    list(Inputs(dataset, None, decoder).loader("train", 4).once())
    for calls in (6, 0):
        loader = Inputs(dataset, encoder, decoder).loader("train", 4)
        assert isinstance(loader.workers, Pool)
        for number, batch in enumerate(loader.once()):
            colors = np.stack([dataset.image("train", (4 * number + place) % 23) for place in range(4)]).mean((1, 2))
            np.testing.assert_allclose(batch["condition"]["pooled"], colors / 255, rtol=BFLOAT16)
        assert loader.workers.calls == calls
