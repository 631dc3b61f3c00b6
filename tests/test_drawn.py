"""An image has several captions and crops, and training picks one at random each time it uses the image."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops
from kgen_plugin_superres.regression import Regression
from parts import MeanColor, Words
from PIL import Image

from kgen import ConditionSpace, DataError, make_dataset
from kgen.contracts.encoder import Encoder
from kgen.contracts.inputs import AllEncoderInputs, training_inputs
from kgen.data.datasets.imagefolder import ImageFolder
from kgen.data.frozen.conditions import condition_reader
from kgen.data.frozen.latents import cached_latents
from kgen.data.loader import Loader
from kgen.data.reading.workers import Workers
from kgen.testing import DatasetConformance

pytestmark = pytest.mark.portable

COLORS = {"left": 30, "middle": 120, "right": 210}
"""The gray values of the three parts of each image."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five wide images of three parts; image i has the captions "i a", "i b" and "i c"; a sixth is for validation."""
    rows = []
    path = tmp_path / "images"
    path.mkdir()
    for number in range(6):
        pixels = np.zeros((16, 48, 3), np.uint8)
        for part, value in enumerate(COLORS.values()):
            pixels[:, 16 * part : 16 * (part + 1)] = value + number
        Image.fromarray(pixels).save(path / f"{number}.png")
        split = {"split": "train" if number < 5 else "validation"}
        rows += [{"file_name": f"{number}.png", "text": f"{number} {letter}", **split} for letter in "abc"]
    (path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path


def opened(folder: Path, **options: Any) -> ImageFolder:
    return ImageFolder(path=str(folder), size=16, **{"crops": 3, "draw_captions": True, **options})


def adapted(dataset: Any) -> Words:
    encoder = Words()
    encoder.adapt(training_inputs(dataset, encoder))
    return encoder


def drawn(loader: Loader, encoder: Words, count: int, start: int = 0) -> list[tuple[int, str, str]]:
    """The number, part and caption of each example of some batches."""
    found = []
    for batch in itertools.islice(iter(loader.training(start=start, seed=2)), count):
        for image, token in zip(batch["image"], batch["tokens"]["id"], strict=True):
            assert image.min() == image.max(), "a crop is one of the three parts"
            part = min(COLORS, key=lambda name: abs(COLORS[name] - 2 - int(image[0, 0, 0])))
            found.append((int(image[0, 0, 0]) - COLORS[part], part, encoder.words[token - 2]))
    return found


class TestDrawn(DatasetConformance):
    @pytest.fixture(autouse=True)
    def _in(self, folder: Path) -> None:
        self.folder = folder

    def build(self) -> ImageFolder:
        return opened(self.folder)


def test_views_are_evenly_spaced_crops(folder: Path) -> None:
    dataset = opened(folder)
    assert dataset.views == 3 and len(dataset.captions("train")) == 5
    for index in range(5):
        views = [int(dataset.view("train", index, view)[8, 8, 0]) - index for view in range(3)]
        assert views == list(COLORS.values())
        assert int(dataset.image("train", index)[8, 8, 0]) - index == COLORS["middle"]
    two = opened(folder, crops=2)
    assert [int(two.view("train", 0, view)[8, 8, 0]) for view in range(2)] == [COLORS["left"], COLORS["right"]]


def test_everything_but_training_reads_the_first_caption_and_the_middle(folder: Path) -> None:
    dataset = opened(folder)
    assert list(dataset.captions("train")) == [f"{number} a" for number in range(5)]
    assert list(dataset.texts("train", 3)) == ["3 a", "3 b", "3 c"]
    (batch,) = Loader(dataset, adapted(dataset), batch_size=4, split="validation").once()
    assert int(batch["image"][0, 8, 8, 0]) == COLORS["middle"] + 5
    assert dataset.captions("validation") == ["5 a"]


def test_training_draws_evenly_and_keeps_images_and_captions_together(folder: Path) -> None:
    dataset = opened(folder)
    encoder = adapted(dataset)
    assert len(encoder.words) == 15, "the encoder learns every caption"
    visits = drawn(Loader(dataset, encoder, batch_size=5), encoder, 180)
    for pass_ in range(0, 900, 5):
        assert sorted(number for number, _, _ in visits[pass_ : pass_ + 5]) == list(range(5))
    assert all(caption.startswith(f"{number} ") for number, _, caption in visits)
    for counts in (Counter(part for _, part, _ in visits), Counter(caption[-1] for *_, caption in visits)):
        assert len(counts) == 3 and all(abs(count - 300) < 60 for count in counts.values()), counts  # 4 deviations
    pairs = Counter((part, caption[-1]) for _, part, caption in visits)
    assert len(pairs) == 9 and all(abs(count - 100) < 40 for count in pairs.values()), "drawn independently"


def test_draws_do_not_depend_on_the_process_that_reads(folder: Path) -> None:
    dataset = opened(folder)
    encoder = adapted(dataset)
    whole = drawn(Loader(dataset, encoder, batch_size=2), encoder, 20)
    assert drawn(Loader(dataset, encoder, batch_size=2), encoder, 7, start=13) == whole[26:]
    halves = [drawn(Loader(dataset, encoder, batch_size=2, shard=n, shards=2), encoder, 20) for n in range(2)]
    assert list(itertools.chain(*zip(*halves, strict=True))) == whole
    workers = Workers(dataset, 2)
    try:
        assert drawn(Loader(dataset, encoder, batch_size=2, workers=workers), encoder, 20) == whole
    finally:
        workers.close()


@pytest.mark.parametrize("flip", [False, True])
def test_cached_latents_hold_every_view(folder: Path, tmp_path: Path, flip: bool) -> None:
    dataset = opened(folder)
    decoder = Regression(dataset.image_space, factor=4, width=4, blocks=1)
    decoder.build(None)
    cache = cached_latents(decoder, dataset, "train", tmp_path / "cache", flip=flip, views=3)
    assert len(cache) == (30 if flip else 15)
    encoder = adapted(dataset)
    images, latents = (
        itertools.islice(Loader(dataset, encoder, batch_size=4, flip=flip, latents=kept).training(seed=3), 8)
        for kept in (None, cache)
    )
    for one, other in zip(images, latents, strict=True):
        values = one["image"].mean((1, 2, 3)) / 127.5 - 1
        np.testing.assert_allclose(other["latent"].mean((1, 2, 3)), values, 2**-11, 1e-5)  # float16
        np.testing.assert_array_equal(one["tokens"]["id"], other["tokens"]["id"])


def test_cached_conditions_hold_every_caption(folder: Path, tmp_path: Path) -> None:
    dataset = opened(folder)
    encoder = adapted(dataset)
    tokens = encoder.tokenize([""])
    encoder(tokens)
    encoder.trainable = False
    read = condition_reader(encoder, AllEncoderInputs(dataset, encoder.fields), tmp_path)
    batch = next(iter(Loader(dataset, encoder, batch_size=10, read=read).training()))
    assert set(batch) == {"image", "condition"} and batch["condition"]["pooled"].shape == (10, 8)
    assert len(np.unique(batch["condition"]["pooled"], axis=0)) > 5, "captions other than the first are drawn"


@pytest.mark.parametrize("flip", [False, True])
def test_cached_conditions_hold_every_view(folder: Path, tmp_path: Path, flip: bool) -> None:
    """A frozen encoder that reads the image reads the crop that training uses."""
    dataset, encoder = opened(folder), MeanColor()
    encoder.null_condition()  # creates its weight
    read = condition_reader(encoder, AllEncoderInputs(dataset, encoder.fields, flip=flip), tmp_path)
    for batch in itertools.islice(iter(Loader(dataset, encoder, batch_size=10, read=read, flip=flip).training()), 6):
        colors = batch["image"].mean((1, 2)) / 255
        np.testing.assert_allclose(batch["condition"]["pooled"], colors, rtol=2**-8)  # bfloat16


class Both(Encoder):
    """Reads the caption and the image; the tokens are the caption's letter and the image's gray value."""

    fields = ("caption", "image")
    null: Any = {"caption": "", "image": None}  # noqa: RUF012

    def tokenize(self, inputs: Any) -> dict[str, np.ndarray]:
        letters = [ord(value["caption"][-1]) for value in inputs]
        grays = [int(value["image"][8, 8, 0]) for value in inputs]
        return {"id": np.stack([letters, grays], 1)}


def test_an_encoder_of_several_fields_sees_the_drawn_ones(folder: Path) -> None:
    dataset = opened(folder)
    letters, parts = set(), set()
    for batch in itertools.islice(iter(Loader(dataset, Both(), batch_size=5).training()), 6):
        np.testing.assert_array_equal(batch["tokens"]["id"][:, 1], batch["image"][:, 8, 8, 0])
        letters |= set(map(chr, batch["tokens"]["id"][:, 0]))
        parts |= {int(value) // 90 for value in batch["tokens"]["id"][:, 1]}
    assert letters == set("abc") and parts == {0, 1, 2}
    assert len(training_inputs(dataset, Both())) == 15
    assert len(AllEncoderInputs(dataset, Both.fields, flip=True)) == 2 * 15 * 3 + 1


class Frozen(Both):
    """Its condition is its tokens."""

    @property
    def condition_space(self) -> ConditionSpace:
        return ConditionSpace(1, 2)

    def tokenize(self, inputs: Any) -> dict[str, np.ndarray]:
        given = [{"caption": "0", "image": np.zeros((9, 9, 1))} if i == Both.null else i for i in inputs]
        return super().tokenize(given)

    def build(self, input_shape: Any) -> None:
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")
        self.trainable = False

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        pooled = ops.cast(tokens["id"], "float32") * self.scale
        return {"sequence": pooled[:, None], "mask": ops.ones_like(pooled[:, :1]), "pooled": pooled}


@pytest.mark.parametrize("flip", [False, True])
def test_cached_conditions_are_those_of_the_drawn_fields(folder: Path, tmp_path: Path, flip: bool) -> None:
    """Also where nothing is drawn."""
    dataset, encoder = opened(folder), Frozen()
    encoder.null_condition()
    read = condition_reader(encoder, AllEncoderInputs(dataset, encoder.fields, flip=flip), tmp_path)
    plain, cached = (Loader(dataset, encoder, batch_size=4, flip=flip, read=each) for each in (None, read))
    for batches in (lambda loader: loader.training(seed=2), Loader.once):
        pairs = zip(batches(plain), batches(cached), strict=False)
        for one, other in itertools.islice(pairs, 12):
            np.testing.assert_allclose(other["condition"]["pooled"], one["tokens"]["id"], rtol=2**-8)  # bfloat16


def test_a_mixture_draws_too(folder: Path) -> None:
    choices = [
        {
            "name": "imagefolder",
            "path": str(folder),
            "size": 16,
            "crops": crops,
            "draw_captions": crops == 3,
            "weight": 1,
        }
        for crops in (2, 3)
    ]
    mixed = make_dataset({"name": "mixture", "datasets": choices})
    assert mixed.views == 6 and len(mixed.captions("train")) == 15 + 5
    encoder = adapted(mixed)
    visits = drawn(Loader(mixed, encoder, batch_size=2), encoder, 300)
    second, first = visits[::2], visits[1::2]
    assert {part for _, part, _ in first} == {"left", "right"} and {part for _, part, _ in second} == set(COLORS)
    counts = Counter(part for _, part, _ in second)
    assert all(abs(count - 100) < 40 for count in counts.values()), counts


def test_the_fingerprint_follows_every_caption(folder: Path) -> None:
    before = opened(folder)
    table = folder / "metadata.jsonl"
    table.write_text(table.read_text().replace("3 b", "3 d"))
    after = opened(folder)
    assert after.captions("train") == before.captions("train")
    assert after.fingerprint() != before.fingerprint()
    assert after.inventory()["3.png"] != before.inventory()["3.png"]


def test_crops_need_images_that_are_cropped(folder: Path) -> None:
    with pytest.raises(DataError, match="crops: 3 needs resize: crop or bucket, not pad"):
        opened(folder, resize="pad")
