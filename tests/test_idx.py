"""kgen.data.datasets.idx."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from worker_batches import check_batches

from kgen import DataError
from kgen.data.datasets.idx import Idx, read_idx
from kgen.testing import DatasetConformance

CLASSES = ("shirt", "boot", "bag")
RNG = np.random.default_rng(0)
IMAGES = {"train": RNG.integers(0, 256, (30, 6, 5), np.uint8), "t10k": RNG.integers(0, 256, (9, 6, 5), np.uint8)}
LABELS = {"train": np.arange(30, dtype=np.uint8) % 3, "t10k": np.arange(9, dtype=np.uint8)[::-1] % 3}


def encode(array: np.ndarray) -> bytes:
    """Writes the format as its authors describe it."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in IMAGES:
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(encode(IMAGES[part])))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(encode(LABELS[part]))
    return tmp_path


class TestIdx(DatasetConformance):
    @pytest.fixture(autouse=True)
    def _folder(self, folder: Path) -> None:
        self.folder = folder

    def build(self) -> Idx:
        return Idx(path=str(self.folder), classes=CLASSES, size=8, holdout=("bag",))


def test_images_and_names(folder: Path) -> None:
    data = Idx(path=str(folder), classes=CLASSES, validation=4)
    assert data.image_space.shape == (6, 5, 1)
    assert data.captions("train")[:4] == ["shirt", "boot", "bag", "shirt"]
    assert data.captions("validation") == ["bag", "boot", "shirt", "bag"]
    for index in (0, 7, 29):
        np.testing.assert_array_equal(data.image("train", index)[..., 0], IMAGES["train"][index])
    np.testing.assert_array_equal(data.image("validation", 3)[..., 0], IMAGES["t10k"][3])


def test_batches_do_not_depend_on_the_number_of_workers(folder: Path) -> None:
    check_batches(Idx(path=str(folder), classes=CLASSES, size=8), batch_size=7, steps=14, flip=True)


def test_border_limit_and_holdout(folder: Path) -> None:
    data = Idx(path=str(folder), size=9, limit=10, validation=0, holdout=("1",))
    assert data.captions("train") == [str(i % 3) for i in range(10) if i % 3 != 1]
    assert data.captions("holdout") == ["1"] * 3 and not data.captions("validation")
    np.testing.assert_array_equal(data.image("train", 1)[1:7, 2:7, 0], IMAGES["train"][2])  # 1 is held out
    image = data.image("holdout", 1)[..., 0]
    np.testing.assert_array_equal(image[1:7, 2:7], IMAGES["train"][4])
    assert image.shape == (9, 9) and image.sum(dtype=int) == IMAGES["train"][4].sum(dtype=int)


def test_fingerprint_sees_every_image(folder: Path) -> None:
    before = Idx(path=str(folder)).fingerprint()
    changed = IMAGES["train"].copy()
    changed[17, 3, 3] ^= 1
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(encode(changed)))
    assert Idx(path=str(folder)).fingerprint() != before


def test_damaged_files_and_wrong_options_are_named(folder: Path) -> None:
    def refuses(message: str, **options: object) -> None:
        with pytest.raises(DataError, match=message):
            Idx(**{"path": str(folder), **options})

    refuses("does not exist", path=str(folder / "none"))
    refuses("the label 2, but classes names only 0 to 1", classes=("a", "b"))
    refuses("size must be at least 6, not 5", size=5)
    refuses("no caption 'boots': did you mean 'boot'", classes=CLASSES, holdout=("boots",))
    refuses("leaves no image", classes=("a", "a", "a"), holdout=("a",))
    images = folder / "train-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:-20])
    refuses("train-images-idx3-ubyte.gz cannot be read")
    images.write_bytes(gzip.compress(encode(IMAGES["train"])[:-1]))
    refuses("is damaged")
    images.write_bytes(gzip.compress(encode(IMAGES["train"][:29])))
    refuses("29 images, but 30 labels")
    images.write_bytes(gzip.compress(b"PK nothing"))
    refuses("not an IDX file")
    images.unlink()
    refuses("holds no train-images-idx3-ubyte, nor")


def test_a_size_that_fits_no_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    head = bytes((0, 0, 8, 3)) + (2**16).to_bytes(4, "big") * 3
    (tmp_path / "x.gz").write_bytes(gzip.compress(head + bytes(1000)))
    with pytest.raises(DataError, match="says that it holds 281,474,976,710,656 bytes"):
        read_idx(tmp_path / "x.gz", 3)
    small = bytes((0, 0, 8, 1)) + (5).to_bytes(4, "big")
    (tmp_path / "y.gz").write_bytes(gzip.compress(small + bytes(10_000_000)))
    with pytest.raises(DataError, match="is damaged"):
        read_idx(tmp_path / "y.gz", 1)


def test_empty_file_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes((0, 0, 8, 3, 0)))
    with pytest.raises(DataError, match="damaged"):
        read_idx(tmp_path / "x", 3)
