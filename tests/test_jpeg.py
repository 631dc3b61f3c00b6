"""libjpeg-turbo decodes JPEG files as Pillow does, bit for bit, or leaves them to Pillow."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms, ImageFilter, ImageOps
from test_decoding import wide_profile

from kgen.data import images
from kgen.data.images import ImageError

pytestmark = pytest.mark.portable

WHITE = (255, 255, 255)
SUBSAMPLINGS = ("444", "422", "420", "440", "411")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Whether libjpeg-turbo decoded each file that was tried."""
    found: list[bool] = []

    def watched(data: bytes, image: Image.Image) -> np.ndarray | None:
        pixels = original(data, image)
        found.append(pixels is not None)
        return pixels

    original = images.jpeg_pixels
    monkeypatch.setattr(images, "jpeg_pixels", watched)
    yield found


def smooth_noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Noise that is smoothed, so that all frequencies occur."""
    noise = np.random.default_rng(width).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return ImageOps.autocontrast(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1))).convert(mode)


def encoded(image: Image.Image, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG", **options)
    return data.getvalue()


def by_pillow(data: bytes, size: int) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        if size:
            image.draft(None, (size, size))
        return np.asarray(image.convert("RGB"))


def agree(data: bytes, size: int) -> None:
    np.testing.assert_array_equal(np.asarray(images.decode(data, WHITE, size=size)), by_pillow(data, size))


@pytest.mark.parametrize("size", [0, 200, 64, 33, 16])
@pytest.mark.parametrize(("width", "height"), [(256, 256), (131, 203)])
def test_all_kinds_of_jpeg_are_decoded_as_by_pillow(decoded: list[bool], width: int, height: int, size: int) -> None:
    pixels = np.ascontiguousarray(smooth_noise(width, height))
    kinds = [simplejpeg.encode_jpeg(pixels, 90, colorsubsampling=name) for name in SUBSAMPLINGS]
    options: tuple[dict[str, Any], ...] = (
        {"quality": 30},
        {"quality": 100, "subsampling": 0},
        {"progressive": True},
        {"optimize": True},
        {"restart_marker_rows": 1},
        {"keep_rgb": True},
        {"exif": _exif(1)},
        {"icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()},
    )
    kinds += [encoded(smooth_noise(width, height), **each) for each in options]
    kinds += [encoded(smooth_noise(width, height, "L"))]
    for data in kinds:
        agree(data, size)
    assert decoded == [True] * len(kinds)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("size", [0, 48])
def test_pillow_decodes_what_must_be_converted_or_rotated(decoded: list[bool], size: int) -> None:
    agree(encoded(smooth_noise(96, 96, "CMYK")), size)
    agree(encoded(smooth_noise(96, 15)), size)  # small images may have another scale of the same size
    rotated = np.asarray(images.decode(encoded(smooth_noise(96, 120), exif=_exif(6)), WHITE, size=size))
    expected = np.rot90(by_pillow(encoded(smooth_noise(96, 120)), size), -1)
    np.testing.assert_array_equal(rotated, expected)
    data = encoded(smooth_noise(96, 96), icc_profile=wide_profile())
    assert not np.array_equal(np.asarray(images.decode(data, WHITE, size=size)), by_pillow(data, size))
    assert decoded == [False, False]  # it was tried for the first two files only


@pytest.mark.parametrize("size", [0, 64])
@pytest.mark.parametrize("progressive", [False, True])
def test_damage_has_the_same_effect_as_with_pillow(decoded: list[bool], size: int, progressive: bool) -> None:
    """Files that are cut, and files with a wrong byte, which often changes the pixels only."""
    whole = encoded(smooth_noise(160, 130), progressive=progressive)
    random = np.random.default_rng(0)
    cut = [whole[:length] for length in random.integers(2, len(whole), 20)]
    damaged = []
    for place in random.integers(2, len(whole), 60):
        damaged.append(whole[:place] + bytes([whole[place] ^ 1 << int(random.integers(8))]) + whole[place + 1 :])
    outcomes = []
    for data in (*cut, *damaged, whole + b"more"):
        try:
            expected = by_pillow(data, size)
        except (OSError, SyntaxError, ValueError):
            with pytest.raises(ImageError):
                images.decode(data, WHITE, size=size)
            outcomes.append("refused")
        else:
            np.testing.assert_array_equal(np.asarray(images.decode(data, WHITE, size=size)), expected)
            outcomes.append("read")
    assert outcomes.count("refused") >= 20 and outcomes.count("read") > 10 and decoded[-1]


def test_a_jpeg_of_the_size_asked_for_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(smooth_noise(128, 128))
    expected = by_pillow(data, 64)
    monkeypatch.setattr(Image, "fromarray", None)
    np.testing.assert_array_equal(images.fitted(data, (64, 64), 3, "crop", WHITE), expected)
    monkeypatch.undo()
    gray = images.fitted(data, (64, 64), 1, "crop", WHITE)
    np.testing.assert_array_equal(gray[..., 0], Image.fromarray(expected).convert("L"))


def test_a_large_jpeg_is_reduced_in_strips_by_pillow(decoded: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LARGE", 100 * 100)
    data = encoded(smooth_noise(128, 128))
    assert images.decode(data, WHITE, size=0).size == (128, 128) and not decoded
