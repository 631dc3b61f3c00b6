"""What a file's pixels mean: depth, color space, and how much memory it may take."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from kgen.data import images

WHITE = (255, 255, 255)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, format, **options)
    return data.getvalue()


def gray(values: np.ndarray, format: str = "TIFF", **options: Any) -> np.ndarray:
    """(H, W), as it is read."""
    read = np.asarray(images.decode(encoded(Image.fromarray(values), format, **options), WHITE))
    assert (read == read[..., :1]).all()
    return read[..., 0]


@pytest.mark.parametrize(
    "dtype, white",
    [("uint16", 4095), ("uint16", 65535), ("int32", 255), ("int32", 4095), ("int32", 65535), ("int32", 2**31 - 1)],
)
def test_gray_is_scaled_by_the_depth_that_it_uses(dtype: str, white: int) -> None:
    read = gray(np.array([[0, white // 2, white]], dtype))
    np.testing.assert_allclose(read[0], [0, 127.5, 255], atol=1 if white < 2**31 - 1 else 128)


def test_a_16_bit_png_is_scaled_by_its_values() -> None:
    np.testing.assert_array_equal(gray(np.array([[0, 2048, 4095]], "uint16"), "PNG")[0], [0, 128, 255])


@pytest.mark.parametrize("tag", [341, 281])
def test_the_tags_of_a_tiff_name_white(tag: int) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[tag] = 1023
    np.testing.assert_array_equal(gray(np.array([[0, 511, 1000]], "uint16"), tiffinfo=tags)[0], [0, 127, 249])


def test_floats_in_either_range_are_read_and_others_refused() -> None:
    np.testing.assert_array_equal(gray(np.array([[0, 0.5, 1]], "float32"))[0], [0, 128, 255])
    np.testing.assert_array_equal(gray(np.array([[0, 128, 255]], "float32"))[0], [0, 128, 255])
    for values, reason in (([[0, 1000]], "floats up to 1000"), ([[-1, 1]], "negative")):
        with pytest.raises(images.ImageError, match=reason):
            gray(np.array(values, "float32"))


def wide_profile() -> bytes:
    """An ICC profile whose red, green and blue are stronger than sRGB's: Adobe RGB's, from its published primaries."""
    from struct import pack

    def fixed(value: float) -> bytes:
        return pack(">i", round(value * 65536))

    def xyz(*values: float) -> bytes:
        return b"XYZ " + bytes(4) + b"".join(map(fixed, values))

    gamma = b"curv" + bytes(4) + pack(">IH", 1, round(2.19921875 * 256)) + bytes(2)
    text = b"desc" + bytes(4) + pack(">I", 5) + b"wide\0" + bytes(78)
    text += bytes(-len(text) % 4)
    parts = {
        b"desc": text,
        b"cprt": b"text" + bytes(4) + b"none\0" + bytes(3),
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.60974, 0.31111, 0.01947),
        b"gXYZ": xyz(0.20528, 0.62567, 0.06087),
        b"bXYZ": xyz(0.14919, 0.06322, 0.74457),
        b"rTRC": gamma,
        b"gTRC": gamma,
        b"bTRC": gamma,
    }
    offset, table, body = 128 + 4 + 12 * len(parts), pack(">I", len(parts)), b""
    for name, part in parts.items():
        table += name + pack(">II", offset + len(body), len(part))
        body += part
    size = pack(">I", 128 + len(table) + len(body))
    header = size + b"lcms" + pack(">I", 0x02100000) + b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28)
    return header + fixed(0.9642) + fixed(1.0) + fixed(0.8249) + bytes(48) + table + body


def test_colors_of_another_space_are_converted() -> None:
    """Adobe RGB's (150, 200, 150) has less red in sRGB's numbers: the matrices of both spaces say so."""
    profile = wide_profile()
    assert ImageCms.getProfileName(ImageCms.ImageCmsProfile(io.BytesIO(profile))).strip() == "wide"
    image = Image.new("RGB", (8, 8), (150, 200, 150))
    expected = srgb_of_adobe(np.array([150, 200, 150]) / 255)
    for mode in ("RGB", "RGBA"):
        read = images.decode(encoded(image.convert(mode), "PNG", icc_profile=profile), WHITE)
        np.testing.assert_allclose(np.asarray(read)[0, 0], expected * 255, atol=2)
    assert np.abs(expected * 255 - [150, 200, 150]).max() > 10


def srgb_of_adobe(color: np.ndarray) -> np.ndarray:
    """The expected values follow from published matrices (D65): Adobe RGB (1998) specification, and IEC 61966-2-1."""
    to_xyz = np.array([[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]])
    of_xyz = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
    linear = np.clip(of_xyz @ to_xyz @ color**2.19921875, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_a_damaged_profile_and_srgb_change_nothing() -> None:
    image = Image.new("RGB", (8, 8), (150, 200, 150))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (b"nothing", srgb):
        read = images.decode(encoded(image, "PNG", icc_profile=profile), WHITE)
        np.testing.assert_array_equal(np.asarray(read)[0, 0], [150, 200, 150])


def test_a_large_image_is_shrunk_in_strips_before_it_is_composed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pixels as by Pillow's own reduction of the whole; no copy of it is made on the way."""
    values = np.random.default_rng(0).integers(0, 256, (300, 420, 4)).astype(np.uint8)
    image = Image.fromarray(values)
    monkeypatch.setattr(images, "LARGE", 1000)
    seen = []
    monkeypatch.setattr(images, "_rgb", lambda image, background: seen.append(image) or image)
    images.decode(encoded(image, "PNG"), WHITE, size=32)
    (small,) = seen
    assert small.size == (105, 75) and small.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(small), np.asarray(image.reduce(4)))
    images.decode(encoded(image, "PNG"), WHITE)
    assert seen[1].size == (420, 300)  # as it is, where no size is asked for


def test_large_images_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LARGE", 1000)
    held = []
    rgb = images._rgb
    monkeypatch.setattr(images, "_rgb", lambda *given: held.append(images._one_at_a_time.locked()) or rgb(*given))
    for size in (20, 40):
        images.decode(encoded(Image.new("RGB", (size, size)), "PNG"), WHITE)
    assert held == [False, True]
