"""Copies of a pipeline in memory, and what Keras's own ways of saving say."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import keras
import numpy as np
import pytest
from parts import Painter, Patterns, Words

import kgen


def assemble() -> kgen.Pipeline:
    dataset = Patterns()
    encoder = Words()
    encoder.adapt(dataset.captions("train"))
    return kgen.assemble(
        encoder=encoder, generator=Painter(dataset.image_space, encoder.condition_space), dataset=dataset
    )


@pytest.mark.backends
def test_copies_generate_the_same_images_and_share_no_state() -> None:
    pipeline = assemble()
    before = pipeline.generate("pattern 1")
    for made in (copy.deepcopy(pipeline), pickle.loads(pickle.dumps(pipeline))):
        assert made.condition_dropout == pipeline.condition_dropout and made.encoder.words == pipeline.encoder.words
        np.testing.assert_array_equal(made.generate("pattern 1"), before)
        weight = made.generator.weights[0]
        weight.assign(np.ones(weight.shape))
        assert (made.generate("pattern 1") != before).any()
    np.testing.assert_array_equal(pipeline.generate("pattern 1"), before)


def test_keras_own_files_are_refused(tmp_path: Path) -> None:
    pipeline = assemble()
    calls = {
        "save": lambda: pipeline.save(tmp_path / "m.keras"),
        "save h5": lambda: pipeline.save(str(tmp_path / "m.h5")),
        "save options": lambda: pipeline.save(tmp_path / "m", overwrite=True),
        "save_model": lambda: keras.saving.save_model(pipeline, tmp_path / "m.keras"),
        "clone_model": lambda: keras.models.clone_model(pipeline),
        "predict": lambda: pipeline.predict(["a red circle"]),
    }
    for name, call in calls.items():
        with pytest.raises(kgen.ConfigError, match=r"kgen\.load|generate") as caught:
            call()
        assert len(str(caught.value)) < 300, name
    assert {path.name for path in tmp_path.iterdir()} <= {"m.keras"}  # which Keras begins before it asks


def test_model_checkpoint_is_refused_with_advice(tmp_path: Path) -> None:
    dataset, pipeline = Patterns(), assemble()
    pipeline.compile("sgd")
    images = np.stack([dataset.image("train", i) for i in range(4)])
    checkpoint = keras.callbacks.ModelCheckpoint(str(tmp_path / "ck.keras"))
    with pytest.raises(kgen.ConfigError, match="saved in a folder"):
        pipeline.fit(images, dataset.captions("train")[:4], callbacks=[checkpoint], verbose=0)
