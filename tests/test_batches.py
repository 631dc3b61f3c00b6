"""What `fit`, `evaluate` and `inputs` are given: read, or refused with what to call instead."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import keras
import numpy as np
import pytest
from parts import Painter, Patterns, Words

import kgen
from kgen.data.batches import check_images
from kgen.errors import ImageRangeWarning


@pytest.fixture(scope="module")
def dataset() -> Patterns:
    return Patterns()


@pytest.fixture(scope="module")
def pipeline(dataset: Patterns) -> kgen.Pipeline:
    keras.utils.set_random_seed(0)
    encoder = Words()
    encoder.adapt(dataset.captions("train"))
    painter = Painter(dataset.image_space, encoder.condition_space, noise=0.0)
    made = kgen.assemble(encoder=encoder, generator=painter, dataset=dataset, condition_dropout=0.0)
    made.compile("sgd")
    return made


@pytest.fixture(scope="module")
def arrays(dataset: Patterns) -> tuple[np.ndarray, list[str]]:
    captions = dataset.captions("train")[:20]
    return np.stack([dataset.image("train", i) for i in range(20)]), captions


def loss(pipeline: kgen.Pipeline, *given: object, **more: object) -> float:
    return float(pipeline.evaluate(*given, verbose=0, return_dict=True, **more)["loss"])


@pytest.mark.backends
def test_all_accepted_inputs_give_the_same_data(pipeline: kgen.Pipeline, arrays: tuple[np.ndarray, list[str]]) -> None:
    images, captions = arrays
    batch = pipeline.inputs(images, captions)
    expected = loss(pipeline, batch, batch_size=10)
    halves = [(images[:10], captions[:10]), (images[10:], captions[10:])]

    def generator() -> Iterator[object]:
        yield pipeline.inputs(*halves[0])
        yield halves[1]

    assert loss(pipeline, images, captions, batch_size=10) == pytest.approx(expected, rel=1e-5)
    assert loss(pipeline, generator(), steps=2) == pytest.approx(expected, rel=1e-5)
    assert loss(pipeline, iter([(batch,)]), steps=1) == pytest.approx(expected, rel=1e-5)
    floats = (images / 127.5 - 1.0).astype("float64")
    assert loss(pipeline, floats, captions, batch_size=10) == pytest.approx(expected, rel=1e-5)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        assert loss(pipeline, tf.data.Dataset.from_tensor_slices(batch).batch(10)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.backends
def test_fit_takes_images_and_captions(pipeline: kgen.Pipeline, arrays: tuple[np.ndarray, list[str]]) -> None:
    history = pipeline.fit(*arrays, batch_size=10, epochs=3, validation_data=arrays, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] and len(history["val_loss"]) == 3
    batch = pipeline.inputs(*arrays)
    pipeline.fit((batch for _ in range(2)), steps_per_epoch=2, validation_data=batch, verbose=0)


WRONG = {
    "a dataset": lambda p, images, captions: (Patterns(), None),
    "images alone": lambda p, images, captions: (images, None),
    "labels": lambda p, images, captions: (images, np.arange(20)),
    "a label": lambda p, images, captions: (images, 3),
    "bytes": lambda p, images, captions: (iter([(images, [caption.encode() for caption in captions])]), None),
    "too few captions": lambda p, images, captions: (images, captions[:3]),
    "a batch and captions": lambda p, images, captions: (p.inputs(images, captions), captions),
    "no images": lambda p, images, captions: ({"tokens": p.encoder.tokenize(captions)}, None),
    "captions": lambda p, images, captions: ({"image": images, "caption": captions}, None),
    "one thing more": lambda p, images, captions: ({**p.inputs(images, captions), "y": images}, None),
    "a text": lambda p, images, captions: ("train", None),
    "nothing": lambda p, images, captions: (None, None),
    "an iterator of images": lambda p, images, captions: (iter([images]), None),
    "a loader and captions": lambda p, images, captions: (iter([images]), captions),
}


@pytest.mark.parametrize("name", WRONG)
def test_inputs_that_fit_cannot_read_are_refused_in_one_message(
    name: str, pipeline: kgen.Pipeline, arrays: tuple[np.ndarray, list[str]]
) -> None:
    for call in (pipeline.fit, pipeline.evaluate):
        with pytest.raises(kgen.DataError) as caught:
            call(*WRONG[name](pipeline, *arrays), verbose=0)
        assert len(str(caught.value)) < 400
        assert "captions" in str(caught.value)


BAD_IMAGES = {
    "0..255 as floats": (lambda images: images.astype("float32"), r"in \[-1, 1\], but.*give uint8, or divide by 127.5"),
    "beyond -1": (
        lambda images: images / 100.0 - 1.0,
        r"float images must be in \[-1, 1\], but these are in \[-1, 1.55",
    ),
    "16 bits": (lambda images: images.astype("uint16"), "not uint16"),
    "int64": (lambda images: images.astype("int64"), "not int64"),
    "booleans": (lambda images: images > 127, "not bool"),
    "not a number": (lambda images: np.where(images > 254, np.nan, 0.5), "not finite"),
    "infinity": (lambda images: np.where(images > 254, np.inf, 0.5), "not finite"),
    "complex": (lambda images: images.astype("complex64"), "not complex64"),
    "texts": (lambda images: images.astype(str), "must be uint8"),
    "of two sizes": (lambda images: [images[0], images[1][:4]], "the same size"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_invalid_images_are_refused(name: str, arrays: tuple[np.ndarray, list[str]]) -> None:
    change, message = BAD_IMAGES[name]
    with pytest.raises(kgen.DataError, match=message):
        check_images(change(arrays[0]))


def test_batches_from_the_user_are_checked_too(pipeline: kgen.Pipeline, arrays: tuple[np.ndarray, list[str]]) -> None:
    batch = pipeline.inputs(*arrays)
    for bad in ({**batch, "image": batch["image"].astype("float32")}, {**batch, "image": batch["image"] > 0}):
        for call in (pipeline.fit, pipeline.evaluate):
            with pytest.raises(kgen.DataError):
                call(bad, verbose=0)
            with pytest.raises(kgen.DataError):
                call((bad for _ in range(2)), verbose=0)


def test_floats_from_0_to_1_are_warned_of(arrays: tuple[np.ndarray, list[str]]) -> None:
    images, _ = arrays
    with pytest.warns(ImageRangeWarning, match="2 \\* images - 1"):
        check_images(images / 255.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for good in (images, images / 127.5 - 1.0, (images / 127.5 - 1.0).astype("float16"), images[:0] / 255.0):
            assert check_images(good).dtype in (np.uint8, np.float32)
