"""Images in ArrayRecord files: TensorFlow's messages are read correctly, and error messages name what is wrong."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import random
import struct
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Outcome
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from gray_images import numbers, shown
from parts import Words
from PIL import Image
from tf_messages import example, field, varint

from kgen import DataError
from kgen.data.datasets.array_record import ArrayRecord
from kgen.data.datasets.shards import records
from kgen.data.datasets.shards.example import ExampleError, read_example
from kgen.data.encoded import images as encoded
from kgen.data.loader import Loader
from kgen.data.reading.workers import Workers
from kgen.testing import DatasetConformance

module = pytest.importorskip("array_record.python.array_record_module")

pytestmark = pytest.mark.portable

COUNT = 12


def image(value: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (16, 16), (value,) * 3).save(data, "PNG")
    return data.getvalue()


def sample(number: int) -> bytes:
    """Image i is gray of the value 20 i, with the caption "image i"."""
    return example({"image": image(20 * number), "caption": f"image {number}".encode(), "id": number})


def write(path: Path, contents: Sequence[bytes], options: str = "group_size:1") -> Path:
    """Writes a file that is an hour old."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = module.ArrayRecordWriter(str(path), options)
    for record in contents:
        writer.write(record)
    writer.close()
    then = time.time() - 3600
    os.utime(path, (then, then))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    for first in range(0, COUNT, 4):
        write(folder / f"{first // 4:04}.array_record", [sample(i) for i in range(first, first + 4)])
    return folder


def opened(path: Path | str, **options: Any) -> ArrayRecord:
    return ArrayRecord(path=str(path), size=16, **options)


class TestRecords(DatasetConformance):
    @pytest.fixture(autouse=True)
    def _in(self, shards: Path) -> None:
        self.shards = shards

    def build(self) -> ArrayRecord:
        return opened(self.shards, validation=0.25, holdout=("image 3",), flip=True)


# Messages, against other libraries


def protobuf() -> Any:
    """The message class of tf.train.Example, made by the library protobuf from TensorFlow's definition."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="test", syntax="proto3")
    numbers = descriptor_pb2.FieldDescriptorProto

    def add(message: Any, name: str, number: int, kind: int, type_name: str = "", repeated: bool = False) -> None:
        label = numbers.LABEL_REPEATED if repeated else numbers.LABEL_OPTIONAL
        message.field.add(name=name, number=number, type=kind, type_name=type_name or None, label=label)

    for name, kind in (
        ("BytesList", numbers.TYPE_BYTES),
        ("FloatList", numbers.TYPE_FLOAT),
        ("Int64List", numbers.TYPE_INT64),
    ):
        add(file.message_type.add(name=name), "value", 1, kind, repeated=True)
    one = file.message_type.add(name="Feature")
    one.oneof_decl.add(name="kind")
    for number, name in enumerate(("bytes", "float", "int64"), 1):
        add(one, f"{name}_list", number, numbers.TYPE_MESSAGE, f".test.{name.title()}List")
        one.field[-1].oneof_index = 0
    many = file.message_type.add(name="Features")
    entry = many.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, numbers.TYPE_STRING)
    add(entry, "value", 2, numbers.TYPE_MESSAGE, ".test.Feature")
    add(many, "feature", 1, numbers.TYPE_MESSAGE, ".test.Features.FeatureEntry", repeated=True)
    add(file.message_type.add(name="Example"), "features", 1, numbers.TYPE_MESSAGE, ".test.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("test.Example"))


def check_reader(message_class: Any) -> None:
    """Checks `read_example` and `example` with the message class of a library."""
    rng = random.Random(0)
    values: dict[str, list[Any]] = {
        "bytes": [b"", b"\x00\xff", rng.randbytes(300)],
        "größe": ["漢字".encode()],
        "floats": [0.0, -1.5, 2.0**100],
        "integers": [0, 1, -1, 127, 128, 2**63 - 1, -(2**63)],
        "nothing": [],
    }
    kinds = {bytes: "bytes_list", float: "float_list", int: "int64_list"}
    message = message_class()
    for name, some in values.items():
        if some:
            getattr(message.features.feature[name], kinds[type(some[0])]).value.extend(some)
        else:
            message.features.feature[name].SetInParent()
    assert read_example(message.SerializeToString()) == values
    assert (
        message_class.FromString(example({k: v for k, v in values.items() if v}))
        .features.feature["integers"]
        .int64_list.value
        == values["integers"]
    )


def test_examples_are_those_of_protobuf() -> None:
    check_reader(protobuf())


@pytest.mark.slow
def test_examples_are_those_of_tensorflow() -> None:
    check_reader(pytest.importorskip("tensorflow").train.Example)


def test_lists_that_are_not_packed_and_unknown_fields_are_read() -> None:
    """Other writers put each number into a field of its own, and a newer version may add fields."""
    integers = field(3, b"".join(varint(8) + varint(n) for n in (5, -6)))
    floats = field(2, varint(13) + struct.pack("<f", 0.5))
    entries = [field(1, b"n") + field(2, integers), field(1, b"f") + field(2, floats) + varint(9 * 8) + varint(7)]
    data = field(1, b"".join(field(1, entry) for entry in entries)) + varint(15 * 8 + 1) + bytes(8)
    assert read_example(data) == {"n": [5, -6], "f": [0.5]}


def test_no_damage_of_a_message_is_an_unknown_error() -> None:
    data = example({"image": b"12345678" * 9, "caption": [b"a", b"b"], "n": [1, 2**40], "f": [0.5, 2.0]})
    rng = random.Random(0)
    for _ in range(3000):
        damaged = bytearray(data[: rng.randrange(len(data) + 1)])
        if damaged:
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            read_example(bytes(damaged))
        except ExampleError as error:
            assert str(error)


# What is read


def test_images_and_captions_go_together(shards: Path) -> None:
    expected = [(i, f"image {i}") for i in range(COUNT)]
    assert shown(opened(shards)) == expected
    assert shown(opened(f"{shards}/{{0001..0002}}.array_record")) == expected[4:]
    assert shown(opened(shards / "0001.array_record")) == expected[4:8]
    assert opened(shards).notes() == [
        f"array_record {shards}: 12 images in 3 shards; captions are from 'caption'"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("features", "caption"),
    [
        ({"image/encoded": image(20), "image/caption": [b"a  dog", b"the dog"]}, ["a dog", "the dog"]),
        ({"jpg": image(20), "text": "größe".encode()}, ["größe"]),
        ({"png": image(20), "label": 7}, ["7"]),
        ({"image_bytes": image(20), "cls": b"red_fox"}, ["red fox"]),
        ({"image/encoded": image(20), "image/class/label": 3, "image/class/text": b"fox"}, ["fox"]),
    ],
)
def test_names_of_features(tmp_path: Path, features: dict[str, Any], caption: list[str]) -> None:
    dataset = opened(write(tmp_path / "a.array_record", [example(features)]))
    assert shown(dataset) == [(1, text) for text in caption]
    assert ("label" in dataset.fields) == (len({"label", "cls", "image/class/label"} & features.keys()) == 1)


def test_named_features(tmp_path: Path) -> None:
    row = {"a": image(20), "image": image(40), "caption": b"old", "new": [b"new"], "kind": 5}
    path = write(tmp_path / "a.array_record", [example(row)])
    assert shown(opened(path)) == [(2, "old")]
    assert shown(opened(path, image_key="a", caption_key="new")) == [(1, "new")]
    dataset = opened(path, caption_key="kind", template="kind {label}")
    assert shown(dataset) == [(2, "kind 5")] and list(dataset.values("train", "label")) == ["5"]
    with pytest.raises(
        DataError, match=r"record 0: it has no 'b', but 'a', 'caption', 'image', 'kind', 'new': set image"
    ):
        opened(path, image_key="b")
    with pytest.raises(DataError, match=r"nothing in .* says what the images show \(0: it has no 'b', but 'a', "):
        opened(path, caption_key="b")
    assert shown(opened(path, caption_key="b", template="an image")) == [(2, "an image")]


@pytest.mark.slow
def test_files_of_tensorflow_datasets(tmp_path: Path) -> None:
    """Names of splits, and records, are as tensorflow-datasets writes them."""
    tfds = pytest.importorskip("tensorflow_datasets")
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=(16, 16, 3)), "text": tfds.features.Text()}
    )
    for split, some in (("train", (1, 2)), ("test", (3,))):
        rows = [{"image": np.full((16, 16, 3), 20 * i, np.uint8), "text": f"image {i}"} for i in some]
        write(tmp_path / f"mine-{split}.array_record-00000-of-00001", [features.serialize_example(row) for row in rows])
    dataset = opened(tmp_path)
    assert shown(dataset) == [(1, "image 1"), (2, "image 2")] and shown(dataset, "validation") == [(3, "image 3")]


def test_groups_of_records_are_read_with_a_note(tmp_path: Path) -> None:
    dataset = opened(write(tmp_path / "a.array_record", [sample(i) for i in range(4)], "group_size:4"))
    assert shown(dataset) == [(i, f"image {i}") for i in range(4)]
    assert "to read one image, a group of 4 records is read" in dataset.notes()[1]


def test_a_later_start_reads_no_file(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(shards)
    first.check()
    monkeypatch.setattr(records, "open_reader", None)
    again = opened(shards)
    assert list(again.captions("train")) == list(first.captions("train"))
    assert again.fingerprint() == first.fingerprint()
    with pytest.raises(TypeError):
        opened(shards, caption_key="caption")


# What can be wrong


@pytest.mark.parametrize(
    ("record", "what"),
    [
        (example({"image": image(1)}), "it has no 'caption', but 'image'"),
        (example({"caption": b"b"}), "it has no image, but 'caption': set image_key"),
        (example({"image": image(1), "caption": b" "}), "its 'caption' is empty"),
        (example({"image": image(1), "caption": b"\xff\xff"}), "its 'caption' is not UTF-8 text"),
        (example({"image": [image(1), image(2)], "caption": b"b"}), "its 'image' holds 2 images"),
        (example({"image": 5, "caption": b"b"}), "its 'image' holds numbers"),
        (example({"image": image(1)[:60], "caption": b"b"}), "the file is damaged"),
        (example({"image": image(1), "caption": b"b"})[:-3], "it ends in the middle of a field"),
        (b"", "it has no features"),
    ],
)
def test_records_that_cannot_be_used(tmp_path: Path, record: bytes, what: str) -> None:
    path = write(tmp_path / "a.array_record", [sample(1), record])
    with pytest.raises(DataError, match=rf"array_record: 1 problem in .*:\n  a\.array_record, record 1: .*{what}"):
        opened(path)
    dataset = opened(path, on_error="skip")
    assert shown(dataset) == [(1, "image 1")] and len(dataset.problems()) == 1


@pytest.mark.parametrize(
    ("record", "what"),
    [
        (pickle.dumps({"image": image(1)}), "its records are pickled, and reading them would run the code"),
        (image(1), "its records are images without captions"),
        (b"\x82\xa5image\xc4\x01a\xa4text\xa1b", "its records are JSON or msgpack"),
        (json.dumps({"caption": "b"}).encode(), "its records are JSON or msgpack"),
        (b"", r"its records are not tf\.train\.Example messages \(it has no features\)"),
        (b"\xff" * 20, r"its records are not tf\.train\.Example messages \(a number is too long\)"),
    ],
)
def test_records_in_other_formats_are_refused(tmp_path: Path, record: bytes, what: str) -> None:
    path = write(tmp_path / "a.array_record", [record] * 3)
    with pytest.raises(
        DataError, match=rf"array_record: .*a\.array_record: {what}.*as a tf\.train\.Example with 'image'"
    ):
        opened(path, on_error="skip")


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "it is empty, cut off, or not an ArrayRecord file"),
    "no file of records": (lambda data: b"<html>" * 20_000, "it is empty, cut off, or not an ArrayRecord file"),
    "cut": (lambda data: data[: len(data) // 2], "it is empty, cut off, or not an ArrayRecord file"),
    "cut at the end": (lambda data: data[:-100], "it is empty, cut off, or not an ArrayRecord file"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files(shards: Path, name: str) -> None:
    damage, what = DAMAGE[name]
    path = shards / "0000.array_record"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"1 problem in .*shards:\n  0000\.array_record: {what}"):
        opened(shards)
    assert shown(opened(shards, on_error="skip")) == [(i, f"image {i}") for i in range(4, COUNT)]


def test_a_file_without_records(tmp_path: Path) -> None:
    write(tmp_path / "a.array_record", [])
    with pytest.raises(
        DataError, match=r"a\.array_record: it (holds no record|is empty)(?s:.*)nothing else to train on"
    ):
        opened(tmp_path, on_error="skip")


def test_a_damaged_record(tmp_path: Path) -> None:
    """The file has a checksum for each record."""
    path = write(tmp_path / "a.array_record", [sample(i) for i in range(4)], "group_size:1,uncompressed")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"image 2", b"image 3"))
    dataset = opened(path, on_error="skip")
    assert shown(dataset) == [(i, f"image {i}") for i in (0, 1, 3)]
    (problem,) = dataset.problems()
    assert problem.where == "a.array_record, record 2" and "the record is damaged: " in problem.what


def test_a_file_that_changes_while_it_is_read(shards: Path) -> None:
    dataset = opened(shards)
    dataset.image("train", 0)
    write(shards / "0000.array_record", [sample(9)])
    (shards / "0001.array_record").unlink()
    for index, what in ((0, "its shard has changed"), (4, "No such file")):
        with pytest.raises(DataError, match=rf"array_record, record 0 cannot be read: {what}.*must stay as they are"):
            dataset.image("train", index)
    assert numbers(dataset.image("train", 8)[None]) == [8]


def test_without_the_package(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "array_record.python", None)
    with pytest.raises(DataError, match=r"the package array-record is not installed .*pip install array-record"):
        opened(shards)


# Worker processes, resume, and the command line


def test_batches_are_the_same_after_a_resume_and_with_workers(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged image is replaced in the same way."""
    monkeypatch.setattr(encoded, "READ_AT_START", 0)
    write(shards / "0001.array_record", [sample(4), example({"image": image(100)[:60], "caption": b"image 5"})])

    def batches(start: int, count: int = 0) -> list[list[tuple[int, int]]]:
        dataset = opened(shards, on_error="skip", draw_captions=True)
        encoder = Words()
        encoder.adapt(dataset.captions("train"))
        workers = Workers(dataset, count) if count else None
        loader = Loader(dataset, encoder, batch_size=4, workers=workers)
        found = list(itertools.islice(loader.training(start=start, seed=3), 8 - start))
        loader.close()
        return [list(zip(numbers(b["image"]), b["tokens"]["id"].tolist(), strict=True)) for b in found]

    whole = batches(0)
    assert batches(5) == whole[5:] and batches(3, count=1) == whole[3:] and batches(0, count=2) == whole


def test_the_command_line(shards: Path, tmp_path: Path, toy: None, kgen: Callable[..., Outcome]) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        f"data: {{name: array_record, path: {shards}, size: 16}}\nencoder: letters\ngenerator: toy/means\n"
        "fit: {steps: 2, batch_size: 2, warmup_steps: 0}\nevaluate: {metrics: [brightness]}\n"
    )
    assert kgen("check", config).status == 0
    done = kgen("data", "check", config)
    assert done.status == 0 and "data: every image was read, and all are good" in done.out
    (shards / "0001.array_record").write_bytes(b"")
    refused = kgen("check", config)
    assert refused.status == 2 and "0001.array_record: it is empty, cut off" in refused.err
