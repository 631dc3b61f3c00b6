"""Layouts of folders: whose captions are read, which images are trained on, and what is refused with advice."""

from __future__ import annotations

import json
import os
import re
import sys
import time
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kgen import DataError
from kgen.data.datasets.folder import read_folder
from kgen.data.datasets.folder.rows import BLOCK, read_rows, read_text
from kgen.data.datasets.imagefolder import ImageFolder
from kgen.data.encoded.captions import TextError

SMALL = Image.new("RGB", (8, 8), (200, 30, 30))


def make(folder: Path, contents: Mapping[str, Any]) -> Path:
    """Writes files: images where the contents are None, bytes, text, else JSON."""
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            SMALL.save(path, "PNG")
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder


def captions(folder: Path, **options: Any) -> dict[str, list[str]]:
    """Every image with its captions, in the training split; nothing may be wrong or validate."""
    found = read_folder(folder, **options)
    assert not found.problems and not found.entries["validation"], found
    result: dict[str, list[str]] = {}
    for file, caption in found.entries["train"]:
        result.setdefault(file, []).append(caption)
    return result


def problems(folder: Path, **options: Any) -> dict[str, str]:
    return {problem.where: problem.what for problem in read_folder(folder, **options).problems}


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_folder(folder, **options)
    return str(caught.value)


# Layouts of other tools that are read

COCO = {
    "images": [{"id": 9, "file_name": "1.jpg"}, {"id": 4, "file_name": "2.jpg"}],
    "annotations": [
        {"id": 0, "image_id": 4, "caption": "two"},
        {"id": 1, "image_id": 9, "caption": "one"},
        {"id": 2, "image_id": 4, "caption": "deux"},
    ],
}
LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, list[str]]]] = {
    "coco": (
        {"train2017/1.jpg": None, "train2017/2.jpg": None, "annotations/captions_train2017.json": COCO},
        {"train2017/1.jpg": ["one"], "train2017/2.jpg": ["two", "deux"]},
    ),
    "flickr8k": (
        {"Images/1.jpg": None, "captions.txt": "image,caption\n1.jpg,a dog , running\n1.jpg,a dog\n".replace(" ,", "")},
        {"Images/1.jpg": ["a dog running", "a dog"]},
    ),
    "img2dataset": (
        {"00000/1.jpg": None, "00000/1.json": {"caption": "a cat", "url": "x"}, "00001/2.jpg": None}
        | {"00001/2.json": {"caption": "a dog", "url": "x"}, "00000_stats.json": {"count": 1}},
        {"00000/1.jpg": ["a cat"], "00001/2.jpg": ["a dog"]},
    ),
    "kohya": ({"1.png": None, "1.caption": "a cat"}, {"1.png": ["a cat"]}),
    "kohya metadata": ({"1.png": None, "metadata.json": {"1.png": {"caption": "a cat"}}}, {"1.png": ["a cat"]}),
    "capitals": ({"1.PNG": None, "1.TXT": "a cat"}, {"1.PNG": ["a cat"]}),
    "table in capitals": ({"1.png": None, "METADATA.JSONL": {"file_name": "1.PNG", "Text": "a"}}, {"1.png": ["a"]}),
    "array": ({"1.png": None, "metadata.json": [{"file_name": "1.png", "text": "a"}]}, {"1.png": ["a"]}),
    "list of captions": (
        {"1.png": None, "metadata.jsonl": {"file_name": "1.png", "captions": ["a", " b ", "a"]}},
        {"1.png": ["a", "b"]},
    ),
    "other columns": ({"1.png": None, "metadata.jsonl": {"image": "1.png", "caption": "a"}}, {"1.png": ["a"]}),
    "semicolons": ({"1.png": None, "metadata.csv": "file_name;text\n1.png;a, b\n"}, {"1.png": ["a, b"]}),
    "excel": ({"1.png": None, "metadata.csv": "sep=;\r\nfile_name;text\r\n1.png;a\r\n"}, {"1.png": ["a"]}),
    "tabs": ({"1.png": None, "metadata.tsv": "file_name\ttext\n1.png\ta, b\n"}, {"1.png": ["a, b"]}),
    "bars": ({"1.png": None, "captions.csv": "image_name| comment\n1.png| a , b\n"}, {"1.png": ["a , b"]}),
    "spaces": ({"1.png": None, "metadata.csv": 'file_name, text\n1.png, "a, b"\n'}, {"1.png": ["a, b"]}),
    "utf-16": ({"1.png": None, "metadata.csv": "file_name,text\n1.png,ä\n".encode("utf-16")}, {"1.png": ["ä"]}),
    "below the table": ({"images/1.png": None, "metadata.csv": "file_name,text\n1.png,a\n"}, {"images/1.png": ["a"]}),
    "lines": ({"1.png": None, "1.txt": "a cat\n\n a  dog\r\na cat\n"}, {"1.png": ["a cat", "a dog"]}),
    "tuxpaint": ({"1.png": None, "1.txt": "A cat.\nde.utf8=Katze.\nzh_TW.utf8=猫\n"}, {"1.png": ["A cat."]}),
    "classes": ({"red_fox/1.png": None, "sky/1.png": None}, {"red_fox/1.png": ["red fox"], "sky/1.png": ["sky"]}),
    "digits": ({"0/1.png": None, "1/1.png": None}, {"0/1.png": ["0"], "1/1.png": ["1"]}),
    "boxes beside classes": (
        {"cat/1.png": None, "dog/1.png": None, "cat/1.json": {"shapes": []}, "dog/1.json": {"shapes": []}},
        {"cat/1.png": ["cat"], "dog/1.png": ["dog"]},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_that_are_read(tmp_path: Path, layout: str) -> None:
    contents, wanted = LAYOUTS[layout]
    assert captions(make(tmp_path, contents)) == wanted


def test_a_damaged_file_beside_the_first_image_does_not_hide_the_captions(tmp_path: Path) -> None:
    images: dict[str, Any] = dict.fromkeys(("cat/1.png", "cat/2.png", "dog/3.png"))
    found = read_folder(
        make(tmp_path, images | {"cat/1.json": "{", "cat/2.json": {"caption": "a"}, "dog/3.json": {"caption": "b"}})
    )
    assert found.entries["train"] == [("cat/2.png", "a"), ("dog/3.png", "b")]
    assert [problem.where for problem in found.problems] == ["cat/1.png"]


@pytest.mark.parametrize(("table", "file"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_may_be_composed_or_decomposed(tmp_path: Path, table: Any, file: Any) -> None:
    name = unicodedata.normalize(file, "café.png")
    row = {"file_name": unicodedata.normalize(table, "café.png"), "text": "a"}
    assert captions(make(tmp_path / "table", {name: None, "metadata.jsonl": row})) == {name: ["a"]}
    text = unicodedata.normalize(table, "café.txt")
    assert captions(make(tmp_path / "beside", {name: None, text: "a"})) == {name: ["a"]}


def test_names_that_differ_in_capitals_only_keep_their_own_captions(tmp_path: Path) -> None:
    make(tmp_path, {"a.png": None, "A.png": None, "b.png": None, "a.txt": "small", "B.txt": "b"})
    if len(list(tmp_path.iterdir())) < 5:
        pytest.skip("this file system does not tell them apart")
    assert dict(read_folder(tmp_path).entries["train"]) == {"a.png": "small", "b.png": "b"}
    assert problems(tmp_path) == {"A.png": "there is no caption A.txt beside it"}


def test_the_first_source_of_captions_is_used_and_named(tmp_path: Path) -> None:
    make(tmp_path, {"a/1.png": None, "b/1.png": None, "a/1.txt": "one", "b/1.txt": "two\nzwei"})
    found = read_folder(tmp_path, template="a {label}")
    assert [caption for _, caption in found.entries["train"]] == ["one", "two", "zwei"]
    assert found.notes == [
        f"imagefolder {tmp_path}: captions are from NAME.txt beside each image",
        f"imagefolder {tmp_path}: each line of a text file is a caption: 1 of the images have several",
        f"imagefolder {tmp_path}: the option template is not used: only names of folders need it",
    ]
    assert captions(tmp_path, captions_from="folders") == {"a/1.png": ["a"], "b/1.png": ["b"]}
    assert captions(tmp_path, captions_from="none") == {"a/1.png": ["an image"], "b/1.png": ["an image"]}


def test_names_are_searched_elsewhere_only_if_none_is_beside_the_table(tmp_path: Path) -> None:
    """Else an image of another folder would get the caption of one that was deleted."""
    make(tmp_path, {"1.png": None, "more/2.png": None, "metadata.csv": "file_name,text\n1.png,a\n2.png,b\n"})
    assert problems(tmp_path) == {
        "metadata.csv:3": "there is no image 2.png",
        "more/2.png": "metadata.csv has no caption for it",
    }


def test_a_name_that_fits_two_images_is_a_problem(tmp_path: Path) -> None:
    make(tmp_path, {"a/1.png": None, "b/1.png": None, "metadata.csv": "file_name,text\nb/1.png,a\n1.png,b\n"})
    (tmp_path / "captions").mkdir()
    (tmp_path / "metadata.csv").rename(tmp_path / "captions" / "metadata.csv")
    found = problems(tmp_path)
    assert found["captions/metadata.csv:3"] == "1.png exists several times: a/1.png, b/1.png"
    assert "b/1.png" not in found


def test_names_are_searched_below_the_table_only_if_there_are_images(tmp_path: Path) -> None:
    make(tmp_path, {f"{place}/images/1.png": None for place in "ab"})
    make(tmp_path, {f"{place}/metadata.csv": f"file_name,text\n1.png,{place}\n" for place in "ab"})
    assert captions(tmp_path) == {"a/images/1.png": ["a"], "b/images/1.png": ["b"]}


def test_a_table_of_images_that_are_not_here_is_one_problem(tmp_path: Path) -> None:
    rows = "".join(f"{i}.png,a\n" for i in range(50))
    make(tmp_path, {"a/x.png": None, "metadata.csv": f"file_name,text\n{rows}"})
    assert problems(tmp_path)["metadata.csv"].startswith("none of the 50 images that it names is here")
    assert len(problems(tmp_path)) == 2


# What is no caption

NO_CAPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "one class": ({"cat/1.png": None, "cat/2.png": None}, "one folder, 'cat', names no classes"),
    "a split": ({"train/1.png": None}, r"says what the images show\. Write metadata\.jsonl"),
    "generic": (
        {"images/1.png": None, "masks/1.png": None, "pictures/1.png": None},
        "a folder named 'images', 'masks', 'pictures' is not a class",
    ),
    "numbers": ({"000/1.png": None, "001/1.png": None}, "numbers, which may just divide many files"),
    "flat": ({"1.png": None}, 'Write metadata.jsonl with a line such as .*"1.png"'),
    "tokens": ({"i/1.jpg": None, "Flickr8k.token.txt": "1.jpg#0\ta"}, r"if Flickr8k\.token\.txt holds the captions"),
    "coco boxes": ({"train2017/1.jpg": None, "annotations/instances_train2017.json": COCO}, "if annotations/instances"),
    "boxes": ({"1.png": None, "1.txt": "0 0.5 0.5 0.2 0.3\n3 0.1 .2 0.2 0.3\n"}, "numbers of boxes, like YOLO's"),
    "no column": ({"1.png": None, "metadata.jsonl": {"file_name": "1.png", "note": "a"}}, "set caption_key to 'note'"),
    "two": ({"1.png": None, "metadata.csv": "image,title,caption\n1.png,a,b\n"}, "caption_key to 'caption' or 'title'"),
    "label": ({"1.png": None, "metadata.jsonl": {"file_name": "1.png", "label": 3}}, "'label', which is not text"),
    "stray text": ({f"{c}/{i}.png": None for c in "ab" for i in "12"} | {"a/1.txt": "notes"}, "1 of 4 .*a/1.txt: set"),
    "latin": ({"1.png": None, "metadata.csv": b"file_name,text\n1.png,M\xe4dchen\n"}, r"line 2.*Mädchen.*iconv -f WIN"),
    "utf-16": ({"1.png": None, "metadata.csv": "file_name,text\n".encode("utf-16-le")}, "iconv -f UTF-16LE"),
    "two tables": (
        {"1.png": None, "metadata.csv": "", "metadata.JSONL": ""},
        r"both metadata\.JSONL and metadata\.csv",
    ),
    "same columns": ({"1.png": None, "metadata.csv": "file_name,text,text\n1.png,a,b\n"}, "have the same name"),
}


@pytest.mark.parametrize("case", NO_CAPTIONS)
def test_values_that_are_not_captions_are_refused_with_advice(tmp_path: Path, case: str) -> None:
    contents, message = NO_CAPTIONS[case]
    assert re.search(message, refusal(make(tmp_path, contents)))


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"data/train-0.parquet": "PAR1"}, r"Hugging Face: data: \{name: parquet, path: .*kgen-core\[parquet\]"),
        ({"data-0.arrow": "x", "state.json": "{}"}, r"Hugging Face: data: \{name: hf, path: "),
        (
            {"0.tar": "x", "1.tar": "x"},
            r"in 0\.tar \(it is one of 2 archives\)\. Unpack it: tar -xf .*name: webdataset,",
        ),
        ({"0.array_record": "x"}, r"ArrayRecord files: data: \{name: array_record, path: "),
        ({"a.zip": "x"}, "Unpack it: unzip"),
        ({"mnist/dataset_info.json": "{}", "mnist/mnist-train.tfrecord-0": "x"}, "name: tfds, data_dir: .*mnist"),
        ({"train-images-idx3-ubyte.gz": "x"}, "name: idx"),
        ({"1.heic": "x", "2.HEIC": "x", "3": "x"}, r"it holds 2 \.heic \(1\.heic\), 1 without a suffix \(3\): make"),
        ({".hidden/1.png": None, "Thumbs.db": "x"}, "it is empty"),
    ],
)
def test_folders_without_images(tmp_path: Path, contents: dict[str, Any], message: str) -> None:
    assert re.search(message, refusal(make(tmp_path, contents)))


def test_metadata_in_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read as the other tables are: lists of captions, splits, and problems with the number of the row."""
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").table
    make(tmp_path, {"1.png": None, "2.png": None})
    path = tmp_path / "metadata.parquet"
    rows = {"file_name": ["1.png", "2.png"], "text": [["a", "b"], ["c"]], "split": ["train", "test"], "x": [b"1", b"2"]}
    parquet.write_table(table(rows), path)
    assert read_folder(tmp_path).entries == {"train": [("1.png", "a"), ("1.png", "b")], "validation": [("2.png", "c")]}
    parquet.write_table(table({"file_name": ["1.png", "3.png", "2.png"], "text": ["a", "b", None]}), path)
    assert [(problem.where, problem.what[:24]) for problem in read_folder(tmp_path).problems] == [
        ("metadata.parquet:1", "there is no image 3.png"),
        ("metadata.parquet:2", "2.png: its caption 'text"),
    ]
    parquet.write_table(table({"id": ["1.png"], "text": ["a"]}), path)
    assert re.search(r"metadata\.parquet has no column 'file_name': it has id, text", refusal(tmp_path))
    path.write_bytes(b"PAR1")
    assert re.search(r"metadata\.parquet is damaged, or not a Parquet file", refusal(tmp_path))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert re.search(r"pip install 'kgen-core\[parquet\]'.*pandas\.read_parquet\('.*'\)\.to_csv", refusal(tmp_path))


def test_the_source_of_captions_can_be_chosen(tmp_path: Path) -> None:
    make(tmp_path, {"cat/1.png": None, "cat/2.png": None})
    assert captions(tmp_path, captions_from="folders", template="a {label}") == {
        f"cat/{i}.png": ["a cat"] for i in "12"
    }
    assert "captions_from: files, but" in refusal(tmp_path, captions_from="files")
    assert "captions_from: tables, but" in refusal(tmp_path, captions_from="tables")
    flat = make(tmp_path / "cat" / "flat", {"1.png": None})
    assert "captions_from: folders, but" in refusal(flat, captions_from="folders")
    dataset = ImageFolder(path=str(flat), captions_from="none", size=8)
    assert list(dataset.captions("train")) == ["an image"]


def test_a_caption_key_that_is_not_there(tmp_path: Path) -> None:
    make(tmp_path, {"1.png": None, "metadata.csv": "file_name,caption,id\n1.png,a,b\n"})
    assert "has no 'captoin': did you mean 'caption'? caption_key can be 'caption' or 'id'" in refusal(
        tmp_path, caption_key="captoin"
    )
    assert captions(tmp_path, caption_key="id") == {"1.png": ["b"]}


def test_a_caption_key_chooses_the_json_files(tmp_path: Path) -> None:
    make(tmp_path, {"1.png": None, "1.txt": "a text"})
    unused = f"imagefolder {tmp_path}: the option caption_key is not used: only tables and JSON files need it"
    assert read_folder(tmp_path, caption_key="recaption").notes[-1] == unused
    make(tmp_path, {"1.json": {"caption": "from the web", "recaption": "by a model"}})
    assert captions(tmp_path) == {"1.png": ["a text"]}
    assert captions(tmp_path, caption_key="recaption") == {"1.png": ["by a model"]}
    assert unused not in read_folder(tmp_path, caption_key="recaption").notes
    assert problems(tmp_path, caption_key="other") == {"1.png": "its caption 1.json has no 'other'"}


# Tables that are damaged


def test_a_single_quote_affects_only_its_own_row(tmp_path: Path) -> None:
    rows = ['0.png,"24 inch', "1.png,b", '2.png,c "q" c', '3.png,"a ""q"" b\nc"', '4.png,27 inch"', '5.png,"x"y']
    make(tmp_path, {f"{i}.png": None for i in range(7)} | {"metadata.csv": "file_name,text\n" + "\n".join(rows)})
    found = read_folder(tmp_path)
    assert dict(found.entries["train"]) == {"1.png": "b", "2.png": 'c "q" c', "3.png": 'a "q" b c', "4.png": '27 inch"'}
    assert [problem.where for problem in found.problems] == [
        *("metadata.csv:2", "metadata.csv:8", "0.png", "5.png", "6.png")
    ]
    assert "a quote that is never closed" in found.problems[0].what
    assert "must be doubled" in found.problems[1].what
    rows = ['"24 inch,0.png', "b,1.png", '27 inch",2.png', "e,3.png"]
    make(tmp_path, {"metadata.csv": "text,file_name\n" + "\n".join(rows)})
    assert dict(read_folder(tmp_path).entries["train"]) == {"1.png": "b", "2.png": '27 inch"', "3.png": "e"}


def test_a_line_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    for text, line in (("a.png,x\ncafé.png,y\n", 2), ("a.png,x\n\xe9.png,y\n", 2), ("é", 1)):
        (tmp_path / "metadata.csv").write_bytes(text.encode("cp1252"))
        with pytest.raises(TextError, match=f"in line {line}"):
            read_text(tmp_path / "metadata.csv")


def test_a_caption_of_numbers_is_compared_with_boxes_at_once(tmp_path: Path) -> None:
    make(tmp_path, {"1.png": None, "1.txt": "1" + " 123456789" * 50 + " x"})
    began = time.monotonic()
    assert len(captions(tmp_path)["1.png"]) == 1
    assert time.monotonic() - began < 5


def test_a_too_long_cell_or_caption_affects_only_its_own_row(tmp_path: Path) -> None:
    long = "x" * 200_000
    make(tmp_path / "csv", {"0.png": None, "1.png": None, "metadata.csv": f"file_name,text\n0.png,{long}\n1.png,b\n"})
    assert problems(tmp_path / "csv")["metadata.csv:2"] == "a cell is longer than 131,072 characters"
    make(tmp_path / "txt", {"0.png": None, "0.txt": long, "1.png": None, "1.txt": "b"})
    assert "200,000 characters in a line" in problems(tmp_path / "txt")["0.png"]
    make(tmp_path / "json", {"0.png": None, "metadata.json": [{"file_name": "0.png", "text": long}]})
    assert "200,000 characters" in problems(tmp_path / "json")["metadata.json, entry 1"]


# Splits


def test_test_images_validate(tmp_path: Path) -> None:
    make(
        tmp_path, {f"{s}/{c}/{i}.png": None for s in ("train", "val", "Testing") for c in ("cat", "dog") for i in "12"}
    )
    dataset = ImageFolder(path=str(tmp_path), size=8)
    assert list(dataset.captions("train")) == ["cat", "cat", "dog", "dog"]
    assert list(dataset.captions("validation")) == ["cat", "cat", "dog", "dog"] * 2
    assert dataset.notes()[1] == (
        f"imagefolder {tmp_path}: training uses 4 images in train/, and validation uses 8 images in Testing/ and val/"
    )
    held = ImageFolder(path=str(tmp_path), size=8, holdout=("cat",))
    assert {s: len(held.captions(s)) for s in ("train", "validation", "holdout")} == {
        "train": 2,
        "validation": 4,
        "holdout": 6,
    }
    with pytest.raises(DataError, match="already defines a validation split: leave the option validation out"):
        ImageFolder(path=str(tmp_path), size=8, validation=0.5)
    train = ImageFolder(path=str(tmp_path / "train"), size=8, validation=0.5)
    assert len(train.captions("train")) == len(train.captions("validation")) == 2


@pytest.mark.parametrize(
    ("contents", "validation"),
    [
        ({"a/train/1.png": None, "a/test/2.png": None, "metadata.csv": "file_name,text\n1.png,a\n2.png,b\n"}, "b"),
        ({"train/1.png": None, "train/1.txt": "a", "dev/1.png": None, "dev/1.txt": "b"}, "b"),
        (
            {"train2017/1.jpg": None, "val2017/2.jpg": None}
            | {f"annotations/captions_{s}2017.json": COCO for s in ("train", "val")},
            "two",
        ),
        ({"1.png": None, "2.png": None, "metadata.csv": "file_name,split,text\n1.png,train,a\n2.png,test,b\n"}, "b"),
    ],
)
def test_splits_with_captions_of_every_source(tmp_path: Path, contents: dict[str, Any], validation: str) -> None:
    found = read_folder(make(tmp_path, contents))
    assert {caption for _, caption in found.entries["train"]} <= {"a", "one"}
    assert {caption for _, caption in found.entries["validation"]} >= {validation}


def test_an_unknown_split_is_a_problem(tmp_path: Path) -> None:
    make(tmp_path, {"1.png": None, "metadata.csv": "file_name,split,text\n1.png,fold 1,a\n"})
    assert "split 'fold 1' is not train" in problems(tmp_path)["metadata.csv:2"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("test/1.png", "test/2.png"), "holds only validation images, in 'test'"),
        (("test/1.png", "cat/1.png"), "holds 'test' beside 'cat': is that a split"),
        (("train/1.png", "truck/1.png"), "holds 'train' beside 'truck': is that a split"),
        (("cat/train/1.png", "cat/test/1.png", "dog/train/1.png", "dog/test/1.png"), "is cat/test a split"),
        (("train/cat/1.png", "train/val/1.png", "test/cat/1.png"), "is train/val a split"),
    ],
)
def test_ambiguous_split_folders_are_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    make(tmp_path, dict.fromkeys(names))
    assert message in refusal(tmp_path)
    options = {"split_folders": False, "captions_from": "folders"}
    assert len(captions(tmp_path, **options)) == len(names)


def test_images_beside_split_folders_are_problems(tmp_path: Path) -> None:
    make(tmp_path, {"train/a/1.png": None, "train/b/1.png": None, "test/a/1.png": None, "more/a/1.png": None})
    assert problems(tmp_path) == {"more/a/1.png": "it is beside test/ and train/, in no split"}


# Files


def test_links_are_followed(tmp_path: Path) -> None:
    make(tmp_path / "elsewhere", {"1.png": None, "deep/2.png": None})
    folder = make(tmp_path / "images", {"red/1.png": None})
    (folder / "blue").symlink_to(tmp_path / "elsewhere")
    (folder / "red" / "2.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "elsewhere" / "loop").symlink_to(folder)
    assert captions(folder) == {
        "blue/1.png": ["blue"],
        "blue/deep/2.png": ["deep"],
        "red/1.png": ["red"],
        "red/2.png": ["red"],
    }
    (folder / "azure").symlink_to(tmp_path / "elsewhere")
    (folder / "red" / "3.png").symlink_to(tmp_path / "nowhere")
    assert problems(folder) == {
        "blue": "this folder is the same as azure: it is read only once",
        "red/3.png": "this symbolic link is broken",
    }


def test_a_folder_that_cannot_be_read_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, {"a/1.png": None, "b/1.png": None, "c/1.png": None})
    real = os.scandir

    def scandir(path: str) -> Any:
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert problems(tmp_path) == {"b": "the folder cannot be read: Permission denied"}


def test_names_that_are_not_utf_8_can_be_skipped(tmp_path: Path) -> None:
    make(tmp_path, {"good.png": None, "good.txt": "good"})
    try:
        (tmp_path / "good.png").with_name(os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    dataset = ImageFolder(path=str(tmp_path), size=8, on_error="skip")
    assert list(dataset.captions("train")) == ["good"]
    assert [problem.what for problem in dataset.problems()] == ["its name is not UTF-8 text: rename the file"]


def test_runs_of_kgen_are_not_data(tmp_path: Path) -> None:
    make(tmp_path, {"red/1.png": None, "sky/1.png": None})
    make(tmp_path, {"runs/a/config.yaml": "", "runs/a/.lock": "", "runs/a/samples/step-1.png": None})
    make(tmp_path, {"runs/b/config.yaml": "", "runs/b/manifest.json": "", "runs/b/samples/step-1.png": None})
    assert captions(tmp_path) == {"red/1.png": ["red"], "sky/1.png": ["sky"]}


def test_files_that_are_not_images_are_counted(tmp_path: Path) -> None:
    make(tmp_path, {f"{c}/{i}.png": None for c in "ab" for i in "12"})
    make(tmp_path, {"a/x.heic": "x", "a/y.HEIC": "x", "b/z.svg": "x", "b/file": "x", "a/.hidden": "x"})
    SMALL.save(tmp_path / "a" / "3.tga")
    SMALL.save(tmp_path / "a" / "4.jp2")
    dataset = ImageFolder(path=str(tmp_path), size=8)
    assert len(dataset.captions("train")) == 6
    assert dataset.notes()[-1] == (
        f"imagefolder {tmp_path}: files that kgen does not read as images: "
        "2 .heic (a/x.heic), 1 without a suffix (b/file), 1 .svg (b/z.svg)"
    )


@pytest.mark.parametrize(
    "wrong", ['{"file_name": "x.png"', '{"a": 1}, {"b": 2}', '{"a": 1}], [{"b": 2}', "[]", "", "3"]
)
@pytest.mark.parametrize("place", [1, BLOCK, BLOCK + 2, 2 * BLOCK])
def test_json_lines_are_read_as_one_by_one(tmp_path: Path, wrong: str, place: int) -> None:
    lines = [json.dumps({"file_name": f"{number}.png", "text": "a ], [ b"}) for number in range(2 * BLOCK)]
    lines[place - 1] = wrong
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = dict(read_rows(tmp_path / "a.jsonl"))
    error = found.pop(f":{place}", "empty")
    assert isinstance(error, str) and (error == "empty") == (wrong == "")
    assert found == {
        f":{number}": json.loads(lines[number - 1]) for number in range(1, 2 * BLOCK + 1) if number != place
    }


def test_a_json_object_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"file_name": [["1.png"\n"2.png"]]}')
    assert all(isinstance(row, str) for _, row in read_rows(tmp_path / "a.jsonl"))
