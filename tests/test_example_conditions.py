"""The cache of conditions by example, for a frozen encoder that reads images: what it holds, and what a start reads."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parts import BFLOAT16, MeanColor, Patterns
from PIL import Image
from safetensors.numpy import load_file

from kgen.config import RunConfig
from kgen.contracts.dataset import Split
from kgen.contracts.inputs import AllEncoderInputs, Visits
from kgen.data.encoded import images as encoded
from kgen.data.frozen.conditions import Reader, condition_reader
from kgen.data.frozen.example_conditions import cached_examples
from kgen.data.frozen.filling import Filling
from kgen.data.frozen.stored import create_rows
from kgen.errors import RunInterruptedError
from kgen.runs.run import run

pytestmark = pytest.mark.portable

COUNT = 600
FEW = 150
"""More images than a start reads: some to try the parts, and the first batches, which are read in advance."""


def visit(split: Split, *rows: int) -> Visits:
    return Visits(split, rows, [None] * len(rows), [0] * len(rows))


class Counting(Patterns):
    """Counts the images that are read."""

    read = 0

    def image(self, split: Split, index: int) -> np.ndarray:
        self.read += 1
        return super().image(split, index)


class Slow(Patterns):
    """Remembers which threads read images. Reading one takes a moment."""

    def __init__(self) -> None:
        super().__init__(count=200)
        self.threads: list[int] = []

    def image(self, split: Split, index: int) -> np.ndarray:
        self.threads.append(threading.get_ident())
        time.sleep(0.001)
        return super().image(split, index)


class Both(MeanColor):
    """Reads a caption, too."""

    fields = ("caption", "image")

    @property
    def null(self) -> dict[str, Any]:
        return {"caption": "", "image": None}

    def tokenize(self, inputs: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
        return super().tokenize([value["image"] for value in inputs])


class Corner(MeanColor):
    """The condition is the color of the first pixel, which differs in the mirror image."""

    def tokenize(self, inputs: Sequence[np.ndarray | None]) -> dict[str, np.ndarray]:
        return super().tokenize([None if image is None else image[:1, :1] for image in inputs])


def make(encoder: MeanColor, dataset: Patterns, cache: Path, filling: Filling | None = None) -> Reader:
    encoder.null_condition()  # creates its weight
    return condition_reader(encoder, AllEncoderInputs(dataset, ("image",), flip=True), cache, filling=filling)


@pytest.mark.backends
def test_holds_the_condition_of_each_example_and_mirror_image(tmp_path: Path) -> None:
    dataset = Counting(count=70)
    read = make(Corner(), dataset, tmp_path)
    images = [dataset.image("train", 5), dataset.image("train", 68)[:, ::-1], dataset.image("holdout", 0)]
    for image, where in zip(images, (("train", 10), ("train", 137), ("holdout", 0)), strict=True):
        pooled = read([image], visit(*where))["condition"]["pooled"]
        np.testing.assert_allclose(pooled[0], image[0, 0] / 255, rtol=BFLOAT16)
    assert not read([None])["condition"]["pooled"].any()
    with pytest.raises(ValueError, match="found by its example"):
        read([images[0]])


def test_images_are_read_when_their_conditions_are_missing(tmp_path: Path) -> None:
    encoder, dataset, lines = MeanColor(), Counting(count=70), list[str]()
    read = make(encoder, dataset, tmp_path, Filling(lines.append))
    assert dataset.read <= 5, "the fingerprint reads four, and one says that the inputs are no texts"
    color = dataset.image("train", 4).mean((0, 1)) / 255
    for inputs in ([dataset.image("train", 4)], [None]):  # None shows that the second is not read
        pooled = read(inputs, visit("train", 8))["condition"]["pooled"]
        np.testing.assert_allclose(pooled[0], color, rtol=BFLOAT16)
    before = dataset.read
    make(encoder, dataset, tmp_path, Filling(lines.append))
    assert dataset.read <= before + 7, "and two whose conditions are compared"
    assert [line.split(" conditions")[0] for line in lines] == ["0 of 140", "1 of 140"]


@pytest.mark.parametrize("cls", [MeanColor, Both])
def test_threads_read_images_if_the_cache_is_filled_first(
    cls: type[MeanColor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kgen.data.frozen.condition_rows.usual_workers", lambda: 3)
    dataset, encoder = Slow(), cls()
    encoder.null_condition()
    inputs = AllEncoderInputs(dataset, cls.fields)
    filled = cached_examples(encoder, inputs, tmp_path, Filling(lambda line: dataset.threads.clear(), devices=2))
    assert filled.written == len(filled) == 201 and len(dataset.threads) == 200
    assert len(set(dataset.threads)) > 1 and threading.get_ident() not in dataset.threads
    expected = [dataset.image("train", row).mean((0, 1)) / 255 for row in range(199)]
    found = filled.lookup([None] * 199, visit("train", *range(199)))["pooled"]
    np.testing.assert_allclose(found, expected, rtol=BFLOAT16)


def test_the_name_depends_on_all_that_conditions_depend_on(tmp_path: Path) -> None:
    encoder = MeanColor()
    encoder.null_condition()

    def name(dataset: Patterns, fields: tuple[str, ...] = ("image",), flip: bool = False) -> str:
        inputs = AllEncoderInputs(dataset, fields, flip=flip)
        return cached_examples(encoder, inputs, tmp_path, Filling()).folder.name

    same, changed = Patterns(), Patterns()
    changed.fingerprint = lambda: "another"  # type: ignore[method-assign]
    names = [name(Patterns()), name(Patterns(count=25)), name(changed), name(Patterns(), flip=True)]
    names += [name(Patterns(), ("image", "caption")), name(Counting())]
    encoder.scale.assign(2.0)
    names.append(name(same))
    assert len(set(names)) == len(names)
    encoder.scale.assign(1.0)
    assert name(same) == names[0]


def test_changed_code_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, tokenize = Patterns(), MeanColor.tokenize
    make(MeanColor(), dataset, tmp_path)
    monkeypatch.setattr(MeanColor, "tokenize", lambda self, inputs: {"color": 2.0 * tokenize(self, inputs)["color"]})
    pooled = make(MeanColor(), dataset, tmp_path)([None], visit("train", 6))["condition"]["pooled"]
    np.testing.assert_allclose(pooled[0], dataset.image("train", 3).mean((0, 1)) / 127.5, rtol=BFLOAT16)


def test_a_cache_of_another_length_is_made_again(tmp_path: Path) -> None:
    dataset, encoder = Patterns(), MeanColor()
    read, visits = make(encoder, dataset, tmp_path), visit("train", 40)
    expected = read([None], visits)["condition"]
    (folder,) = tmp_path.glob("conditions-*")
    create_rows(folder, 8, {name: ("bfloat16", array.shape[1:]) for name, array in expected.items()})
    found = make(encoder, dataset, tmp_path)([None], visits)["condition"]
    np.testing.assert_array_equal(found["pooled"], expected["pooled"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images")
    for number, image in enumerate(np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3)).astype(np.uint8)):
        Image.fromarray(image).save(path / f"{number:03}.png")
    return path


@pytest.mark.usefixtures("made_plugin")
@pytest.mark.parametrize("encoder", ["made/colors", "vision/patches"])
def test_a_start_reads_few_images(encoder: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the encoder is frozen or trained, and also when the run continues."""
    monkeypatch.setattr(encoded, "READ_AT_START", 0)
    decoded: list[int] = []
    fitted = encoded.fitted
    monkeypatch.setattr(encoded, "fitted", lambda *given: (decoded.append(1), fitted(*given))[1])
    config = RunConfig.from_dict(
        {
            "data": {"name": "imagefolder", "path": str(folder), "size": 8, "captions_from": "none"},
            "encoder": encoder,
            "generator": "made/painter",
            "fit": {"steps": 4, "batch_size": 4, "checkpoint_every": 1, "log_every": 1, "workers": 0},
            "sample": {"every": 0},
            "evaluate": {"metrics": []},
        }
    )
    read: list[int] = []

    def train(name: str, stop: int = 0) -> dict[str, np.ndarray]:
        def watch(step: int, values: Any) -> None:
            read.append(len(decoded))
            decoded.clear()
            if step == stop and "loss" in values:
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setenv("KGEN_CACHE", str(tmp_path / f"{name}-cache"))
        decoded.clear()
        run(config, tmp_path / name, log=lambda line: None, on_metrics=lambda name, steps: watch)
        return load_file(tmp_path / name / "model" / "weights.safetensors")

    with pytest.raises(RunInterruptedError):
        train("parts", stop=2)
    at_start = read[0]
    read.clear()
    parts = train("parts")
    assert 4 <= at_start < FEW and 4 <= read[0] < FEW, (at_start, read)
    whole = train("whole")
    assert parts.keys() == whole.keys() and all(np.array_equal(parts[name], whole[name]) for name in whole)
