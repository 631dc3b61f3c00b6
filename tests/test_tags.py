"""Training puts the tags of captions in a random order, which depends only on the seed and the step."""

from __future__ import annotations

import itertools
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from gray_images import numbers, png
from image_sources import SOURCES
from keras import ops
from parts import MeanColor, Words
from safetensors.numpy import load_file
from worker_batches import Texts

from kgen import ConfigError, DataError, make_dataset
from kgen.config import RunConfig
from kgen.contracts.dataset import Dataset
from kgen.contracts.inputs import AllEncoderInputs, Visits
from kgen.contracts.joint import Joint, encode
from kgen.data.encoded.captions import shuffled_tags
from kgen.data.frozen.conditions import condition_reader
from kgen.data.loader import Loader
from kgen.data.reading.workers import Workers
from kgen.errors import RunInterruptedError
from kgen.runs.run import check, run
from kgen.testing import DatasetConformance

pytestmark = pytest.mark.portable

COUNT = 8
CAPTIONS = [f"image {number}, cat , a,b, c, red hat" for number in range(COUNT)]
TAGS = ["a", "b", "c", "cat", "red hat"]

# ---- one caption -----------------------------------------------------------------------------------------------------


def test_every_order_is_equally_likely() -> None:
    counts = Counter(shuffled_tags("x, a, b, c", 1, number) for number in range(1200))
    assert counts.keys() == {f"x, {', '.join(order)}" for order in itertools.permutations("abc")}
    assert all(abs(count - 200) < 5 * np.sqrt(200 * 5 / 6) for count in counts.values()), counts  # 5 deviations


@pytest.mark.parametrize("caption", ["a cat", "a cat,", "x,  a", ""])
def test_a_caption_without_two_tags_to_shuffle_stays_as_it_is(caption: str) -> None:
    assert {shuffled_tags(caption, 1, number) for number in range(9)} == {caption}


# ---- datasets --------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "images"
    path.mkdir()
    return path


def choice(folder: Path, source: str = "imagefolder", **options: Any) -> dict[str, Any]:
    SOURCES[source](folder, list(map(png, range(COUNT))), CAPTIONS)
    return {"name": source, "path": str(folder), "size": 16, "shuffle_tags": True, "keep_tags": 1, **options}


def visits(dataset: Dataset, start: int = 0, stop: int = 12, workers: int = 0) -> list[tuple[int, str]]:
    """The number of the image, and the caption, of each example of some batches."""
    processes = Workers(dataset, workers) if workers else None
    loader = Loader(dataset, Texts(), batch_size=4, workers=processes)  # type: ignore[arg-type]
    found: list[tuple[int, str]] = []
    for batch in itertools.islice(loader.training(start=start, seed=3), stop - start):
        found += zip(numbers(batch["image"]), batch["tokens"]["text"].tolist(), strict=True)
    loader.close()
    return found


class TestShuffledTags(DatasetConformance):
    @pytest.fixture(autouse=True)
    def _in(self, folder: Path) -> None:
        self.options = choice(folder)

    def build(self) -> Dataset:
        return make_dataset(self.options)


@pytest.mark.parametrize("source", SOURCES)
def test_each_visit_has_another_order(folder: Path, source: str) -> None:
    dataset = make_dataset(choice(folder, source))
    whole = visits(dataset)
    orders: dict[int, set[str]] = {}
    for number, caption in whole:
        first, *rest = caption.split(", ")
        assert first == f"image {number}" and sorted(rest) == TAGS
        orders.setdefault(number, set()).add(caption)
    assert len(orders) == COUNT and sum(map(len, orders.values())) > 40, "nearly all of the 48 orders differ"
    assert visits(dataset, start=5) == whole[20:]
    assert [caption.split() for caption in dataset.captions("train")] == [caption.split() for caption in CAPTIONS]


def test_the_order_depends_neither_on_workers_nor_on_the_fingerprint(folder: Path) -> None:
    options = choice(folder)
    dataset = make_dataset(options)
    assert visits(dataset, workers=2) == visits(dataset)
    assert make_dataset({**options, "shuffle_tags": False, "keep_tags": 0}).fingerprint() == dataset.fingerprint()


def test_one_caption_is_drawn_and_its_tags_are_shuffled(folder: Path) -> None:
    options = choice(folder, draw_captions=True, crops=2)
    (folder / "00.txt").write_text("image 0, a, b, c\nphoto, d, e, f")
    dataset = make_dataset(options)
    assert list(dataset.texts("train", 0)) == ["image 0, a, b, c", "photo, d, e, f"]
    assert [dataset.drawn_caption("train", 0, number) for number in (0, 1)] == list(dataset.texts("train", 0))
    found = {caption for number, caption in visits(dataset, stop=160) if number == 0}
    assert found == {
        f"{first}, {', '.join(order)}"
        for first, tags in (("image 0", "abc"), ("photo", "def"))
        for order in itertools.permutations(tags)
    }


def test_a_mixture_shuffles_the_tags_of_those_that_ask_for_it(folder: Path) -> None:
    parts = [choice(folder), choice(folder, shuffle_tags=False, keep_tags=0)]
    mixed = make_dataset({"name": "mixture", "datasets": parts})
    assert mixed.shuffle_tags
    plain = set(make_dataset(parts[1]).captions("train"))
    found = visits(mixed, stop=40)
    same = [caption in plain for _, caption in found]
    assert 80 <= sum(same) < 96, "all of the second, and hardly any of the first"
    assert visits(mixed, start=20, stop=40) == found[80:]


def test_tags_to_keep_need_tags_that_are_shuffled(folder: Path) -> None:
    with pytest.raises(DataError, match="keep_tags has no effect without shuffle_tags: true"):
        make_dataset(choice(folder, shuffle_tags=False))


# ---- encoders --------------------------------------------------------------------------------------------------------


class Frozen(Words):
    """It would double its vectors in training."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trainable = False

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        found = super().call(tokens)
        return {**found, "pooled": found["pooled"] * (2.0 if training else 1.0)}


def test_conditions_of_captions_are_not_cached(folder: Path, tmp_path: Path) -> None:
    """Those of other fields are, and a frozen encoder computes in training what a cache would hold."""
    dataset = make_dataset(choice(folder))
    joint = Joint.of([Frozen(), MeanColor()])
    inputs = AllEncoderInputs(dataset, joint.fields)
    joint.adapt(inputs)
    joint.null_condition()
    visit = Visits("train", [0], [None], [0])
    tokens = condition_reader(joint, inputs, tmp_path, changing=("caption",))([inputs[0]], visit)["tokens"]
    assert set(tokens) == {"0.id", *(f"1.condition.{name}" for name in ("sequence", "mask", "pooled"))}
    alone, text = joint.joined[0], [dataset.captions("train")[0]]
    read = condition_reader(alone, AllEncoderInputs(dataset, alone.fields), tmp_path, changing=("caption",))
    assert set(read(text)) == {"tokens"}
    for encoder, batch in ((alone, read(text)["tokens"]), (joint, tokens)):
        for training in (False, True):
            made = ops.convert_to_numpy(encode(encoder, batch, training)["pooled"])
            np.testing.assert_array_equal(made, ops.convert_to_numpy(encoder(batch)["pooled"]))


def configuration(folder: Path, tmp_path: Path, **changes: Any) -> RunConfig:
    content = {
        "name": "tags",
        "data": choice(folder),
        "encoder": {"name": "text/transformer", "dim": 8, "depth": 1, "heads": 1},
        "generator": {"name": "diffusion/diffusion", "network": {"kind": "dit", "width": 8, "depth": 1, "heads": 1}},
        "fit": {"steps": 4, "batch_size": 4, "log_every": 1, "frozen": ["encoder/*"]},
        "sample": {"prompts": ["cat"], "options": {"steps": 1}},
        **changes,
    }
    path = tmp_path / "tags.yaml"
    path.write_text(yaml.safe_dump(content))
    return RunConfig.load(path)


@pytest.mark.slow
def test_a_run_with_a_frozen_encoder_resumes_exactly(folder: Path, tmp_path: Path) -> None:
    config, lines = configuration(folder, tmp_path), []
    run(config, tmp_path / "whole", log=lines.append)
    (line,) = [line for line in lines if "shuffle_tags" in line]
    assert line.startswith("encoder 'text/transformer' encodes the captions in every step")

    def interrupt(step: int, values: Any) -> None:
        if step == 2 and "loss" in values:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(RunInterruptedError):
        run(config, tmp_path / "parts", log=lines.append, on_metrics=lambda name, steps: interrupt)
    run(config, tmp_path / "parts", log=lines.append)
    whole, parts = (load_file(tmp_path / name / "model" / "weights.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(np.array_equal(whole[name], parts[name]) for name in whole)


def test_an_encoder_that_knows_only_whole_captions_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not one of the 8 classes"):
        check(configuration(folder, tmp_path, encoder="text/class", fit={"steps": 1, "batch_size": 2}))
