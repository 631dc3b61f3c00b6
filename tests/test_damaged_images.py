"""Images that are found damaged when they are read: the training stops, or the next example takes their place."""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Outcome
from gray_images import numbers
from kgen_plugin_superres.regression import Regression
from parts import MeanColor, Words
from PIL import Image

from kgen import DataError
from kgen.contracts.dataset import Problem
from kgen.contracts.inputs import AllEncoderInputs
from kgen.data import images
from kgen.data.datasets.imagefolder import ImageFolder
from kgen.data.encoded import images as encoded
from kgen.data.frozen.conditions import condition_reader
from kgen.data.frozen.filling import Filling
from kgen.data.frozen.latents import cached_latents
from kgen.data.frozen.stored import StoredRows
from kgen.data.loader import Loader
from kgen.testing import DatasetConformance

pytestmark = pytest.mark.portable

COUNT = 12
DAMAGED = (3, 4, 11)
"""Two neighbors and the last image, in whose place the first one is used."""

REPLACED = {3: 5, 4: 5, 11: 0}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[bytes]:
    """The files that were decoded. No file is read at the start, and kgen's cache is empty."""
    monkeypatch.setattr(encoded, "READ_AT_START", 0)
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path / "cache"))
    found: list[bytes] = []

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(data: bytes, *args: Any, **options: Any) -> Any:
            found.append(data)
            return function(data, *args, **options)

        return called

    for name in ("decode", "fitted"):
        monkeypatch.setattr(encoded, name, watched(getattr(images, name)))
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images in order; "image i" is gray of the value 20 i. They are an hour old."""
    path = tmp_path / "images"
    path.mkdir()
    for i in range(COUNT):
        Image.new("RGB", (16, 16), (20 * i,) * 3).save(path / f"{i:02}.png")
        if i in DAMAGED:
            (path / f"{i:02}.png").write_bytes((path / f"{i:02}.png").read_bytes()[:60])
        then = time.time() - 3600
        os.utime(path / f"{i:02}.png", (then, then))
    rows = [json.dumps({"file_name": f"{i:02}.png", "text": f"image {i}"}) for i in range(COUNT)]
    (path / "metadata.jsonl").write_text("\n".join(rows))
    return path


def opened(folder: Path, **options: Any) -> ImageFolder:
    return ImageFolder(path=str(folder), size=16, **{"on_error": "skip", **options})


class TestSkipping(DatasetConformance):
    @pytest.fixture(autouse=True)
    def _in(self, folder: Path, decoded: list[bytes]) -> None:
        self.folder = folder

    def build(self) -> ImageFolder:
        return opened(self.folder, holdout=("image 7",))

    def test_reading_is_thread_safe(self) -> None:
        """The conformance test compares captions by index, but those of damaged images are replaced."""
        dataset = self.build()
        pairs = {(numbers(e["image"][None])[0], e["caption"]) for e in (dataset.example("train", i) for i in range(11))}
        assert pairs == {(i, f"image {i}") for i in range(COUNT) if i not in (*DAMAGED, 7)}


def test_a_start_reads_no_image_and_says_so(folder: Path, decoded: list[bytes]) -> None:
    for policy, what in (("skip", "is skipped"), ("refuse", "stops the training")):
        dataset = opened(folder, on_error=policy)
        assert not decoded and len(dataset.captions("train")) == COUNT and not dataset.problems()
        (note,) = [line for line in dataset.notes() if "12 of 12 images are read for the first time" in line]
        assert f"A damaged one {what}" in note and "kgen data check" in note


@pytest.mark.parametrize("order", [range(COUNT), reversed(range(COUNT)), [11, 4, 3, *range(COUNT)]])
def test_the_next_example_takes_the_place(folder: Path, decoded: list[bytes], order: Any) -> None:
    dataset = opened(folder)
    before = dataset.fingerprint()
    for index in order:
        example, wanted = dataset.example("train", index), REPLACED.get(index, index)
        assert numbers(example["image"][None]) == [wanted] and example["caption"] == f"image {wanted}"
    assert sorted(problem.where for problem in dataset.problems()) == ["03.png", "04.png", "11.png"]
    assert all("damaged" in problem.what for problem in dataset.problems())
    assert dataset.fingerprint() == before and len(dataset.captions("train")) == COUNT


def test_mirror_images_are_replaced_by_mirror_images(folder: Path, decoded: list[bytes]) -> None:
    half = np.zeros((16, 16, 3), np.uint8)
    half[:, :8] = 200
    Image.fromarray(half).save(folder / "05.png")
    dataset = opened(folder, flip=True)
    np.testing.assert_array_equal(dataset.image("train", 3), half)
    np.testing.assert_array_equal(dataset.image("train", COUNT + 4), half[:, ::-1])
    assert dataset.replacement("train", COUNT + 4) == COUNT + 5
    assert dataset.example("train", COUNT + 11)["caption"] == "image 0"


@pytest.mark.parametrize("flip", [False, True])
def test_batches_keep_images_and_captions_together(folder: Path, decoded: list[bytes], flip: bool) -> None:
    """Batches do not depend on when an image is found to be damaged."""
    late, early = opened(folder), opened(folder)
    for index in range(COUNT):
        early.image("train", index)
    encoder = Words()
    encoder.adapt(late.captions("train"))
    read = [Loader(dataset, encoder, batch_size=4, flip=flip).training(seed=1) for dataset in (late, early)]
    seen: list[int] = []
    for one, other in zip(*(itertools.islice(iter(batches), 6) for batches in read), strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
        shown = numbers(one["image"])
        assert [encoder.words[token - 2] for token in one["tokens"]["id"]] == [f"image {i}" for i in shown]
        seen += shown
    assert set(seen) == set(range(COUNT)) - set(DAMAGED)


def test_a_damaged_image_stops_the_reading(folder: Path, decoded: list[bytes]) -> None:
    dataset = opened(folder, on_error="refuse")
    with pytest.raises(DataError, match=r"imagefolder: .*images/03\.png: the file is damaged.*on_error: skip"):
        dataset.image("train", 3)
    assert numbers(dataset.image("train", 5)[None]) == [5]


def test_a_split_without_any_good_image_is_an_error(folder: Path, decoded: list[bytes]) -> None:
    dataset = opened(folder, holdout=("image 3", "image 4"))
    with pytest.raises(DataError, match=r"all images of the split 'holdout' in .* are damaged"):
        dataset.image("holdout", 0)


def test_a_problem_from_another_process_is_known(folder: Path, decoded: list[bytes]) -> None:
    dataset = opened(folder)
    for _ in range(2):
        dataset.report(Problem("04.png", "it is damaged"))
    assert dataset.problems() == (Problem("04.png", "it is damaged"),)
    assert numbers(dataset.image("train", 4)[None]) == [5] and len(decoded) == 1
    with pytest.raises(DataError, match=r"04\.png: it is damaged"):
        opened(folder, on_error="refuse").report(Problem("04.png", "it is damaged"))


def test_cached_latents_are_those_of_the_replacement(folder: Path, decoded: list[bytes], tmp_path: Path) -> None:
    dataset = opened(folder)
    decoder = Regression(dataset.image_space, factor=4, width=4, blocks=1)
    decoder.build(None)
    for again in range(2):
        cache = cached_latents(decoder, dataset, "train", tmp_path / "latents")
        values = (cache.lookup(range(COUNT)).mean((1, 2, 3)) + 1) * 127.5 / 20
        np.testing.assert_allclose(values, [REPLACED.get(i, i) for i in range(COUNT)], atol=127.5 / 20 * 2**-11)
        encoder = Words()
        encoder.adapt(dataset.captions("train"))
        batch = next(iter(Loader(dataset, encoder, batch_size=COUNT, latents=cache).once()))
        words = [encoder.words[token - 2] for token in batch["tokens"]["id"]]
        assert words == [f"image {REPLACED.get(i, i)}" for i in range(COUNT)], f"opened again: {bool(again)}"
        dataset = opened(folder)  # which knows of no damaged image
    refusing = opened(folder, on_error="refuse")
    with pytest.raises(DataError, match=r"03\.png"):
        cached_latents(decoder, refusing, "train", tmp_path / "latents")


class Captioned(MeanColor):
    """The condition is the gray value of the image, and the number in the caption. The caption is read first."""

    fields = ("caption", "image")
    null: Any = {"caption": "", "image": None}  # noqa: RUF012

    def tokenize(self, inputs: Any) -> dict[str, np.ndarray]:
        named = [float(value["caption"].rpartition(" ")[2] or 0) for value in inputs]
        color = super().tokenize([value["image"] for value in inputs])["color"]
        return {"color": np.stack([color[:, 0], 20 * np.array(named, np.float32), color[:, 2]], 1)}


@pytest.mark.parametrize("devices", [1, 2])
def test_cached_conditions_are_those_of_the_replacement(
    folder: Path, decoded: list[bytes], tmp_path: Path, devices: int
) -> None:
    """With two devices, the cache is filled before any batch is read."""
    encoder = Captioned()
    encoder.null_condition()
    for _ in range(2):
        dataset = opened(folder)  # which knows of no damaged image
        inputs = AllEncoderInputs(dataset, encoder.fields)
        read = condition_reader(encoder, inputs, tmp_path, filling=Filling(devices=devices))
        for batch in Loader(dataset, encoder, batch_size=5, read=read).once():
            for found in batch["condition"]["pooled"].T[:2] * 255 / 20:
                np.testing.assert_allclose(found, numbers(batch["image"]), rtol=2**-8)  # bfloat16


def test_processes_that_share_a_cache_know_which_images_are_damaged(
    folder: Path, decoded: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes the place of an image is known before its latent can be read, also if the process is killed."""
    sets = [opened(folder) for _ in range(3)]
    decoder = Regression(sets[0].image_space, factor=4, width=4, blocks=1)
    decoder.build(None)
    caches = [cached_latents(decoder, each, "train", tmp_path / "latents", filling=Filling()) for each in sets[:2]]
    caches[0].lookup([3, 6])
    assert not sets[1].problems()
    number = (caches[1].lookup([3]).mean() + 1) * 127.5 / 20
    assert abs(number - 5) < 0.01 and sets[1].replacement("train", 3) == 5
    monkeypatch.setattr(StoredRows, "_write", None)
    with pytest.raises(TypeError):
        caches[0].lookup([11])
    cached_latents(decoder, sets[2], "train", tmp_path / "latents", filling=Filling())
    assert sorted(problem.where for problem in sets[2].problems()) == ["03.png", "04.png", "11.png"]


# kgen data check, and kgen run


@pytest.fixture
def config(folder: Path, tmp_path: Path, toy: None) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(
        f"data: {{name: imagefolder, path: {folder}, size: 16}}\nencoder: letters\ngenerator: toy/means\n"
        "fit: {steps: 12, batch_size: 1, warmup_steps: 0, learning_rate: 0.05}\nevaluate: {metrics: [brightness]}\n"
    )
    return path


def test_data_check_reads_every_image(
    config: Path, folder: Path, decoded: list[bytes], kgen: Callable[..., Outcome]
) -> None:
    refused = kgen("data", "check", config)
    assert refused.status == 2 and refused.err.startswith("error: imagefolder: 3 problems in") and not decoded[COUNT:]
    assert "03.png: the file is damaged" in refused.err and "on_error: skip" in refused.err
    done = kgen("data", "check", config, "--set", "data.on_error=skip")
    assert done.status == 0 and "skipped 11.png: the file is damaged" in done.out
    assert "data: every image was read, and 3 are skipped" in done.out
    assert len(decoded) == COUNT + 3, "only the damaged images are read again"
    for number in DAMAGED:
        Image.new("RGB", (16, 16)).save(folder / f"{number:02}.png")
    assert "data: every image was read, and all are good" in kgen("data", "check", config).out


def test_data_check_reads_the_images_of_every_stage(
    config: Path, folder: Path, decoded: list[bytes], kgen: Callable[..., Outcome]
) -> None:
    """Encoder and decoder may have separate data, which their configuration names."""
    own = f"{{name: imagefolder, path: {folder}, size: 16, on_error: skip}}"
    encoder = f"encoder={{name: clip/clip, image: {{kind: vit, size: 16}}, fit: {{steps: 1}}, data: {own}}}"
    decoder = f"decoder={{name: codecs/kl-autoencoder, fit: {{steps: 1}}, data: {own}}}"
    changed = ("data={name: shapes, size: 16}", encoder, decoder)
    done = kgen("data", "check", config, *(part for setting in changed for part in ("--set", setting)))
    assert done.status == 0, done.err
    for stage in ("encoder.data", "decoder.data"):
        assert f"{stage}: every image was read, and 3 are skipped" in done.out


def test_a_run_stops_with_a_checkpoint(
    config: Path, folder: Path, decoded: list[bytes], tmp_path: Path, kgen: Callable[..., Outcome]
) -> None:
    """The user may then decide to skip damaged images, and the training continues."""
    for good in (3, 11):
        Image.new("RGB", (16, 16), (20 * good,) * 3).save(folder / f"{good:02}.png")
    out = tmp_path / "run"
    refused = kgen("run", config, "--out", out)
    assert refused.status == 2 and "04.png: the file is damaged" in refused.err
    assert re.search(r"The checkpoint of step \d+ is saved: fix this, and continue", refused.err)
    done = kgen("run", config, "--out", out, "--set", "data.on_error=skip")
    assert done.status == 0 and "changed since the run began: data.on_error: 'refuse' there, 'skip' now" in done.out
    assert "skipped 04.png: the file is damaged" in done.out


def test_a_run_lists_what_it_skipped(
    config: Path, decoded: list[bytes], tmp_path: Path, kgen: Callable[..., Outcome]
) -> None:
    out = tmp_path / "run"
    done = kgen("run", config, "--out", out, "--set", "data.on_error=skip", "--set", "fit.steps=24")
    assert done.status == 0, done.err
    skipped = json.loads((out / "manifest.json").read_text())["data"]["skipped"]
    assert sorted(line.split(":")[0] for line in skipped) == ["03.png", "04.png", "11.png"]
    assert "skipped 03.png: the file is damaged" in done.out
    assert "03.png: the file is damaged" in (out / "report.html").read_text()
