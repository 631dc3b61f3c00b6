"""Datasets of Hugging Face: what is read (compared with the package datasets), and what is refused."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Outcome
from gray_images import numbers, png, shown
from parts import Words

from kgen import DataError
from kgen.contracts.dataset import Dataset
from kgen.data.datasets.huggingface import HuggingFace
from kgen.data.datasets.table.arrow_file import ArrowFile
from kgen.data.loader import Loader
from kgen.data.reading.workers import make_workers
from kgen.testing import DatasetConformance

pa = pytest.importorskip("pyarrow")

pytestmark = pytest.mark.portable

COUNT = 12
TEXTS = [f"image {i}" for i in range(COUNT)]


def stored(numbers: Sequence[int] = range(COUNT)) -> list[dict[str, Any] | None]:
    return [{"bytes": png(i), "path": None} for i in numbers]


def save(folder: Path, *parts: dict[str, Any], rows: int = 5, options: Any = None) -> Path:
    """Writes a dataset as `save_to_disk` does: a file for each part, with batches of some rows."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data-{i:05}-of-{len(parts):05}.arrow" for i in range(len(parts))]
    for name, columns in zip(names, parts, strict=True):
        table = pa.table(columns)
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema, options=options) as out:
            out.write_table(table, max_chunksize=rows)
        os.utime(folder / name, (time.time() - 3600,) * 2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder


def save_dict(folder: Path, **splits: dict[str, Any]) -> Path:
    for name, columns in splits.items():
        save(folder / name, columns)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return folder


def some(*numbers: int) -> dict[str, Any]:
    return {"image": stored(numbers), "text": [f"image {i}" for i in numbers]}


def opened(path: Path, **options: Any) -> HuggingFace:
    return HuggingFace(path=str(path), size=16, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images in order, in two files."""
    return save(tmp_path / "set", some(*range(7)), some(*range(7, COUNT)))


class TestHuggingFace(DatasetConformance):
    @pytest.fixture(autouse=True)
    def _in(self, folder: Path) -> None:
        self.folder = folder

    def build(self) -> Dataset:
        return opened(self.folder, validation=0.25, holdout=("image 3",), flip=True)


# What is read


def test_files_and_batches_in_order(folder: Path) -> None:
    assert shown(opened(folder)) == list(enumerate(TEXTS))


def test_splits(tmp_path: Path) -> None:
    dataset = opened(save_dict(tmp_path / "set", train=some(1, 2), validation=some(3), test=some(4)))
    assert shown(dataset) == [(1, "image 1"), (2, "image 2")]
    assert shown(dataset, "validation") == [(3, "image 3"), (4, "image 4")]
    assert shown(opened(tmp_path / "set" / "test")) == [(4, "image 4")]
    assert shown(opened(save_dict(tmp_path / "one", all=some(5)))) == [(5, "image 5")]


@pytest.mark.parametrize("kind", ["binary", "large_binary", "struct"])
def test_every_value_is_that_of_pyarrow(tmp_path: Path, kind: str) -> None:
    """With nulls at three levels, batches without any value, and a slice of a table."""
    values = [None if i % 3 == 1 or 20 <= i < 30 else bytes([i]) * (i % 5) for i in range(60)]
    column: Any = pa.array(values, pa.large_binary() if kind == "large_binary" else pa.binary())
    if kind == "struct":
        made = [None if v is None and i % 2 else {"bytes": v, "path": f"{i}"} for i, v in enumerate(values)]
        column = pa.array(made, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    name = save(tmp_path, {"image": column[3:]}, rows=10) / "data-00000-of-00001.arrow"
    file = ArrowFile(name, "data", "hf")
    file.use("image")
    file.close()
    assert [file.image(row) for row in reversed(range(57))] == values[:2:-1]
    if kind == "struct":
        paths = [value and value["path"] for value in column.to_pylist()]
        assert [file.image_path(row) for row in range(57)] == paths[3:]


def test_images_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    made = [{"bytes": None, "path": str(tmp_path / "1.png")}, {"bytes": None, "path": "../1.png"}]
    column = pa.array(made, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    assert shown(opened(save(tmp_path / "set", {"image": column, "text": ["a", "b"]}))) == [(1, "a"), (1, "b")]


def test_a_dataset_can_be_pickled(folder: Path) -> None:
    data = pickle.dumps(opened(folder))
    assert len(data) < 20_000 and shown(pickle.loads(data)) == list(enumerate(TEXTS))


def test_a_resume_in_the_middle_of_a_pass_gives_the_same_batches_with_two_workers(folder: Path) -> None:
    encoder = Words()
    encoder.adapt(TEXTS)

    def batches(start: int, count: int, processes: int) -> list[Any]:
        dataset = opened(folder)
        loader = Loader(dataset, encoder, batch_size=5, workers=make_workers(dataset, processes))
        found = list(itertools.islice(iter(loader.training(start=start, seed=3)), count))
        loader.close()
        return found

    for one, other in zip(batches(0, 6, 0)[4:], batches(4, 2, 2), strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["tokens"]["id"], other["tokens"]["id"])
        words = [encoder.words[token - 2] for token in one["tokens"]["id"]]
        assert words == [f"image {i}" for i in numbers(one["image"])]


# The package datasets, as an independent reference


def test_what_the_package_datasets_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    from kgen.data.datasets.parquet import Parquet

    datasets.disable_progress_bars()
    kinds = {"picture": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "tabby_dog"])}
    kinds["titles"] = datasets.Sequence(datasets.Value("string"))
    rows = {
        "picture": stored(),
        "label": [i % 2 for i in range(COUNT)],
        "titles": [[f"image {i}"] for i in range(COUNT)],
    }
    whole = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    whole = whole.shuffle(seed=1)
    both = datasets.DatasetDict({"train": whole.select(range(9)), "test": whole.select(range(9, COUNT))})
    both.save_to_disk(tmp_path / "saved", num_shards={"train": 2, "test": 1})
    for split, part in both.items():
        part.to_parquet(tmp_path / "parquet" / f"{split}-00000-of-00001.parquet", batch_size=4)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    cached = datasets.load_dataset(str(tmp_path / "parquet"), cache_dir=str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "load_dataset", lambda name: cached)  # there is no network
    again = datasets.load_from_disk(tmp_path / "saved")
    options: Any = {"size": 16, "caption_key": "titles"}
    for dataset in (
        HuggingFace(path=str(tmp_path / "saved"), **options),
        HuggingFace(path="someone/something", **options),
        Parquet(path=str(tmp_path / "parquet"), **options),
    ):
        for split, name in (("train", "train"), ("validation", "test")):
            expected = [(np.asarray(row["picture"])[0, 0, 0] // 20, row["titles"][0]) for row in again[name]]
            assert shown(dataset, split) == expected, dataset
            labels = [("cat", "tabby dog")[row["label"]] for row in again[name]]
            assert list(dataset.values(split, "label")) == labels


# What is refused


def test_damaged_files(folder: Path) -> None:
    path = folder / "data-00001-of-00002.arrow"
    data = path.read_bytes()
    damaged = r"is damaged, or not a file of the package datasets"
    for content, message in (
        (data[:-8], "is truncated"),
        (data[: len(data) // 2] + b"\0" * 4, damaged),
        (b"", "is empty"),
        (b"x" * 99 + b"\0" * 4, damaged),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"hf: .*data-00001-of-00002\.arrow {message}"):
            opened(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"data-00001-of-00002\.arrow cannot be read: No such file"):
        opened(folder)


def test_damaged_offsets_are_found_when_they_are_read(folder: Path) -> None:
    name = folder / "data-00000-of-00002.arrow"
    file = ArrowFile(name, "data", "hf")
    file.use("image")
    where = file._images[1].offsets
    with name.open("r+b") as stream:
        stream.seek(where + 4)
        stream.write((2**30).to_bytes(4, "little"))
    dataset = opened(folder, on_error="skip")
    assert [problem.where for problem in dataset.problems()] == [f"{name.name}:{row}" for row in (5, 6)]
    assert [number for number, _ in shown(dataset)] == [0, 1, 2, 3, 4, *range(7, COUNT)]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no images": ({"id": [1], "text": ["a"]}, r"arrow has no column of images.*it has 'id' and 'text'"),
    "no captions": ({"image": stored([1])}, r"arrow holds no captions: .*no other column.*template: an image"),
    "two images": ({"a": stored([1]), "b": stored([1]), "text": ["a"]}, r"set image_key to 'a' or 'b'"),
    "a null image": ({"image": [None, *stored([1])], "text": ["a", "b"]}, r"arrow:0: there is no image: it is null"),
    "a null caption": ({"image": stored([1, 2]), "text": ["a", None]}, r"arrow:1: its caption 'text' is empty"),
    "no rows": ({"image": pa.array([], pa.binary()), "text": pa.array([], pa.string())}, "holds no rows"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused(tmp_path: Path, case: str) -> None:
    columns, message = REFUSED[case]
    with pytest.raises(DataError, match=rf"(?s)^hf: .*{message}"):
        opened(save(tmp_path, columns))


def test_a_file_that_changes_while_it_is_used(folder: Path) -> None:
    dataset = opened(folder)
    save(folder, some(*range(6)), some(7))
    with pytest.raises(DataError, match=r"data-00000-of-00002\.arrow was changed: files must stay as they are"):
        dataset.image("train", 0)


def test_compressed_files(tmp_path: Path) -> None:
    save(tmp_path, some(*range(COUNT)), options=pa.ipc.IpcWriteOptions(compression="zstd"))
    with pytest.raises(DataError, match=r"hf: .*arrow is compressed: save it with the method save_to_disk"):
        opened(tmp_path)


def test_folders_of_another_kind(tmp_path: Path) -> None:
    inner = save(tmp_path / "outer" / "inner", some(1))
    with pytest.raises(DataError, match=rf"hf: .*neither dataset_dict\.json nor state\.json, but {inner} does"):
        opened(tmp_path / "outer")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.parquet").touch()
    with pytest.raises(DataError, match=r"It holds Parquet files: data: \{name: parquet, path: '.*data'\}"):
        opened(tmp_path / "data")
    for path, message in ((tmp_path / "no", "no does not exist"), (inner / "state.json", "is not a folder")):
        with pytest.raises(DataError, match=message):
            opened(path)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (["train", "extra"], "has the splits train, extra, of which kgen does not know 'extra'"),
        (["test", "validation"], "has no split 'train', but test, validation"),
        ([], "names no splits"),
    ],
)
def test_unclear_splits(tmp_path: Path, splits: list[str], message: str) -> None:
    save_dict(tmp_path, **{name: some(1) for name in splits})
    with pytest.raises(DataError, match=f"hf: .*{message}"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("{", r"state\.json is not JSON"),
        ("[]", r"state\.json is not a JSON object"),
        ("{}", r"state\.json does not name the files"),
        ('{"_data_files": [{"filename": "../a.arrow"}]}', "which is outside the folder"),
        ('{"_data_files": [], "_indices_data_files": [{"filename": "i"}]}', "flatten_indices"),
    ],
)
def test_damaged_descriptions(folder: Path, state: str, message: str) -> None:
    (folder / "state.json").write_text(state)
    with pytest.raises(DataError, match=f"hf: .*{message}"):
        opened(folder)


def test_a_name_on_the_hub_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"kgen-core\[hf\].*huggingface-cli download user/name --repo-type dataset"):
        HuggingFace(path="user/name")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"hf: pyarrow is not installed .*pip install 'kgen-core\[parquet\]'"):
        HuggingFace(path="user/name")


def test_check_and_data_check(folder: Path, tmp_path: Path, toy: None, kgen: Callable[..., Outcome]) -> None:
    save(folder, {"image": [*stored(range(3)), None], "text": TEXTS[:4]})
    config = tmp_path / "run.yaml"
    config.write_text(
        f"data: {{name: hf, path: {folder}, size: 16}}\nencoder: letters\ngenerator: toy/means\n"
        "fit: {steps: 12, batch_size: 1, warmup_steps: 0, learning_rate: 0.05}\nevaluate: {metrics: [brightness]}\n"
    )
    refused = kgen("data", "check", config)
    assert refused.status == 2 and refused.err.startswith("error: hf: 1 problem in")
    assert "data-00000-of-00001.arrow:3: there is no image: it is null" in refused.err
    done = kgen("data", "check", config, "--set", "data.on_error=skip")
    assert done.status == 0 and "skipped data-00000-of-00001.arrow:3" in done.out
    assert kgen("check", config, "--set", "data.on_error=skip").status == 0
