"""Folders of images: every format and mode, captions from three places, and all that can be wrong with either."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kgen import DataError
from kgen.contracts.dataset import Dataset
from kgen.data import images
from kgen.data.datasets.imagefolder import ImageFolder
from kgen.testing import DatasetConformance

RED, GREEN, BLUE, WHITE = (220, 30, 40), (30, 160, 60), (40, 60, 220), (255, 255, 255)


def solid_image(color: tuple[int, ...] = RED, size: tuple[int, int] = (24, 24), mode: str = "RGB") -> Image.Image:
    return Image.new("RGB", size, color).convert(mode)


def table(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images in order, named by metadata."""
    path = tmp_path / "images"
    path.mkdir()
    for i in range(12):
        solid_image((20 * i, 100, 255 - 20 * i)).save(path / f"{i:02}.png")
    return table(path, [{"file_name": f"{i:02}.png", "text": f"image {i}"} for i in range(12)])


class TestFolder(DatasetConformance):
    @pytest.fixture(autouse=True)
    def _in(self, folder: Path) -> None:
        self.folder = folder

    def build(self) -> Dataset:
        return ImageFolder(path=str(self.folder), size=16, validation=0.25, holdout=("image 3",), flip=True)


# What is read


def colors(image: np.ndarray) -> np.ndarray:
    return image.reshape(-1, 3).mean(0)


def gray_16(path: Path) -> None:
    Image.fromarray(np.full((24, 24), 32896, np.uint16)).save(path)  # 128 / 255 of 65535


def palette_with_transparency(path: Path) -> None:
    image = solid_image().convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    image.save(path, transparency=image.getpixel((0, 0)))


def half_transparent(path: Path) -> None:
    Image.new("RGBA", (24, 24), (*RED, 128)).save(path)


def gray_with_alpha(path: Path) -> None:
    Image.new("LA", (24, 24), (100, 0)).save(path)


def animation(path: Path) -> None:
    solid_image(RED).save(path, save_all=True, append_images=[solid_image(BLUE)], duration=100)


def cmyk(path: Path) -> None:
    solid_image().convert("CMYK").save(path, quality=95)


def floats(path: Path) -> None:
    Image.fromarray(np.full((24, 24), 0.5, np.float32)).save(path)


def keyed(path: Path) -> None:
    solid_image().save(path, transparency=RED)


FORMATS: list[tuple[str, Callable[[Path], None], tuple[int, int, int], int]] = [
    ("rgb.png", lambda p: solid_image().save(p), RED, 0),
    ("rgb.jpg", lambda p: solid_image().save(p, quality=95), RED, 4),
    ("rgb.webp", lambda p: solid_image().save(p, lossless=True), RED, 0),
    ("rgb.bmp", lambda p: solid_image().save(p), RED, 0),
    ("rgb.tiff", lambda p: solid_image().save(p), RED, 0),
    ("UPPER.PNG", lambda p: solid_image().save(p), RED, 0),
    ("first.gif", animation, RED, 4),
    ("gray.png", lambda p: Image.new("L", (24, 24), 77).save(p), (77, 77, 77), 0),
    ("bits.png", lambda p: Image.new("1", (24, 24), 1).save(p), WHITE, 0),
    ("gray16.png", gray_16, (128, 128, 128), 0),
    ("floats.tiff", floats, (128, 128, 128), 0),
    ("gray_alpha.png", gray_with_alpha, GREEN, 0),
    ("palette.png", lambda p: solid_image().convert("P", palette=Image.Palette.ADAPTIVE).save(p), RED, 0),
    ("palette_alpha.png", palette_with_transparency, GREEN, 0),
    ("keyed.png", keyed, GREEN, 0),
    ("rgba.png", half_transparent, tuple(round((r + g) / 2) for r, g in zip(RED, GREEN, strict=True)), 1),  # type: ignore[list-item]
    ("cmyk.jpg", cmyk, RED, 4),
    ("ycbcr.jpg", lambda p: solid_image(mode="YCbCr").save(p, quality=95), RED, 4),
]


@pytest.mark.parametrize(("name", "save", "color", "tolerance"), FORMATS, ids=[f[0] for f in FORMATS])
def test_every_format_and_mode(
    tmp_path: Path, name: str, save: Callable[[Path], None], color: tuple[int, int, int], tolerance: int
) -> None:
    save(tmp_path / name)
    dataset = ImageFolder(path=str(table(tmp_path, [{"file_name": name, "text": "a"}])), size=16, background="#1ea03c")
    image = dataset.image("train", 0)
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8
    np.testing.assert_allclose(image.reshape(-1, 3), np.broadcast_to(color, (256, 3)), atol=tolerance)


def test_exif_rotation(tmp_path: Path) -> None:
    """Orientation 6: what is stored as the left side is to be seen at the top."""
    stored = np.zeros((20, 40, 3), np.uint8)
    stored[:, :20] = RED
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    table(tmp_path, [{"file_name": "turned.png", "text": "a"}])
    image = ImageFolder(path=str(tmp_path), size=20, resize="stretch").image("train", 0)
    np.testing.assert_array_equal(image[:6], np.broadcast_to(RED, (6, 20, 3)))
    assert not image[14:].any()


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """32 x 16: a red quarter, blue middle, green quarter."""
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:, :8], stored[:, 8:24], stored[:, 24:] = RED, BLUE, GREEN
    Image.fromarray(stored).save(tmp_path / "wide.png")
    return table(tmp_path, [{"file_name": "wide.png", "text": "a"}])


def test_crop_takes_the_middle(wide: Path) -> None:
    image = ImageFolder(path=str(wide), size=16, resize="crop").image("train", 0)
    np.testing.assert_array_equal(image, np.broadcast_to(BLUE, (16, 16, 3)))


def test_pad_keeps_everything(wide: Path) -> None:
    image = ImageFolder(path=str(wide), size=32, resize="pad", background="yellow").image("train", 0)
    np.testing.assert_array_equal(image[8:24], np.asarray(Image.open(wide / "wide.png")))
    np.testing.assert_array_equal(image[[0, 7, 24, 31]], np.broadcast_to((255, 255, 0), (4, 32, 3)))
    gray = ImageFolder(path=str(wide), size=32, resize="pad", background="yellow", channels=1).image("train", 0)
    assert gray.shape == (32, 32, 1)
    assert set(gray[[0, 31]].flat) == {226}  # ITU-R 601: 0.299 * 255 + 0.587 * 255


def test_pad_keeps_a_line_visible(tmp_path: Path) -> None:
    """5000 x 1: less than half a pixel high once resized."""
    solid_image(RED, (5000, 1)).save(tmp_path / "line.png")
    table(tmp_path, [{"file_name": "line.png", "text": "a"}])
    image = ImageFolder(path=str(tmp_path), size=16, resize="pad").image("train", 0)
    np.testing.assert_array_equal(image[7], np.broadcast_to(RED, (16, 3)))
    assert (np.delete(image, 7, axis=0) == 255).all()


def test_stretch_distorts(wide: Path) -> None:
    image = ImageFolder(path=str(wide), size=32, resize="stretch").image("train", 0)
    np.testing.assert_array_equal(image[:, [0, 16, 31]], np.broadcast_to((RED, BLUE, GREEN), (32, 3, 3)))


def test_shrinking_does_not_alias(tmp_path: Path) -> None:
    """Stripes of one pixel become gray: nearest or bilinear sampling would show stripes."""
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    table(tmp_path, [{"file_name": "a.png", "text": "a"}])
    image = ImageFolder(path=str(tmp_path), size=30).image("train", 0)
    np.testing.assert_allclose(image, 127.5, atol=6)


def test_large_jpeg_is_as_good_as_decoded_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((800, 640), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "a.jpg", quality=95)
    table(tmp_path, [{"file_name": "a.jpg", "text": "a"}])
    image = ImageFolder(path=str(tmp_path), size=32).image("train", 0).astype(float)
    whole = Image.open(tmp_path / "a.jpg").crop((80, 0, 720, 640)).resize((32, 32), Image.Resampling.LANCZOS)
    assert np.abs(image - np.asarray(whole)).mean() < 1.5


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_jpeg_is_reduced_by_its_decoder_and_anti_aliased(factor: int) -> None:
    """Its pixels are about the means of squares of pixels, also where these are noise, and never too few."""
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 256, (16, 16, 3)).repeat(2 * factor, 0).repeat(2 * factor, 1)
    rough = np.clip(rough + rng.normal(0, 20, rough.shape), 0, 255).astype(np.uint8)
    exif, data = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(rough).save(data, "JPEG", quality=95, subsampling=0, exif=exif)
    small, whole = (images.decode(data.getvalue(), WHITE, size=size) for size in (32, 0))
    assert small.size == (32, 32) and whole.size == (32 * factor, 32 * factor)
    means = np.asarray(whole).reshape(32, factor, 32, factor, 3).mean((1, 3))
    assert np.abs(np.asarray(small) - means).mean() < 1.5
    assert images.decode(data.getvalue(), WHITE, size=33).size == (64, 64)


def test_flip_adds_mirror_images(wide: Path) -> None:
    dataset = ImageFolder(path=str(wide), size=32, resize="stretch", flip=True)
    assert list(dataset.captions("train")) == ["a", "a"]
    np.testing.assert_array_equal(dataset.image("train", 1), dataset.image("train", 0)[:, ::-1])
    np.testing.assert_array_equal(dataset.image("train", 1)[0, 0], GREEN)


# Where captions come from


def test_metadata_csv(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    solid_image(RED).save(tmp_path / "deep" / "a.png")
    solid_image(BLUE).save(tmp_path / "b.png")
    rows = 'file_name,caption,other\n./deep/a.png,"red, ""very"" red",1\nb.png,"blue\nas the sky",2\n'
    (tmp_path / "metadata.csv").write_text("\ufeff" + rows, encoding="utf-8")
    dataset = ImageFolder(path=str(tmp_path), size=16, caption_key="caption")
    assert list(dataset.captions("train")) == ['red, "very" red', "blue as the sky"]
    np.testing.assert_array_equal(dataset.image("train", 1)[0, 0], BLUE)


def test_metadata_in_folders_below(tmp_path: Path) -> None:
    """Hugging Face's layout: one table per folder, and names relative to the table."""
    for place, color in (("first", RED), ("more/deep", BLUE)):
        (tmp_path / place).mkdir(parents=True)
        solid_image(color).save(tmp_path / place / "a.png")
        table(tmp_path / place, [{"file_name": "a.png", "text": place}])
    solid_image().save(tmp_path / "more" / "b.png")
    dataset = ImageFolder(path=str(tmp_path), on_error="skip")
    assert list(dataset.captions("train")) == ["first", "more/deep"]
    np.testing.assert_array_equal(dataset.image("train", 1)[0, 0], BLUE)
    (problem,) = dataset.problems()
    assert problem.where == "more/b.png"
    assert problem.what == "none of first/metadata.jsonl, more/deep/metadata.jsonl has a caption for it"


def test_an_image_may_have_several_captions(tmp_path: Path) -> None:
    solid_image().save(tmp_path / "a.png")
    solid_image(BLUE).save(tmp_path / "b.png")
    rows = [("a.png", "red"), ("a.png", "scarlet"), ("b.png", "blue")]
    table(tmp_path, [{"file_name": file, "text": text} for file, text in rows])
    assert list(ImageFolder(path=str(tmp_path)).captions("train")) == ["red", "scarlet", "blue"]
    dataset = ImageFolder(path=str(tmp_path), holdout=("scarlet",))
    assert list(dataset.captions("train")) == ["blue"], "the image that is held out must not be seen as 'red' either"
    assert list(dataset.captions("holdout")) == ["scarlet"]


def test_text_files(tmp_path: Path) -> None:
    for name, color in (("b", BLUE), ("a", RED)):
        solid_image(color).save(tmp_path / f"{name}.jpg", quality=95)
        (tmp_path / f"{name}.txt").write_text(f"\n  image   {name} \n\n", encoding="utf-8")
    dataset = ImageFolder(path=str(tmp_path))
    assert list(dataset.captions("train")) == ["image a", "image b"]


def test_class_folders(tmp_path: Path) -> None:
    for name, color in (("red_fox", RED), ("sky", BLUE)):
        (tmp_path / name).mkdir()
        solid_image(color).save(tmp_path / name / "1.png")
    (tmp_path / ".hidden").mkdir()
    solid_image().save(tmp_path / ".hidden" / "1.png")
    dataset = ImageFolder(path=str(tmp_path), template="a photo of a {label}")
    assert list(dataset.captions("train")) == ["a photo of a red fox", "a photo of a sky"]


def test_validation_and_holdout(folder: Path) -> None:
    dataset = ImageFolder(path=str(folder), validation=0.25, holdout=("image 3", "image 5"))
    sizes = {split: len(dataset.captions(split)) for split in ("train", "validation", "holdout")}
    assert sizes == {"train": 8, "validation": 2, "holdout": 2}
    solid_image().save(folder / "12.png")
    with (folder / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": "12.png", "text": "image 12"}\n')
    more = ImageFolder(path=str(folder), validation=0.25, holdout=("image 3", "image 5"))
    moved = set(dataset.captions("validation")) - set(more.captions("validation"))
    assert len(moved) <= 1, "an image more must not change who is in which split"


def test_fingerprint_sees_every_file(folder: Path) -> None:
    before = ImageFolder(path=str(folder)).fingerprint()
    solid_image((1, 2, 3)).save(folder / "03.png")
    assert ImageFolder(path=str(folder)).fingerprint() != before


# What is remembered


@pytest.fixture
def decoded(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """The sizes of the files that were decoded; all files of the folder are an hour old."""
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path_factory.mktemp("cache")))
    for file in folder.iterdir():
        age(file)
    sizes: list[int] = []

    def decode(data: bytes, *args: Any, **options: Any) -> Image.Image:
        sizes.append(len(data))
        return images.decode(data, *args, **options)

    monkeypatch.setattr("kgen.data.encoded.images.decode", decode)
    return sizes


def age(file: Path, seconds: float = 3600.0) -> None:
    then = time.time() - seconds
    os.utime(file, (then, then))


def test_a_later_start_reads_no_file_again(folder: Path, decoded: list[int]) -> None:
    first = ImageFolder(path=str(folder))
    assert len(decoded) == 12
    again = ImageFolder(path=str(folder), size=16)
    assert len(decoded) == 12
    assert again.inventory() == first.inventory()
    again = ImageFolder(path=str(folder))
    assert again.fingerprint() == first.fingerprint()


def test_a_changed_file_is_read_again(folder: Path, decoded: list[int]) -> None:
    before = ImageFolder(path=str(folder))
    file = folder / "05.png"
    solid_image((9, 9, 9)).save(file)
    age(file)
    decoded.clear()
    after = ImageFolder(path=str(folder))
    assert decoded == [file.stat().st_size]
    changed = [name for name, digests in after.inventory().items() if before.inventory()[name] != digests]
    assert changed == ["05.png"] and after.fingerprint() != before.fingerprint()
    status = file.stat()
    file.write_bytes(file.read_bytes()[:-1] + b"\0")  # the size and the time are those of before
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    decoded.clear()
    ImageFolder(path=str(folder))
    assert decoded == [status.st_size]


def test_a_file_that_changed_just_now_is_not_remembered(folder: Path, decoded: list[int]) -> None:
    """A second change at once could leave its size and its time as they are."""
    age(folder / "05.png", seconds=0.5)
    ImageFolder(path=str(folder))
    decoded.clear()
    ImageFolder(path=str(folder))
    assert len(decoded) == 1


def test_a_damaged_file_is_named_by_each_start(folder: Path, decoded: list[int]) -> None:
    truncated(folder / "07.png")
    age(folder / "07.png")
    for _ in range(2):
        with pytest.raises(DataError, match=r"07\.png: the file is damaged"):
            ImageFolder(path=str(folder))
    assert len(decoded) == 13  # 12 files, and the broken one once more


@pytest.mark.parametrize(
    "content",
    ["", "[" * 100_000, "[]", "{}", '{"05.png": 3}', '{"05.png": [1, 2, 3]}', '{"05.png": [1, Infinity, 3, "zz"]}'],
)
def test_a_damaged_memory_is_written_anew(folder: Path, decoded: list[int], content: str) -> None:
    expected = ImageFolder(path=str(folder)).inventory()
    (memory,) = Path(os.environ["KGEN_CACHE"]).glob("checked-*.npy")
    memory.write_text(content)
    decoded.clear()
    assert ImageFolder(path=str(folder)).inventory() == expected and len(decoded) == 12
    assert ImageFolder(path=str(folder)).inventory() == expected and len(decoded) == 12


def test_a_cache_that_cannot_be_written_does_no_harm(
    folder: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KGEN_CACHE", str(folder / "05.png" / "no folder"))
    for _ in range(2):
        assert len(ImageFolder(path=str(folder)).captions("train")) == 12
    assert len(decoded) == 24


# What can be wrong


def claim(width: int, height: int) -> Callable[[Path], Any]:
    """A file of some bytes that says it holds that many pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return lambda path: path.write_bytes(header + struct.pack(">I", 10) + b"IDAT" + bytes(14))


def truncated(path: Path) -> None:
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(data, "JPEG")
    path.write_bytes(data.getvalue()[:1500])


def corrupt(path: Path) -> None:
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(data, "PNG")
    path.write_bytes(data.getvalue()[:500] + b"\xff" * 200 + data.getvalue()[700:])


BROKEN: list[tuple[Callable[[Path], Any], str]] = [
    (lambda p: p.write_bytes(b""), "the file is empty"),
    (lambda p: p.write_text("<html>"), "not an image that can be read"),
    (lambda p: solid_image().save(p, "EPS"), "EPS files are not read"),  # Pillow would run Ghostscript
    (truncated, "the file is damaged"),
    (corrupt, "the file is damaged"),
    (claim(20000, 20000), "more than the 67108864"),
    (claim(9000, 8000), "9000 x 8000 pixels are more than the 67108864"),
]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("damage", "message"), BROKEN)
def test_damaged_images_are_refused_or_skipped(folder: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(folder / "07.png")
    with pytest.raises(DataError, match=rf"1 problem in (?s:.*)07\.png: .*{message}(?s:.*)on_error: skip"):
        ImageFolder(path=str(folder))
    dataset = ImageFolder(path=str(folder), on_error="skip")
    assert len(dataset.captions("train")) == 11 and "image 7" not in dataset.captions("train")
    (problem,) = dataset.problems()
    assert problem.where == "07.png" and message in problem.what


def test_rows_that_are_wrong_are_all_named(folder: Path) -> None:
    outside = folder.parent / "secret.png"
    solid_image().save(outside)
    rows = [
        {"file_name": "../secret.png", "text": "a"},
        {"file_name": str(outside), "text": "a"},
        {"file_name": "..\\secret.png", "text": "a"},
        {"file_name": "none.png", "text": "a"},
        {"text": "a"},
        {"file_name": "01.png", "text": "  "},
        {"file_name": "02.png", "caption": "a"},
        {"file_name": "03.png", "text": 7},
        {"file_name": "./", "text": "a"},
        {"file_name": "long" * 2000, "text": "a"},
        {"file_name": "04.png", "text": "cut in the middle of an emoji \ud83d"},
    ]
    lines = [json.dumps(row) for row in rows]
    text = "\n".join([*lines, "not json", "[1, 2]", '{"file_name": "00.png", "text": "good"}'])
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    dataset = ImageFolder(path=str(folder), on_error="skip")
    assert list(dataset.captions("train")) == ["good"]
    found = [f"{problem.where}: {problem.what}" for problem in dataset.problems()]
    wanted = [
        "metadata.jsonl:1: '../secret.png' is outside the folder",
        f"metadata.jsonl:2: {str(outside)!r} is outside the folder",
        "metadata.jsonl:3: '..\\\\secret.png' is outside the folder",
        "metadata.jsonl:4: there is no image none.png",
        "metadata.jsonl:5: it has no 'file_name'",
        "metadata.jsonl:6: 01.png: its caption 'text' is empty",
        "metadata.jsonl:7: 02.png: its caption 'text' is missing (it has: caption)",
        "metadata.jsonl:8: 03.png: its caption 'text' is 7, which is not text",
        "metadata.jsonl:9: there is no image ./",
        "metadata.jsonl:10: there is no image longlong",
        "metadata.jsonl:11: 04.png: its caption 'cut in the middle of an emoji \\\\ud83d' holds half a character",
        "metadata.jsonl:12: this is not JSON",
        "metadata.jsonl:13: this is not a JSON object",
        *[f"{i:02}.png: metadata.jsonl has no caption for it" for i in range(5, 12)],
    ]
    assert len(found) == len(wanted)
    for is_, should in zip(found, wanted, strict=True):
        assert is_.startswith(should)
    with pytest.raises(DataError) as caught:
        ImageFolder(path=str(folder))
    assert str(caught.value).count("\n  ") == 11 and "and 10 more" in str(caught.value)


def test_csv_that_is_wrong(tmp_path: Path) -> None:
    solid_image().save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,a large, red heart\n")
    with pytest.raises(DataError, match=r"metadata\.csv:2: a\.png: .*more fields than .* quote"):
        ImageFolder(path=str(tmp_path))
    for text in ("", "a.png,a red heart\n"):
        (tmp_path / "metadata.csv").write_text(text)
        with pytest.raises(DataError, match="first line must name the columns"):
            ImageFolder(path=str(tmp_path))


def test_text_files_that_are_wrong(tmp_path: Path) -> None:
    for name in ("good", "lonely", "empty", "latin"):
        solid_image().save(tmp_path / f"{name}.png")
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "nobody.txt").write_text("no image")
    dataset = ImageFolder(path=str(tmp_path), on_error="skip")
    assert list(dataset.captions("train")) == ["good"]
    assert {problem.where: problem.what for problem in dataset.problems()} == {
        "empty.png": "its caption empty.txt is empty",
        "latin.png": "its caption latin.txt is not UTF-8 text in line 1. If that is 'café', it is Windows-1252: "
        f"iconv -f WINDOWS-1252 -t UTF-8 '{tmp_path}/latin.txt' > new && mv new '{tmp_path}/latin.txt'",
        "lonely.png": "there is no caption lonely.txt beside it",
        "nobody.txt": "there is no image of this name beside it",
    }


def test_folders_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        ImageFolder(path=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="holds no image"):
        ImageFolder(path=str(tmp_path))
    solid_image().save(tmp_path / "a.png")
    with pytest.raises(DataError, match="is not a folder"):
        ImageFolder(path=str(tmp_path / "a.png"))
    with pytest.raises(DataError, match=r'nothing in .*"file_name": "a\.png"'):
        ImageFolder(path=str(tmp_path))
    (tmp_path / "metadata.csv").write_bytes(b"file_name,text\na.png,caf\xe9\n")
    with pytest.raises(DataError, match="is not UTF-8"):
        ImageFolder(path=str(tmp_path))
    (tmp_path / "metadata.jsonl").write_text("")
    with pytest.raises(DataError, match="holds both"):
        ImageFolder(path=str(tmp_path))


def test_nothing_left_to_train_on(folder: Path) -> None:
    for file in folder.glob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"12 problems in (?s:.*)nothing else to train on"):
        ImageFolder(path=str(folder), on_error="skip")


def test_wrong_options(folder: Path) -> None:
    with pytest.raises(DataError, match="no caption 'imag 3': did you mean 'image 3'"):
        ImageFolder(path=str(folder), holdout=("imag 3",))
    with pytest.raises(DataError, match="background 'rde' is not a color"):
        ImageFolder(path=str(folder), background="rde")
    with pytest.raises(DataError, match=r"must hold \{label\}"):
        ImageFolder(path=str(folder), template="a photo")
    with pytest.raises(DataError, match="leave no image"):
        ImageFolder(path=str(folder), holdout=tuple(f"image {i}" for i in range(12)))


def test_a_file_that_disappears_during_training_is_named(folder: Path) -> None:
    dataset = ImageFolder(path=str(folder))
    (folder / "04.png").unlink()
    with pytest.raises(DataError, match=r"04\.png cannot be read: No such file"):
        dataset.image("train", 4)


def test_needs_no_framework() -> None:
    code = (
        "import sys, kgen.data.datasets.imagefolder\n"
        "print({'keras', 'tensorflow', 'jax', 'torch', 'tensorflow_datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_limit_is_checked_before_pixels_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    data = io.BytesIO()
    solid_image(size=(10, 11)).save(data, "PNG")
    with pytest.raises(images.ImageError, match="10 x 11 pixels"):
        images.decode(data.getvalue()[:60], WHITE)  # only the header is there
