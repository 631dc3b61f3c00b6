"""Real files of tensorflow-datasets, tiny ones, that the tests write without any network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worker_batches import check_batches

from kgen import DataError
from kgen.contracts.dataset import Dataset
from kgen.data.datasets import tfds as module
from kgen.data.datasets.tfds import TFDS
from kgen.testing import DatasetConformance

tfds = pytest.importorskip("tensorflow_datasets")


def example(i: int) -> dict[str, Any]:
    """An image of 20 x 30, gray i * 20 but for its red left third."""
    image = np.full((20, 30, 3), 20 * i, np.uint8)
    image[:, :10] = (200, 0, 0)
    captions = [{"text": f"first {i}"}, {"text": "second"}]
    return {"image": image, "label": i % 2, "caption": f"number {i}", "captions": captions}


class BreakableImage(tfds.features.Image):
    """Stores "broken" as bytes that are no image."""

    def encode_example(self, image_or_path_or_fobj: Any) -> Any:
        if isinstance(image_or_path_or_fobj, str):
            return b"no image"
        return super().encode_example(image_or_path_or_fobj)


def write(folder: Path, file_format: str, keys: tuple[str, ...], examples: dict[str, list[dict[str, Any]]]) -> Path:
    """Writes a dataset named as its format; returns the folder of its version."""
    features = {
        "image": BreakableImage(shape=(None, None, 3)),
        "floats": tfds.features.Image(shape=(4, 4, 1), dtype=np.float32),
        "id": tfds.features.Text(),
        "deep": {"image": tfds.features.Image(), "text": tfds.features.Scalar(dtype=np.str_)},
        "label": tfds.features.ClassLabel(names=["red_fox", "sky"]),
        "caption": tfds.features.Text(),
        "captions": tfds.features.Sequence({"text": tfds.features.Text()}),
        "pixels": tfds.features.Tensor(shape=(4, 4, 3), dtype=np.uint8),
    }
    path = folder / file_format / "1.0.0"
    path.mkdir(parents=True)
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=file_format, version=tfds.core.Version("1.0.0"), data_dir=str(path), module_name="test"
    )
    info = tfds.core.DatasetInfo(
        builder=identity, features=tfds.features.FeaturesDict({key: features[key] for key in keys})
    )
    writer = tfds.core.SequentialWriter(info, 100, file_format=file_format)
    writer.initialize_splits(list(examples))
    writer.add_examples({split: [{k: e[k] for k in keys} for e in es] for split, es in examples.items()})
    writer.close_all()
    stored = path / "features.json"
    base = "tensorflow_datasets.core.features.image_feature.Image"
    stored.write_text(stored.read_text().replace(f"{BreakableImage.__module__}.{BreakableImage.__name__}", base))
    return path


KEYS = ("image", "label", "caption", "captions")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("datasets")
    for file_format in ("array_record", "tfrecord"):
        write(
            path,
            file_format,
            KEYS,
            {"train": [example(i) for i in range(6)], "test": [example(i) for i in range(6, 9)]},
        )
    return path


def open_(folder: Path, name: str = "array_record", **options: Any) -> TFDS:
    return TFDS(dataset=name, data_dir=str(folder), **{"caption_key": "caption", "size": 20, **options})


class TestArrayRecord(DatasetConformance):
    name = "array_record"

    @pytest.fixture(autouse=True)
    def _in(self, folder: Path) -> None:
        self.folder = folder

    def build(self) -> Dataset:
        return open_(self.folder, self.name, validation="test", holdout=("number 3",))


class TestTFRecord(TestArrayRecord):
    name = "tfrecord"


@pytest.mark.parametrize("name", ["array_record", "tfrecord"])
def test_images_captions_and_splits(folder: Path, name: str) -> None:
    dataset = open_(folder, name, validation="test", holdout=("number 3", "number 7"))
    assert list(dataset.captions("train")) == [f"number {i}" for i in (0, 1, 2, 4, 5)]
    assert list(dataset.captions("validation")) == ["number 6", "number 8"]
    assert list(dataset.captions("holdout")) == ["number 3", "number 7"]
    for split in ("train", "validation", "holdout"):
        for index, caption in enumerate(dataset.captions(split)):
            gray = 20 * int(caption.split()[1])
            np.testing.assert_array_equal(dataset.image(split, index)[:, 10:], np.full((20, 10, 3), gray))
    assert f"{name}" in dataset.credit and "TensorFlow Datasets" in dataset.credit


@pytest.mark.parametrize("name", ["tfrecord", pytest.param("array_record", marks=pytest.mark.slow)])
def test_batches_do_not_depend_on_the_number_of_workers(folder: Path, name: str) -> None:
    check_batches(open_(folder, name), batch_size=4, steps=5, flip=True)


def test_resizing_and_channels(folder: Path) -> None:
    stretched = open_(folder, resize="stretch", size=30).image("train", 5)
    np.testing.assert_array_equal(stretched[15, [0, 29]], [(200, 0, 0), (100, 100, 100)])
    gray = open_(folder, channels=1, size=20, resize="pad", background="black").image("train", 5)
    assert gray.shape == (20, 20, 1) and gray[0].max() == 0 and gray[10, -1, 0] == 100


@pytest.mark.parametrize("name", ["array_record", "tfrecord"])
@pytest.mark.parametrize(
    ("key", "captions"),
    [
        ("label", ["an image of a red fox", "an image of a sky"]),
        ("captions/text", ["first 0", "first 1"]),
    ],
)
def test_labels_and_nested_texts(folder: Path, name: str, key: str, captions: list[str]) -> None:
    dataset = open_(folder, name, caption_key=key, template="an image of a {label}")
    assert list(dataset.captions("train"))[:2] == captions


def test_subsplits_and_a_folder_by_itself(folder: Path) -> None:
    dataset = open_(folder, split="train[:2]", validation="train[4:]")
    assert list(dataset.captions("train")) == ["number 0", "number 1"]
    assert list(dataset.captions("validation")) == ["number 4", "number 5"]
    alone = TFDS(data_dir=str(folder / "array_record" / "1.0.0"), caption_key="caption")
    assert len(alone.captions("train")) == 6


def test_the_only_label_is_found_and_unknown_labels_are_problems(tmp_path: Path) -> None:
    examples = [example(i) for i in range(4)]
    examples[2]["label"] = -1
    write(tmp_path, "array_record", ("image", "label"), {"train": examples})
    with pytest.raises(DataError, match=r"1 problem in array_record/1.0.0:\n  train, example 2: 'label' holds no"):
        TFDS(dataset="array_record", data_dir=str(tmp_path))
    dataset = TFDS(dataset="array_record", data_dir=str(tmp_path), on_error="skip")
    assert list(dataset.captions("train")) == ["a photo of a red fox", "a photo of a sky", "a photo of a sky"]
    np.testing.assert_array_equal(dataset.image("train", 2)[0, -1], (60, 60, 60))
    assert len(dataset.problems()) == 1


def test_pixels_that_are_stored_as_numbers(tmp_path: Path) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    write(tmp_path, "array_record", ("pixels", "caption"), {"train": [{"pixels": pixels, "caption": "a"}]})
    dataset = TFDS(dataset="array_record", data_dir=str(tmp_path), image_key="pixels", size=4)
    np.testing.assert_array_equal(dataset.image("train", 0), pixels)


def test_ids_are_not_captions(tmp_path: Path) -> None:
    """cifar10 is such: its only text is an id."""
    examples = [{**example(i), "id": f"train_{i}"} for i in range(2)]
    write(tmp_path, "array_record", ("id", "image", "label"), {"train": examples})
    dataset = TFDS(dataset="array_record", data_dir=str(tmp_path))
    assert list(dataset.captions("train")) == ["a photo of a red fox", "a photo of a sky"]


def test_nested_images_and_plain_strings(tmp_path: Path) -> None:
    examples = [{"deep": {"image": example(i)["image"], "text": f"number {i}"}} for i in range(2)]
    write(tmp_path, "array_record", ("deep",), {"train": examples})
    dataset = TFDS(dataset="array_record", data_dir=str(tmp_path), image_key="deep/image", size=20)
    assert list(dataset.captions("train")) == ["number 0", "number 1"]
    np.testing.assert_array_equal(dataset.image("train", 1)[0, -1], (20, 20, 20))


def test_images_of_floats_are_refused(tmp_path: Path) -> None:
    """They are stored as RGBA files, which would be read as noise."""
    examples = [{"floats": np.full((4, 4, 1), 0.5, np.float32), "caption": "a"}]
    write(tmp_path, "array_record", ("floats", "caption"), {"train": examples})
    with pytest.raises(DataError, match="no image in image_key 'floats'"):
        TFDS(dataset="array_record", data_dir=str(tmp_path), image_key="floats")


@pytest.mark.parametrize("name", ["array_record", "tfrecord"])
def test_broken_images_are_found_before_training(tmp_path: Path, name: str) -> None:
    examples = [example(i) for i in range(4)]
    examples[2]["image"] = "broken"
    write(tmp_path, name, KEYS, {"train": examples})
    with pytest.raises(DataError, match=rf"1 problem in {name}/1\.0\.0:\n  train, example 2: this is not an image"):
        open_(tmp_path, name)
    dataset = open_(tmp_path, name, on_error="skip")
    assert list(dataset.captions("train")) == ["number 0", "number 1", "number 3"]
    np.testing.assert_array_equal(dataset.image("train", 2)[0, -1], (60, 60, 60))


@pytest.mark.parametrize("damage", ["missing", "cut", "zeros"])
@pytest.mark.parametrize("name", ["array_record", "tfrecord"])
def test_damaged_files(tmp_path: Path, name: str, damage: str) -> None:
    path = write(tmp_path, name, KEYS, {"train": [example(i) for i in range(4)]})
    (shard,) = (file for file in path.iterdir() if name in file.name)
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2] if damage == "cut" else bytes(len(data)))
    if damage == "missing":
        shard.unlink()
    with pytest.raises(DataError, match=r"4 problems in array_record/1\.0\.0|'train', cannot be read"):
        open_(tmp_path, name, on_error="skip")


def test_fingerprint_sees_every_image(tmp_path: Path) -> None:
    found = set()
    for folder, gray in (("a", 0), ("b", 1), ("c", 1)):
        examples = [example(i) for i in range(8)]
        examples[2]["image"][0, 0] = gray
        write(tmp_path / folder, "array_record", KEYS, {"train": examples})
        found.add(open_(tmp_path / folder).fingerprint())
    assert len(found) == 2


def test_empty_texts_are_problems(tmp_path: Path) -> None:
    examples = [{**example(0), "captions": []}, {**example(1), "caption": " "}]
    write(tmp_path, "array_record", KEYS, {"train": examples})
    for key, captions in (("captions/text", ["first 1"]), ("caption", ["number 0"])):
        dataset = open_(tmp_path, caption_key=key, on_error="skip")
        assert list(dataset.captions("train")) == captions and len(dataset.problems()) == 1


def test_prepares_a_missing_dataset(tmp_path: Path) -> None:
    """tensorflow-datasets' own preparation, of a dataset that needs no download; kgen asks for random access."""
    pytest.importorskip(
        "importlib_resources", reason="tensorflow-datasets needs it to prepare, but does not require it"
    )

    class KgenTestMadeHere(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            features = {"image": tfds.features.Image(shape=(20, 30, 3)), "caption": tfds.features.Text()}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager: Any) -> Any:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Any:
            for i in range(3):
                yield i, {key: example(i)[key] for key in ("image", "caption")}

    dataset = TFDS(dataset="kgen_test_made_here", data_dir=str(tmp_path))
    assert sorted(dataset.captions("train")) == ["number 0", "number 1", "number 2"]
    assert list(tmp_path.rglob("*.array_record*"))


def test_a_folder_at_another_level_is_named(folder: Path, tmp_path: Path) -> None:
    version = folder / "array_record" / "1.0.0"
    with pytest.raises(DataError, match=f"the folder of a version does: data_dir: '{version}'$"):
        TFDS(data_dir=str(version.parent))
    with pytest.raises(DataError, match=f"data_dir: '{version}', or one of 1 more"):
        TFDS(data_dir=str(folder))
    for wrong in (folder.parent, folder / "array_record"):
        with pytest.raises(DataError, match=f"'array_record' is not in {wrong}, but in .*data_dir: '{folder}'"):
            TFDS(dataset="array_record", data_dir=str(wrong))
    with pytest.raises(DataError, match=rf"holds no dataset_info\.json.*name: imagefolder, path: '{tmp_path}'"):
        TFDS(data_dir=str(tmp_path))


@pytest.mark.parametrize("by_name", [True, False])
def test_features_of_foreign_modules_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_name: bool
) -> None:
    """tensorflow-datasets would import the module: a stranger's files could run code from the current folder."""
    path = write(tmp_path, "array_record", KEYS, {"train": [example(0)]})
    stored = path / "features.json"
    text = stored.read_text()
    assert "tensorflow_datasets.core.features.text_feature.Text" in text
    stored.write_text(text.replace("tensorflow_datasets.core.features.text_feature.Text", "kgen_test_evil.Text"))
    (tmp_path / "kgen_test_evil.py").write_text("raise SystemExit('code was run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DataError, match=r"features\.json names 'kgen_test_evil\.Text', which is not a feature of"):
        open_(tmp_path) if by_name else TFDS(data_dir=str(path))
    stored.write_text(text)
    assert len(open_(tmp_path).captions("train")) == 1, "the guard is taken away, and lets its own features pass"


def test_texts_that_are_not_utf_8_are_problems(tmp_path: Path) -> None:
    examples = [{**example(i), "caption": [b"caf\xe9", b"good"][i]} for i in range(2)]
    write(tmp_path, "array_record", KEYS, {"train": examples})
    dataset = open_(tmp_path, on_error="skip")
    assert list(dataset.captions("train")) == ["good"]
    assert "'caption' is not UTF-8 text" in dataset.problems()[0].what


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "no_such_dataset"}, "there is no dataset 'no_such_dataset'"),
        ({"name": "not a name"}, "there is no dataset 'not a name'"),
        ({"split": "tran"}, "has no split 'tran': there are 'train', 'test'"),
        ({"validation": "val"}, "has no split 'val'"),
        ({"validation": "train"}, "'train' holds examples of 'train', the training split"),
        ({"validation": "train[:1]"}, "holds examples of 'train', the training split"),
        ({"split": "train[:3]", "validation": "test+train[2:]"}, "holds examples of"),
        ({"split": "train[:0]"}, "has no example to train on"),
        ({"image_key": "img"}, r"no image in image_key 'img': there are images in \['image'\]"),
        ({"image_key": "caption"}, "no image in image_key 'caption'"),  # a text is bytes too
        ({"caption_key": "text"}, r"no caption_key 'text': there are the texts \['caption', 'captions/text'\]"),
        ({"caption_key": None}, "caption_key must name one of the texts"),
        ({"caption_key": "image"}, "no caption_key 'image'"),
        ({"holdout": ("number 33",)}, "no caption 'number 33': did you mean 'number 3'"),
        ({"template": "a photo"}, r"must hold \{label\}"),
        ({"background": "rde"}, "'rde' is not a color"),
    ],
)
def test_wrong_options(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_(folder, **options)


def test_a_dataset_that_is_neither_name_nor_folder() -> None:
    with pytest.raises(DataError, match="needs 'dataset'"):
        TFDS()
    with pytest.raises(DataError, match="there is no dataset"):
        TFDS(data_dir="/nowhere/at/all")


def test_the_memory_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY_LIMIT", 500)
    assert len(open_(folder).captions("train")) == 6, "random access needs no memory"
    with pytest.raises(DataError, match="too large for memory: prepare it again, as array_record"):
        open_(folder, "tfrecord")


def test_random_access_needs_no_tensorflow(folder: Path) -> None:
    code = (
        "import sys\n"
        "from kgen.data.datasets.tfds import TFDS\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        f"d = TFDS(dataset='array_record', data_dir={str(folder)!r}, caption_key='caption')\n"
        "print(d.image('train', 1).shape, {'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(64, 64, 3) set()"


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match=r'pip install "kgen-core\[tfds\]"'):
        TFDS(dataset="cifar10")
