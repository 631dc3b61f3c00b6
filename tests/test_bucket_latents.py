"""Cached latents of images that differ in shape: each batch has those of its images, with their crops and flips."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops
from kgen_plugin_codecs.kl import KLAutoencoder
from kgen_plugin_codecs.networks import Network
from PIL import Image

from kgen import DataError
from kgen.backend.compiled import Compiled
from kgen.data.datasets.imagefolder import ImageFolder
from kgen.data.frozen.latents import cached_latents
from kgen.data.loader import Loader
from kgen.experiments.inputs import BATCH, Inputs, SplitImages, latents_of
from kgen.pixels import floats

SIZES = [(16, 16), (16, 30), (30, 16), (20, 24), (16, 29)]


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageFolder:
    """25 noisy images of five shapes."""
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(25):
        pixels = random.integers(0, 256, (*SIZES[number % 5], 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text("an image")
    return ImageFolder(path=str(folder), size=16, resize="bucket", crops=2, validation=0.2)


@pytest.fixture
def decoder(dataset: ImageFolder) -> KLAutoencoder:
    made = KLAutoencoder(dataset.image_space, channels=2, network=Network(width=4, multipliers=(1,), attention=False))
    made.build(None)
    return made


@pytest.mark.backends
@pytest.mark.parametrize("flip", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_batch_has_the_latents_of_its_images(
    dataset: ImageFolder, decoder: KLAutoencoder, tmp_path: Path, flip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = cached_latents(decoder, dataset, "train", tmp_path, flip=flip, views=2)
    images, cached = (
        itertools.islice(iter(Loader(dataset, None, batch_size=3, flip=flip, latents=made).training(seed=1)), 12)
        for made in (None, latents)
    )
    seen: Counter[Any] = Counter()
    for one, other in zip(images, cached, strict=True):
        _, height, width, _ = one["image"].shape
        seen[height, width] += 1
        assert other["latent"].shape == (3, height // 2, width // 2, 2) and other["latent"].dtype == np.float32
        made = ops.convert_to_numpy(decoder.encode(floats(ops.convert_to_tensor(one["image"]))))
        np.testing.assert_allclose(other["latent"], made, 2**-11, 1e-4)  # float16
    assert len(seen) > 2, seen

    monkeypatch.setattr(Compiled, "__init__", None)  # nothing is encoded again
    again = cached_latents(decoder, dataset, "train", tmp_path, flip=flip, views=2)
    rows = dataset.rows_by_shape("train")[16, 16] * (4 if flip else 2)
    np.testing.assert_array_equal(again.lookup(rows), latents.lookup(rows))


@pytest.mark.portable
def test_a_run_caches_every_view_and_mirror_image_of_training(dataset: ImageFolder, decoder: KLAutoencoder) -> None:
    inputs = Inputs(dataset, None, decoder, flip=True)
    train, validation = inputs.latents("train", True), inputs.latents("validation", False)
    assert train is not None and validation is not None
    assert (len(train), len(validation)) == (20 * 2 * 2, 5)  # crops, and mirror images
    assert train.written == validation.written == 0


@pytest.mark.portable
def test_all_images_of_a_split_in_batches_of_one_shape(dataset: ImageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kgen.experiments.inputs.BATCH", 2)
    assert BATCH > 2
    batches = list(SplitImages(dataset, "train"))
    wanted = [dataset.image("train", index) for index in range(len(dataset.captions("train")))]
    assert sorted(image.tobytes() for batch in batches for image in batch) == sorted(map(np.ndarray.tobytes, wanted))
    shapes = [batch.shape[1:3] for batch in batches]
    count = len(set(shapes))
    assert len(set(shapes[:count])) == count > 2, "the shapes take turns"


@pytest.mark.portable
def test_latents_of_several_shapes_are_not_one_array(dataset: ImageFolder, decoder: KLAutoencoder) -> None:
    with pytest.raises(DataError, match="needs images of one shape"):
        latents_of(decoder, dataset, "train")
