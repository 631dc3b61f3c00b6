"""Aspect-ratio buckets: their shapes, the bucket of an image, what is cropped, and the order of the batches."""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kgen import DataError
from kgen.contracts.dataset import Dataset
from kgen.data.datasets.imagefolder import ImageFolder
from kgen.data.datasets.mixture import Mixture
from kgen.data.encoded import Buckets, headers
from kgen.data.encoded.buckets import cropped_shares, nearest, usual_step
from kgen.data.images import decode, fitted, header_shape
from kgen.data.loader import Loader
from kgen.data.order import BatchOrder
from kgen.data.reading.workers import Workers
from kgen.testing import DatasetConformance

pytestmark = pytest.mark.portable

WHITE = (255, 255, 255)

# ---- the shapes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "step", "aspect"), [(64, None, 2), (1024, 64, 2), (512, 64, 4), (96, 8, 3), (16, 16, 1)]
)
def test_shapes_are_all_that_nothing_larger_contains(size: int, step: int | None, aspect: float) -> None:
    """Compared with brute force: all shapes within the limits that are not part of a larger one."""
    found = Buckets(step=step, max_aspect=aspect).shapes(size)
    unit = step or usual_step(size)
    sides = range(unit, 2 * size + unit, unit)
    allowed = [(h, w) for h in sides for w in sides if h * w <= size**2]
    largest = [(h, w) for h, w in allowed if (h + unit) * w > size**2 and h * (w + unit) > size**2]
    assert sorted(found) == sorted((h, w) for h, w in largest if max(h, w) <= aspect * min(h, w))
    assert {(w, h) for h, w in found} == set(found) and (size, size) in found
    for height, width in found:  # of equal area, up to a step
        assert 1 - unit / min(height, width) < height * width / size**2 <= 1


def test_shapes_of_sdxl_are_among_those_of_its_paper() -> None:
    """Podell et al. 2023, appendix I, lists these heights and widths, among others."""
    paper = {(768, 1344), (832, 1216), (896, 1152), (960, 1088), (1024, 1024)}
    assert {shape for shape in Buckets(step=64).shapes(1024) if shape[0] <= shape[1]} <= {*paper, (960, 1024)}


def test_the_usual_step() -> None:
    assert [usual_step(size) for size in (1024, 512, 256, 64, 32, 16, 100, 37)] == [128, 64, 32, 8, 4, 4, 10, 1]


def test_a_step_must_divide_the_size() -> None:
    with pytest.raises(DataError, match=r"buckets.step: 24 does not divide size 64"):
        Buckets(step=24).shapes(64)


def test_an_image_goes_to_the_bucket_of_the_nearest_aspect_ratio() -> None:
    shapes = Buckets(step=64, max_aspect=4).shapes(512)
    images = np.random.default_rng(0).integers(100, 400, (500, 2))
    for image, found in zip(images.tolist(), nearest(shapes, images), strict=True):
        distances = [abs(math.log(w / h) - math.log(image[1] / image[0])) for h, w in shapes]
        assert distances[found] == min(distances)


# ---- what is cropped ---------------------------------------------------------------------------------------------


def coordinates(height: int, width: int) -> Image.Image:
    """An image whose red and green are the row and the column, from 0 to 255."""
    rows, columns = np.meshgrid(np.linspace(0, 255, height), np.linspace(0, 255, width), indexing="ij")
    return Image.fromarray(np.stack([rows, columns, 0 * rows], axis=-1).round().astype(np.uint8))


def png(image: Image.Image, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG", **options)
    return data.getvalue()


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("image", "bucket"), [((120, 180), (24, 40)), ((120, 180), (32, 32)), ((180, 102), (40, 24))])
def test_the_largest_window_of_the_bucket_is_kept(image: tuple[int, int], bucket: tuple[int, int], part: float) -> None:
    """The rows and columns that are seen are those of the largest window of the bucket's aspect ratio."""
    pixels = fitted(png(coordinates(*image)), bucket, 3, "bucket", WHITE, part).astype(float)
    assert pixels.shape == (*bucket, 3)
    scale = max(b / i for b, i in zip(bucket, image, strict=True))  # covers the bucket
    for axis in (0, 1):
        kept = bucket[axis] / scale  # of the image's pixels
        first = (image[axis] - kept) * part
        seen = pixels[..., axis].mean(1 - axis) / 255 * (image[axis] - 1)  # the rows or columns of the image
        expected = first + (np.arange(bucket[axis]) + 0.5) / scale - 0.5
        inner = slice(3, -3)  # at the borders of the image, the filter sees less
        np.testing.assert_allclose(seen[inner], expected[inner], atol=0.45)  # pixels; a level is up to 0.7
    share = float(cropped_shares(np.array([bucket]), np.array([image]))[0])
    assert share == pytest.approx(1 - math.prod(bucket) / scale**2 / math.prod(image))


# ---- headers -----------------------------------------------------------------------------------------------------


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def behind_the_pixels(image: Image.Image) -> bytes:
    """A PNG whose EXIF data follow its pixels, as the standard allows."""
    plain, with_exif = png(image), png(image, exif=turned(6).tobytes())
    start = with_exif.index(b"eXIf") - 4
    length = int.from_bytes(with_exif[start : start + 4]) + 12
    chunk, end = with_exif[start : start + length], plain.rindex(b"IEND") - 4
    return plain[:end] + chunk + plain[end:]


def saved(name: str, **options: Any) -> Callable[[Image.Image], bytes]:
    def save(image: Image.Image) -> bytes:
        data = io.BytesIO()
        image.save(data, name, **options)
        return data.getvalue()

    return save


@pytest.mark.parametrize(
    "save",
    [
        *(saved(name) for name in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")),
        *(saved("JPEG", exif=turned(number)) for number in range(1, 9)),
        *(saved(name, exif=turned(8)) for name in ("PNG", "WEBP", "TIFF")),
        behind_the_pixels,
    ],
)
def test_a_header_tells_the_shape_of_the_decoded_image(save: Callable[[Image.Image], bytes]) -> None:
    data = save(coordinates(20, 31))
    image = decode(data, WHITE)
    assert header_shape(io.BytesIO(data)) == (image.height, image.width)
    assert sorted(header_shape(io.BytesIO(data))) == [20, 31]


def test_a_turned_jpeg_is_reduced_no_further_than_its_bucket() -> None:
    """A JPEG decoder reduces the image before it is rotated, so that height and width must be swapped for it."""
    data = saved("JPEG", exif=turned(6), quality=95)(coordinates(400, 200))  # 200 high and 400 wide
    image = decode(data, WHITE, (100, 200))
    assert (image.height, image.width) == (100, 200)


# ---- datasets ----------------------------------------------------------------------------------------------------

SIZES = [(24, 24)] * 9 + [(20, 30)] * 5 + [(33, 21)] * 4 + [(23, 26), (16, 31)]


def write(path: Path, sizes: list[tuple[int, int]] = SIZES) -> Path:
    """Images of some heights and widths, with the captions "image 0" and so on. They are an hour old."""
    path.mkdir()
    for number, (height, width) in enumerate(sizes):
        file = path / f"{number:02}.png"
        Image.fromarray(np.full((height, width, 3), 10 * number, np.uint8)).save(file)
        os.utime(file, (time.time() - 3600,) * 2)
    rows = [json.dumps({"file_name": f"{n:02}.png", "text": f"image {n}"}) for n in range(len(sizes))]
    (path / "metadata.jsonl").write_text("\n".join(rows))
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path / "cache"))
    return write(tmp_path / "images")


def opened(folder: Path, **options: Any) -> ImageFolder:
    return ImageFolder(path=str(folder), **{"size": 16, "resize": "bucket", **options})


class TestBuckets(DatasetConformance):
    @pytest.fixture(autouse=True)
    def _in(self, folder: Path) -> None:
        self.folder = folder

    def build(self) -> Dataset:
        return opened(self.folder, validation=0.25, flip=True)


def test_images_have_the_shapes_of_their_buckets(folder: Path) -> None:
    dataset = opened(folder)
    found = dataset.rows_by_shape("train")
    assert {shape: len(rows) for shape, rows in found.items()} == {(20, 12): 4, (16, 16): 10, (12, 20): 6}
    assert sorted(np.concatenate(list(found.values()))) == list(range(20))
    for shape, rows in found.items():
        assert all(dataset.image("train", row).shape == (*shape, 3) for row in rows.tolist())
    (counts, cut) = [line for line in dataset.notes() if "bucket" in line or "cropped" in line]
    assert "20x12 (4), 16x16 (10), 12x20 (6)" in counts
    assert cut.endswith(f"is cropped on average, and at most {1 - 20 * 16 / 12 / 31:.1%} (19.png)")


def test_shapes_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    monkeypatch.setattr(headers, "header_shape", lambda file: (read.append(file.name), header_shape(file))[1])
    first = opened(folder).rows_by_shape("train")
    assert len(read) == 20
    second = opened(folder).rows_by_shape("train")
    assert len(read) == 20
    assert all(np.array_equal(first[shape], second[shape]) for shape in first)
    Image.new("RGB", (40, 24)).save(folder / "00.png")
    changed = opened(folder)
    assert len(read) == 21 and 0 in changed.rows_by_shape("train")[12, 20]


@pytest.mark.parametrize("read_at_start", [True, False])
def test_an_image_that_fits_no_bucket_is_refused_or_skipped(
    folder: Path, read_at_start: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not read_at_start:
        monkeypatch.setattr("kgen.data.encoded.images.READ_AT_START", 0)
    Image.new("RGB", (16 * 3, 16)).save(folder / "02.png")
    with pytest.raises(DataError, match=r"02.png: its 16x48 pixels .* is 3, .*max_aspect is 2\n.*on_error: skip"):
        opened(folder)
    dataset = opened(folder, on_error="skip")
    assert "image 2" not in dataset.captions("train") and len(dataset.captions("train")) == 19
    assert [problem.where for problem in dataset.problems()] == ["02.png"]
    wider = opened(folder, buckets={"max_aspect": 4})
    assert len(wider.captions("train")) == 20 and wider.image("train", 2).shape == (8, 32, 3)


def test_options_that_contradict_each_other_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="buckets has no effect with resize: crop"):
        opened(folder, resize="crop", buckets={"step": 4})
    with pytest.raises(DataError, match="step: 5 does not divide size 16"):
        opened(folder, buckets={"step": 5})


def test_a_damaged_image_is_replaced_by_one_of_its_bucket(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kgen.data.encoded.images.READ_AT_START", 0)
    for number in (13, 14):  # the last of 20x30, and the first of 33x21
        file = folder / f"{number}.png"
        file.write_bytes(file.read_bytes()[:60])
    dataset = opened(folder, on_error="skip")
    assert [dataset.image("train", n)[0, 0, 0] for n in (13, 14)] == [190, 150]
    assert [dataset.image("train", n).shape[:2] for n in (13, 14)] == [(12, 20), (20, 12)]
    assert [dataset.replacement("train", n) for n in (13, 14)] == [19, 15]


def test_crops_and_flips(folder: Path) -> None:
    coordinates(20, 40).save(folder / "00.png")
    dataset = opened(folder, crops=3, flip=True)
    left, middle, right = (dataset.view("train", 0, number)[..., 1].mean() for number in range(3))
    assert left < middle < right and middle == pytest.approx(127.5, abs=1)
    np.testing.assert_array_equal(dataset.image("train", 20), dataset.image("train", 0)[:, ::-1])
    assert {shape: len(rows) for shape, rows in dataset.rows_by_shape("train").items()} == {
        (20, 12): 8,
        (16, 16): 18,
        (12, 20): 14,
    }


# ---- the order ---------------------------------------------------------------------------------------------------

GROUPS = [np.array([0, 3, 4]), np.array([1]), np.array([2, *range(5, 40)])]


def test_a_batch_has_one_group_and_every_row_is_used_equally_often() -> None:
    order = BatchOrder(40, 4, 7, groups=GROUPS)
    used: Counter[int] = Counter()
    streams: list[list[int]] = [[], [], []]
    for step in range(200):
        rows = order(step, range(4))
        (group,) = (number for number, own in enumerate(GROUPS) if rows[0] in own)
        assert set(rows) <= set(GROUPS[group].tolist())
        used.update(rows)
        streams[group] += rows
        for own in GROUPS:  # at any time, up to two batches
            share = len(own) / 40
            assert abs(sum(used[row] for row in own.tolist()) - share * 4 * (step + 1)) < 2 * 4
    assert all(used[row] == 20 for row in range(40))  # 200 batches of 4 are 20 passes
    for own, stream in zip(GROUPS, streams, strict=True):
        starts = range(0, len(stream) - len(own) + 1, len(own))
        assert all(sorted(stream[start : start + len(own)]) == own.tolist() for start in starts)


def test_the_batch_of_a_step_depends_on_nothing_but_seed_and_step() -> None:
    whole = [BatchOrder(40, 4, 1, groups=GROUPS)(step, range(4)) for step in range(60)]
    order = BatchOrder(40, 4, 1, groups=GROUPS)
    assert [order(step, range(4)) for step in (59, 3, 30)] == [whole[59], whole[3], whole[30]]
    assert order(30, [1, 3]) == [whole[30][1], whole[30][3]]
    assert [BatchOrder(40, 4, 2, groups=GROUPS)(step, range(4)) for step in range(60)] != whole


def test_weights_of_datasets_hold_with_groups() -> None:
    """Half of the examples come from the first four rows, whatever their groups are."""
    groups = [np.array([0, 4, 5, 6]), np.array([1, 2, 3, *range(7, 24)])]
    order = BatchOrder(24, 6, 0, [(4, 0.5), (20, 0.5)], groups)
    used = Counter(row for step in range(400) for row in order(step, range(6)))
    for row in range(24):
        expected = Fraction(2400, 8 if row < 4 else 40)
        assert abs(used[row] - expected) <= 3, (row, used[row])


# ---- the loader --------------------------------------------------------------------------------------------------


def some_batches(dataset: Dataset, start: int = 0, workers: int = 0, **options: Any) -> list[np.ndarray]:
    pool = Workers(dataset, workers) if workers else None
    loader = Loader(dataset, None, batch_size=4, workers=pool, **options)
    try:
        return [batch["image"] for batch in itertools.islice(iter(loader.training(start=start, seed=3)), 12)]
    finally:
        loader.close()


@pytest.mark.parametrize("crops", [1, 2])
def test_batches_are_the_same_for_any_workers_and_after_a_resume(folder: Path, crops: int) -> None:
    dataset = opened(folder, crops=crops)
    whole = some_batches(dataset, flip=True)
    assert len({images.shape for images in whole}) == 3
    for other in (some_batches(dataset, workers=workers, flip=True) for workers in (1, 2)):
        assert all(np.array_equal(one, two) for one, two in zip(whole, other, strict=True))
    resumed = some_batches(dataset, start=5, flip=True)
    assert all(np.array_equal(one, two) for one, two in zip(whole[5:], resumed, strict=False))


def test_once_reads_every_image_of_every_shape_once(folder: Path) -> None:
    loader = Loader(opened(folder), None, batch_size=4)
    batches = list(loader.once())
    assert len(batches) == len(loader) == 1 + 3 + 2
    seen = [(b["image"][i, 0, 0, 0], len(b["image"])) for b in batches for i in np.flatnonzero(b["weight"])]
    assert sorted(level for level, _ in seen) == [10 * number for number in range(20)]
    assert {size for _, size in seen} == {4}


def test_a_mixture_joins_buckets(folder: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", [(30, 20), (20, 30), (20, 20)])
    choice = {"name": "imagefolder", "size": 16, "resize": "bucket"}
    dataset = Mixture(
        datasets=({**choice, "path": str(folder), "weight": 1}, {**choice, "path": str(other), "weight": 3})
    )
    rows = dataset.rows_by_shape("train")
    assert {shape: len(own) for shape, own in rows.items()} == {(20, 12): 5, (16, 16): 11, (12, 20): 7}
    assert all(dataset.image("train", row).shape[:2] == shape for shape, own in rows.items() for row in own.tolist())
    assert len({images.shape for images in some_batches(dataset)}) == 3
