"""Images in Parquet files: what is read, and what is refused with a message that names the file."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import random
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
from kgen.data.datasets.parquet import Parquet
from kgen.data.datasets.table import parquet_file
from kgen.data.datasets.table.parquet_file import ParquetFile
from kgen.data.encoded import images as encoded
from kgen.data.loader import Loader
from kgen.data.reading.workers import make_workers
from kgen.testing import DatasetConformance

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

pytestmark = pytest.mark.portable

COUNT = 12
TEXTS = [f"image {i}" for i in range(COUNT)]
OLD = time.time() - 3600


def stored(numbers: Sequence[int] = range(COUNT)) -> list[dict[str, Any]]:
    """A column of images, as Hugging Face stores them."""
    return [{"bytes": png(i), "path": f"{i}.png"} for i in numbers]


def features(**kinds: dict[str, Any]) -> dict[bytes, bytes]:
    return {b"huggingface": json.dumps({"info": {"features": kinds}}).encode()}


def write(path: Path, metadata: dict[bytes, bytes] | None = None, options: Any = None, **columns: Any) -> Path:
    """Writes a table that is an hour old."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, **(options or {}))
    os.utime(path, (OLD, OLD))
    return path


def opened(path: Path, **options: Any) -> Parquet:
    return Parquet(path=str(path), size=16, **options)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Twelve images in order, in row groups of five."""
    return write(tmp_path / "data.parquet", options={"row_group_size": 5}, image=stored(), text=TEXTS)


class TestParquet(DatasetConformance):
    @pytest.fixture(autouse=True)
    def _in(self, tmp_path: Path, table: Path) -> None:
        self.folder = tmp_path

    def build(self) -> Dataset:
        return opened(self.folder, validation=0.25, holdout=("image 3",), flip=True)


# What is read


@pytest.mark.parametrize("form", ["struct", "bytes", "large bytes", "bytes alone"])
def test_images_and_captions(tmp_path: Path, form: str) -> None:
    made = {
        "struct": stored(),
        "bytes": [png(i) for i in range(COUNT)],
        "large bytes": pa.array([png(i) for i in range(COUNT)], pa.large_binary()),
        "bytes alone": [{"bytes": png(i)} for i in range(COUNT)],
    }
    dataset = opened(write(tmp_path / "data.parquet", id=list(range(COUNT)), picture=made[form], text=TEXTS))
    assert shown(dataset) == list(enumerate(TEXTS)) and dataset.fields == ("image", "caption")
    assert any("images are from the column 'picture', captions are from 'text'" in note for note in dataset.notes())


def test_several_captions_make_several_examples(tmp_path: Path) -> None:
    captions = [["a  cat", "a pet", "a cat"], ["a dog"]]
    dataset = opened(write(tmp_path / "data.parquet", image=stored([1, 2]), captions=captions))
    assert shown(dataset) == [(1, "a cat"), (1, "a pet"), (2, "a dog")]
    drawn = opened(tmp_path, draw_captions=True)
    assert shown(drawn) == [(1, "a cat"), (2, "a dog")] and list(drawn.texts("train", 0)) == ["a cat", "a pet"]


LABELED = features(image={"_type": "Image"}, label={"_type": "ClassLabel", "names": ["tabby_cat", "dog"]})


def test_labels_are_captions_if_there_are_no_others(tmp_path: Path) -> None:
    path = write(tmp_path / "data.parquet", LABELED, image=stored([1, 2, 3]), label=[1, 0, 1])
    dataset = opened(path, template="a photo of a {label}")
    assert shown(dataset) == [(1, "a photo of a dog"), (2, "a photo of a tabby cat"), (3, "a photo of a dog")]
    assert list(dataset.values("train", "label")) == ["dog", "tabby cat", "dog"]
    assert dataset.example("train", 1)["label"] == "tabby cat"
    same = opened(path, template="an image")
    assert list(same.captions("train")) == ["an image"] * 3 and same.fields == ("image", "caption", "label")


def test_labels_beside_captions_are_a_field(tmp_path: Path) -> None:
    path = write(tmp_path / "data.parquet", LABELED, image=stored([1, 2]), label=[1, 0], text=["one", "two"])
    dataset = opened(path, template="a {label}")
    assert shown(dataset) == [(1, "one"), (2, "two")] and list(dataset.values("train", "label")) == ["dog", "tabby cat"]
    assert any("template is not used" in note for note in dataset.notes())
    assert list(opened(path, caption_key="label").captions("train")) == ["dog", "tabby cat"]


def test_labels_without_names_and_labels_of_text(tmp_path: Path) -> None:
    path = write(tmp_path / "data.parquet", image=stored([1, 2]), label=[7, 0])
    assert shown(opened(path)) == [(1, "7"), (2, "0")]
    path = write(tmp_path / "text.parquet", image=stored([1, 2]), label=["red_fox", "dog"])
    assert shown(opened(path)) == [(1, "red fox"), (2, "dog")]
    path = write(tmp_path / "none.parquet", image=stored([1, 2]))
    assert shown(opened(path, template="an image")) == [(1, "an image"), (2, "an image")]


def test_a_label_that_names_no_class(tmp_path: Path) -> None:
    path = write(tmp_path / "data.parquet", LABELED, image=stored(range(4)), label=[1, -1, 2, None])
    with pytest.raises(DataError, match=r"3 problems in .*\n.*parquet:1: its 'label' is -1, which names no class"):
        opened(path)
    assert shown(opened(path, on_error="skip")) == [(0, "dog")]


def test_an_image_may_be_a_file_beside_the_table(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/1.png").write_bytes(png(1))
    column = [{"bytes": None, "path": "pictures/1.png"}, {"bytes": None, "path": "gone.png"}, *stored([2])]
    path = write(tmp_path / "data.parquet", image=column, text=["a", "b", "c"])
    with pytest.raises(DataError, match=r"data\.parquet:1: it names the image gone\.png, which does not exist"):
        opened(path)
    assert shown(opened(path, on_error="skip")) == [(1, "a"), (2, "c")]


# Splits


def parts(root: Path, **files: Sequence[int]) -> Path:
    for name, shown_there in files.items():
        name = name.replace("__", "/").replace("_of_", "-of-").replace("_0", "-0")
        write(root / f"{name}.parquet", image=stored(shown_there), text=[f"image {i}" for i in shown_there])
    return root


def splits(dataset: Dataset) -> tuple[list[int], list[int]]:
    train, validation = ([n for n, _ in shown(dataset, split)] for split in ("train", "validation"))
    return train, validation


@pytest.mark.parametrize(
    "files",
    [
        {"data__train_00000_of_00002": [1, 2], "data__train_00001_of_00002": [3], "data__test_00000_of_00001": [4]},
        {"train": [1, 2, 3], "validation": [4]},
        {"default__train__0000": [1, 2], "default__train__0001": [3], "default__test__0000": [4]},
        {"mnist-train": [1, 2, 3], "mnist-test": [4]},
    ],
)
def test_splits_are_named_by_files_or_folders(tmp_path: Path, files: dict[str, list[int]]) -> None:
    dataset = opened(parts(tmp_path / "set", **files))
    assert splits(dataset) == ([1, 2, 3], [4])
    assert any("3 images in" in note and "for training, and 1 image in 1 file for" in note for note in dataset.notes())


def test_files_without_a_split_are_for_training(tmp_path: Path) -> None:
    assert splits(opened(parts(tmp_path / "set", a=[2], b__part_0=[3], a_1=[1]))) == ([2, 1, 3], [])


def test_a_pattern_or_a_file_chooses_what_to_train_on(tmp_path: Path) -> None:
    root = parts(tmp_path / "set", en__train_0=[1], fr__train_0=[2], en__test_0=[3])
    assert splits(opened(root / "*" / "train*")) == ([1, 2], [])
    assert splits(opened(root / "en" / "*.parquet")) == ([1], [3])
    assert splits(opened(root / "**" / "test*.parquet")) == ([3], [])
    assert splits(opened(root / "en" / "test-0.parquet")) == ([3], [])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train": [1], "more": [2]}, r"set: 'more\.parquet' is in no split, but 'train\.parquet' is\. Rename"),
        ({"test": [1]}, r"holds only validation images|holds only validation files, such as test\.parquet"),
        ({"en__train": [1], "fr__train": [2]}, r"several sets of files, in 'en', 'fr'"),
    ],
)
def test_unclear_splits_are_refused(tmp_path: Path, files: dict[str, list[int]], message: str) -> None:
    with pytest.raises(DataError, match=f"parquet: .*{message}"):
        opened(parts(tmp_path / "set", **files))


# Random access, compared with pyarrow


def random_values(count: int, nulls: bool, repeated: bool) -> list[bytes | None]:
    draw = random.Random(count)
    made = [draw.randbytes(draw.choice([0, 1, 40, 3000])) for _ in range(5 if repeated else count)]
    return [None if nulls and draw.random() < 0.2 else made[i % len(made)] for i in range(count)]


LAYOUTS: list[dict[str, Any]] = [
    {},
    {"compression": "none"},
    {"compression": "none", "use_dictionary": False},
    {"compression": "zstd", "use_dictionary": False, "data_page_version": "2.0"},
    {"compression": "gzip", "data_page_version": "2.0"},
    {"compression": "none", "data_page_version": "2.0"},
    {"compression": "brotli", "data_page_size": 500, "write_batch_size": 8},
    {"compression": "none", "data_page_size": 500, "write_batch_size": 8, "dictionary_pagesize_limit": 4000},
    {"compression": "lz4", "data_page_size": 500, "write_batch_size": 8, "dictionary_pagesize_limit": 4000},
    {"write_page_index": True, "write_page_checksum": True, "row_group_size": 7},
]
UNKNOWN: list[dict[str, Any]] = [
    {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"},
    {"use_dictionary": False, "column_encoding": "DELTA_LENGTH_BYTE_ARRAY", "compression": "none"},
]


@pytest.mark.parametrize("options", [*LAYOUTS, *UNKNOWN], ids=str)
@pytest.mark.parametrize("form", ["struct", "bytes", "required"])
def test_every_value_is_that_of_pyarrow(
    tmp_path: Path, options: dict[str, Any], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    group = ParquetFile._group
    monkeypatch.setattr(ParquetFile, "_group", lambda self, number: (calls.append(number), group(self, number))[1])
    for count, repeated in ((60, False), (300, True)):
        values = random_values(count, form != "required", repeated)
        column: Any = pa.array(values, pa.binary())
        if form == "struct":
            made = [None if v is None and i % 2 else {"bytes": v, "path": str(i)} for i, v in enumerate(values)]
            column = pa.array(made, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
        kind = pa.schema([pa.field("image", column.type, nullable=form != "required")])
        path = tmp_path / f"{count}.parquet"
        pq.write_table(pa.table([column], kind), path, **options)
        file = ParquetFile(path, path.name, "parquet")
        file.use("image")
        file.close()
        order = random.Random(0).sample(range(count), count)
        assert [file.image(row) for row in order] == [values[row] for row in order]
        if form == "struct":
            assert [file.image_path(row) for row in (1, count - 1)] == [
                pq.read_table(path).column(0)[row].as_py() and str(row) for row in (1, count - 1)
            ]
    assert bool(calls) == (options in UNKNOWN), "pyarrow must read whole row groups only if the layout is unknown"


def test_decompressed_pages_are_kept_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_file, "_pages", parquet_file.LRUCache(5000))
    values = [random.Random(i).randbytes(2000) for i in range(8)]
    options = {"row_group_size": 1, "use_dictionary": False}
    file = ParquetFile(write(tmp_path / "data.parquet", image=values, options=options), "data", "parquet")
    file.use("image")
    for row in (*range(8), 7, 6, 0):
        assert file.image(row) == values[row]
        assert 2000 <= parquet_file._pages._size <= 5000
    assert parquet_file._pages._size == sum(size for _, size in parquet_file._pages._kept.values())


def test_slow_files_are_named_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_file, "LARGE", 500)
    slow = write(tmp_path / "slow.parquet", image=stored(), text=TEXTS)
    (note,) = [note for note in opened(slow).notes() if "must be decompressed" in note]
    assert "12 images are compressed together" in note and "row_group_size=100" in note and "webdataset" in note
    for options in ({"compression": "none"}, {"row_group_size": 1}):
        fast = write(tmp_path / "fast.parquet", options=options, image=stored(), text=TEXTS)
        assert not any("decompressed" in note for note in opened(fast).notes())


# A start


def test_a_start_reads_no_image(table: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(encoded, "READ_AT_START", 0)
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path / "cache"))
    read: list[list[str]] = []
    original = ParquetFile.read
    monkeypatch.setattr(ParquetFile, "read", lambda self, columns: (read.append(columns), original(self, columns))[1])
    monkeypatch.setattr(ParquetFile, "image", lambda *_: pytest.fail("an image was read"))
    dataset = opened(table)
    assert list(dataset.captions("train")) == TEXTS and read == [["text"]]


def test_a_dataset_can_be_pickled(table: Path) -> None:
    dataset = opened(table)
    assert shown(dataset) == list(enumerate(TEXTS))
    data = pickle.dumps(dataset)
    assert len(data) < 20_000 and shown(pickle.loads(data)) == list(enumerate(TEXTS))


def test_a_resume_in_the_middle_of_a_pass_gives_the_same_batches_with_two_workers(table: Path) -> None:
    encoder = Words()
    encoder.adapt(TEXTS)

    def batches(start: int, count: int, processes: int) -> list[Any]:
        dataset = opened(table)
        loader = Loader(dataset, encoder, batch_size=5, workers=make_workers(dataset, processes))
        found = list(itertools.islice(iter(loader.training(start=start, seed=3)), count))
        loader.close()
        return found

    for one, other in zip(batches(0, 6, 0)[4:], batches(4, 2, 2), strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["tokens"]["id"], other["tokens"]["id"])
        words = [encoder.words[token - 2] for token in one["tokens"]["id"]]
        assert words == [f"image {i}" for i in numbers(one["image"])]


# What is refused


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no images": ({"id": [1], "text": ["a"]}, {}, r"has no column of images.*it has 'id' and 'text'"),
    "names of images": (
        {"file_name": ["a.png"], "text": ["a"]},
        {},
        r"no column of images.*metadata\.parquet, beside",
    ),
    "no captions": ({"image": stored([1]), "id": [1.0]}, {}, r"no captions.*'id'.*caption_key.*template: an image"),
    "two images": ({"a": stored([1]), "b": stored([1]), "text": ["a"]}, {}, r"set image_key to 'a' or 'b'"),
    "two captions": (
        {"image": stored([1]), "caption": ["a"], "title": ["b"]},
        {},
        "set caption_key to 'caption' or",
    ),
    "another image_key": ({"image": stored([1]), "text": ["a"]}, {"image_key": "img"}, "image_key can be 'image'"),
    "an image_key of text": ({"image": stored([1]), "text": ["a"]}, {"image_key": "text"}, "holds string, not encoded"),
    "another caption_key": ({"image": stored([1]), "text": ["a"]}, {"caption_key": "t"}, "caption_key can be 'text'"),
    "a null image": (
        {"image": [None, *stored([1])], "text": ["a", "b"]},
        {},
        r"parquet:0: there is no image: it",
    ),
    "null bytes": ({"image": [{"bytes": None, "path": None}, *stored([1])], "text": ["a", "b"]}, {}, ":0: there is no"),
    "no image at all": ({"image": [{"bytes": b"text", "path": ""}], "text": ["a"]}, {}, ":0: this is not an image"),
    "a null caption": ({"image": stored([1, 2]), "text": ["a", None]}, {}, r"parquet:1: its caption 'text' is empty"),
    "an empty caption": ({"image": stored([1, 2]), "text": ["a", " "]}, {}, r"parquet:1: its caption 'text' is empty"),
    "an empty list": ({"image": stored([1, 2]), "text": [["a"], []]}, {}, r"parquet:1: its caption 'text' is empty"),
    "no rows": ({"image": pa.array([], pa.binary()), "text": pa.array([], pa.string())}, {}, "holds no rows"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused(tmp_path: Path, case: str) -> None:
    columns, options, message = REFUSED[case]
    write(tmp_path / "data.parquet", **columns)
    with pytest.raises(DataError, match=rf"(?s)^parquet: .*{message}"):
        opened(tmp_path, **options)


def test_image_key_chooses_a_column(tmp_path: Path) -> None:
    columns = {"a": stored([1]), "b": stored([2]), "text": ["x"]}
    assert shown(opened(write(tmp_path / "data.parquet", **columns), image_key="b")) == [(2, "x")]
    declared = write(tmp_path / "declared.parquet", features(a={"_type": "Image"}, b={"_type": "Value"}), **columns)
    assert shown(opened(declared)) == [(1, "x")]


def test_damaged_files(tmp_path: Path, table: Path) -> None:
    data = table.read_bytes()
    for content, message in (
        (data[:-50], "is damaged, or not a Parquet file"),
        (b"", "is empty"),
        (b"x" * 99, "is damaged"),
    ):
        table.write_bytes(content)
        with pytest.raises(DataError, match=rf"parquet: .*data\.parquet {message}"):
            opened(tmp_path)


def test_files_with_other_columns(tmp_path: Path, table: Path) -> None:
    write(tmp_path / "other.parquet", image=stored([1]), caption=["a"])
    with pytest.raises(DataError, match=r"other\.parquet has no column 'text', but data\.parquet has"):
        opened(tmp_path)
    write(tmp_path / "other.parquet", image=stored([1]), text=[b"a"])
    with pytest.raises(DataError, match=r"other\.parquet: its column 'text' holds binary, but .* holds string"):
        opened(tmp_path)


def test_a_file_that_changes_while_it_is_used(table: Path) -> None:
    dataset = opened(table)
    write(table, image=stored(range(1, COUNT)), text=TEXTS[1:])
    with pytest.raises(DataError, match=r"data\.parquet was changed: files must stay as they are"):
        dataset.image("train", 0)
    table.unlink()
    with pytest.raises(DataError, match=r"data\.parquet, row 0 cannot be read: No such file"):
        dataset.image("train", 0)


def test_damaged_bytes_are_found_when_they_are_read(
    table: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A row group whose first page is overwritten, in a file with a good footer."""
    monkeypatch.setattr(encoded, "READ_AT_START", 0)
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path / "cache"))
    start = pq.read_metadata(table).row_group(1).column(0).dictionary_page_offset
    with table.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * 200)
    dataset = opened(table, on_error="skip")
    assert [number for number, _ in shown(dataset)] == [*range(5), *[10] * 5, 10, 11]
    assert sorted(problem.where for problem in dataset.problems()) == [f"data.parquet:{i}" for i in range(5, 10)]
    with pytest.raises(DataError, match=r"data\.parquet, row 5: row group 1 is damaged"):
        opened(table).image("train", 5)


def test_folders_without_tables(tmp_path: Path) -> None:
    for file, advice in (
        ("a.arrow", "name: hf"),
        ("a.tar", "name: webdataset"),
        ("a.png", "name: imagefolder"),
        ("a.x", "1 .x"),
    ):
        folder = tmp_path / file.rpartition(".")[2]
        folder.mkdir()
        (folder / file).write_bytes(b"x")
        with pytest.raises(DataError, match=rf"parquet: .* holds no \.parquet file: .*{advice}"):
            opened(folder)
    for path, message in (("no", "no does not exist"), ("no/*.parquet", "there is no file")):
        with pytest.raises(DataError, match=f"parquet: .*{message}"):
            opened(tmp_path / path)


def test_without_pyarrow_the_extra_is_named(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"parquet: pyarrow is not installed .*pip install 'kgen-core\[parquet\]'"):
        opened(table)


def test_check_and_data_check(table: Path, tmp_path: Path, toy: None, kgen: Callable[..., Outcome]) -> None:
    write(table, image=[*stored(range(3)), None], text=TEXTS[:4])
    config = tmp_path / "run.yaml"
    config.write_text(
        f"data: {{name: parquet, path: {table}, size: 16}}\nencoder: letters\ngenerator: toy/means\n"
        "fit: {steps: 12, batch_size: 1, warmup_steps: 0, learning_rate: 0.05}\nevaluate: {metrics: [brightness]}\n"
    )
    refused = kgen("data", "check", config)
    assert refused.status == 2 and refused.err.startswith("error: parquet: 1 problem in")
    assert "data.parquet:3: there is no image: it is null" in refused.err and "on_error: skip" in refused.err
    done = kgen("data", "check", config, "--set", "data.on_error=skip")
    assert done.status == 0 and "skipped data.parquet:3" in done.out
    assert kgen("check", config, "--set", "data.on_error=skip").status == 0
