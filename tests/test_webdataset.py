"""Images in tar shards: what tarfile writes is read correctly, and error messages name what is wrong in a shard."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import random
import subprocess
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import Outcome
from gray_images import numbers, shown
from parts import Words
from PIL import Image

from kgen import DataError
from kgen.data.datasets.shards import paths, samples
from kgen.data.datasets.shards.tar import TarError, members
from kgen.data.datasets.webdataset import WebDataset
from kgen.data.encoded import images as encoded
from kgen.data.loader import Loader
from kgen.data.reading.workers import Workers
from kgen.testing import DatasetConformance

pytestmark = pytest.mark.portable

COUNT = 12
"""Number of images in `shards`, four in each of three shards."""

Files = Mapping[str, bytes] | Sequence[tuple[str, bytes]]


def image(value: int, kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (16, 16), (value,) * 3).save(data, kind)
    return data.getvalue()


def sample(number: int) -> dict[str, bytes]:
    """Image i is gray of the value 20 i, with the caption "image i"."""
    return {f"{number:04}.png": image(20 * number), f"{number:04}.txt": f"image {number}".encode()}


def write(path: Path, files: Files, pax: bool = True) -> Path:
    """Writes a shard that is an hour old."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT) as archive:
        for name, data in files.items() if isinstance(files, Mapping) else files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return age(path)


def age(path: Path, seconds: float = 3600) -> Path:
    then = time.time() - seconds
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
        files = {name: data for i in range(first, first + 4) for name, data in sample(i).items()}
        write(folder / f"{first // 4:04}.tar", files)
    return folder


def opened(path: Path | str, **options: Any) -> WebDataset:
    return WebDataset(path=str(path), size=16, **options)


def problem(dataset: WebDataset) -> tuple[str, str]:
    (found,) = dataset.problems()
    return found.where, found.what


class TestShards(DatasetConformance):
    @pytest.fixture(autouse=True)
    def _in(self, shards: Path) -> None:
        self.shards = shards

    def build(self) -> WebDataset:
        return opened(self.shards, validation=0.25, holdout=("image 3",), flip=True)


# Headers, against tarfile


def found(path: Path) -> list[tuple[str, int, int]]:
    with path.open("rb") as file:
        return [(m.name, m.offset, m.size) for m in members(file) if m.kind == "file"]


def expected(path: Path) -> list[tuple[str, int, int]]:
    with tarfile.open(path, "r:") as archive:
        return [(m.name, m.offset_data, m.size) for m in archive if m.isreg()]


NAMES = [
    "short.txt",
    f"{'p' * 90}/{'n' * 60}.txt",  # ustar's prefix
    f"{'long' * 60}/{'name' * 40}.txt",  # an extended header
    "ünïcödé/漢字.txt",
    f"{'ü' * 120}.txt",
]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_offsets_and_sizes_are_those_of_tarfile(tmp_path: Path, form: int) -> None:
    rng = random.Random(form)
    path = tmp_path / "a.tar"
    common = {"comment": "of all"} if form == tarfile.PAX_FORMAT else {}
    with tarfile.open(path, "w", format=form, pax_headers=common) as archive:
        for name in NAMES if form != tarfile.USTAR_FORMAT else NAMES[:2]:
            for size in (0, 1, 511, 512, 513, rng.randrange(5000)):
                info = tarfile.TarInfo(name.replace(".", f"-{size}."))
                info.size, info.mtime = size, rng.random() * 1e9 if form == tarfile.PAX_FORMAT else 1
                archive.addfile(info, io.BytesIO(rng.randbytes(size)))
            for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
                info = tarfile.TarInfo(f"{name}-{kind.decode()}")
                info.type, info.linkname = kind, "x" * 150 if form != tarfile.USTAR_FORMAT else "x"
                archive.addfile(info)
    assert found(path) == expected(path) and len(found(path)) > 10


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_what_tar_writes_is_read(tmp_path: Path, form: str) -> None:
    for name in ("a.txt", f"{'d' * 30}/{'n' * 40}.txt"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(name)
    path = tmp_path / "a.tar"
    try:
        subprocess.run(["tar", "-C", tmp_path / "in", "-cf", path, f"--format={form}", "."], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no GNU tar")
    assert sorted(name for name, _, _ in found(path)) == ["./a.txt", f"./{'d' * 30}/{'n' * 40}.txt"]
    for name, offset, size in found(path):
        assert path.read_bytes()[offset : offset + size] == name[2:].encode()


def test_a_size_in_binary_is_read(tmp_path: Path) -> None:
    """GNU tar writes it for 8 GB and more; here it is written for a small file."""
    path = write(tmp_path / "a.tar", {"a.txt": b"text", "b.txt": b"more"})
    data = bytearray(path.read_bytes())
    data[124:136] = b"\x80" + (4).to_bytes(11, "big")
    data[148:156] = b" " * 8
    data[148:156] = f"{sum(data[:512]):06o}\0 ".encode()
    path.write_bytes(data)
    assert found(path) == expected(path) == [("a.txt", 512, 4), ("b.txt", 1536, 4)]


@pytest.mark.parametrize("sparse_form", ["--format=gnu", "--format=posix"])
def test_sparse_files_are_refused(tmp_path: Path, sparse_form: str) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(2**20)
        file.seek(2**19)
        file.write(image(0))
    (tmp_path / "a.txt").write_text("a")
    path = tmp_path / "a.tar"
    try:
        command = ["tar", "-C", tmp_path, "-cSf", path, sparse_form, "a.png", "a.txt"]
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no GNU tar")
    if path.stat().st_size > 2**20:
        pytest.skip("the file system stores no sparse files")
    with path.open("rb") as file:
        assert [member.kind for member in members(file)] == ["sparse", "file"]
    with pytest.raises(DataError, match=r"a\.tar/.*a\.png: .*a\.png is a sparse file.*without tar --sparse"):
        opened(path)


def test_no_damage_of_a_header_is_an_unknown_error(tmp_path: Path) -> None:
    """A wrong byte gives other members, or a TarError."""
    path = write(tmp_path / "a.tar", {f"{'n' * 120}.txt": b"text", "b.txt": b"more"})
    data = path.read_bytes()
    rng = random.Random(0)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[rng.randrange(2048)] = rng.randrange(256)
        try:
            list(members(io.BytesIO(damaged)))
        except TarError as error:
            assert str(error)


# What is read


def test_images_and_captions_go_together(shards: Path) -> None:
    expected = [(i, f"image {i}") for i in range(COUNT)]
    assert shown(opened(shards)) == expected
    assert shown(opened(shards / "0001.tar")) == expected[4:8]
    (shards / "README").write_text("about them")
    for pattern in ("*", "*.tar", "{0000..0002}.tar", "{0000,0001,0002}.tar", "000[0-2].tar"):
        assert shown(opened(f"{shards}/{pattern}")) == expected
    assert shown(opened(f"{shards}/{{0001..0002}}.tar")) == expected[4:]
    assert "12 images in 3 shards; captions are from KEY.txt" in opened(shards).notes()[0]


def test_kinds_of_captions(tmp_path: Path) -> None:
    files = {
        "a/1.jpg": image(20, "JPEG"),
        "a/1.json": json.dumps({"caption": "image 1", "width": 16}).encode(),
        "a/2.PNG": image(40),
        "a/2.caption": b"image 2\n\nsecond  caption\n",
        "a/3.webp": image(60, "WEBP"),
        "a/3.json": b"[]",
        "a/3.txt": b"image 3",
        "b/3.png": image(80),
        "b/3.json": json.dumps({"captions": ["image 4", "four"]}).encode(),
        "b/3.mask.png": image(0),
        "b/3.cls": b"7",
        "README": b"nothing",
        "._1.jpg": b"of macOS",
    }
    dataset = opened(write(tmp_path / "a.tar", files))
    captions = [(1, "image 1"), (2, "image 2"), (2, "second caption"), (3, "image 3"), (4, "image 4"), (4, "four")]
    assert shown(dataset) == captions and dataset.fields == ("image", "caption")
    notes = "\n".join(dataset.notes())
    assert "captions are from KEY.caption and KEY.json and KEY.txt" in notes
    assert "2 of the images have several" in notes and "the classes are not used" in notes
    assert "does not read: 1 without a suffix (README), 1 .json (a/3.json), 1 .png (b/3.mask.png)" in notes


def test_caption_key(tmp_path: Path) -> None:
    row = {"caption": "from the web", "recaption": "by a model"}
    path = write(tmp_path / "a.tar", {"1.png": image(20), "1.json": json.dumps(row).encode()})
    assert shown(opened(path)) == [(1, "from the web")]
    assert shown(opened(path, caption_key="recaption")) == [(1, "by a model")]
    with pytest.raises(DataError, match=r"nothing in .* \(1\.png: its caption 1\.json has no 'other'\)"):
        opened(path, caption_key="other")
    texts = {"1.txt": b"text", "2.png": image(40), "2.txt": b"text 2"}
    write(path, {"1.png": image(20), "1.json": json.dumps(row).encode(), **texts})
    assert shown(opened(path)) == [(1, "text"), (2, "text 2")]
    assert shown(opened(path, caption_key="recaption")) == [(1, "by a model"), (2, "text 2")]
    assert not any("is not used" in line for line in opened(path, caption_key="recaption").notes())
    write(path, sample(1))
    assert "the option caption_key is not used" in opened(path, caption_key="recaption").notes()[-1]


def test_classes(tmp_path: Path) -> None:
    files = {"1.png": image(20), "1.cls": b"3\n", "1.json": b'{"width": 16}', "2.png": image(40), "2.cls": b"red_fox"}
    dataset = opened(write(tmp_path / "a.tar", files), flip=True)
    assert shown(dataset)[:2] == [(1, "3"), (2, "red fox")]
    assert list(dataset.values("train", "label")) == ["3", "red fox"] * 2
    assert shown(opened(tmp_path / "a.tar", template="a photo of a {label}"))[1] == (2, "a photo of a red fox")
    assert shown(opened(tmp_path / "a.tar", template="an image")) == [(1, "an image"), (2, "an image")]
    with pytest.raises(DataError, match=r"a\.tar/3\.png: it has no class"):
        opened(write(tmp_path / "a.tar", {**files, "3.png": image(60)}))


def test_files_of_a_sample_need_not_be_neighbors(tmp_path: Path) -> None:
    """`tar -cf a.tar *.png *.txt` writes all images first."""
    files = sorted(((n, d) for i in range(4) for n, d in sample(i).items()), key=lambda item: item[0][-3:])
    assert shown(opened(write(tmp_path / "a.tar", files))) == [(i, f"image {i}") for i in range(4)]


def test_a_key_may_be_in_several_shards(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", sample(1))
    write(tmp_path / "b.tar", {"0001.png": image(40), "0001.txt": b"another"})
    assert shown(opened(tmp_path)) == [(1, "image 1"), (2, "another")]


def test_paths_may_begin_with_dots(tmp_path: Path) -> None:
    """As Python's tarfile writes them for relative paths. Files in hidden folders are left out."""
    path = one(
        tmp_path,
        {
            f"{name}.{kind}": data
            for name in ("../0", "./1", "a/./2", "/b/3", ".git/4", "._5")
            for kind, data in (("png", image(20 * int(name[-1]))), ("txt", name.encode()))
        },
    )
    assert shown(opened(path)) == [(0, "../0"), (1, "./1"), (2, "a/./2"), (3, "/b/3")]


def test_gnu_and_pax_and_names_in_unicode(tmp_path: Path) -> None:
    key = f"{'ordner' * 20}/{'äöü漢' * 30}"
    files = {f"{key}.png": image(20), f"{key}.txt": "größe".encode()}
    for pax in (True, False):
        dataset = opened(write(tmp_path / "a.tar", files, pax))
        assert shown(dataset) == [(1, "größe")]
        assert list(dataset.inventory()) == [f"a.tar/{key}.png"]


# Splits


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        ("train-0000.tar", "val-0000.tar"),
        ("cc3m-train-0000.tar", "cc3m-validation-0000.tar"),
        ("train-00000-of-00001.tar", "test-00000-of-00001.tar"),
        ("train/0.tar", "dev/0.tar"),
        ("train2017_000.tar", "val2017_000.tar"),
    ],
)
def test_names_of_splits(tmp_path: Path, train: str, validation: str) -> None:
    write(tmp_path / "in" / train, sample(1) | sample(2))
    write(tmp_path / "in" / validation, sample(3))
    dataset = opened(tmp_path / "in")
    assert shown(dataset) == [(1, "image 1"), (2, "image 2")]
    assert shown(dataset, "validation") == [(3, "image 3")]
    assert "training uses 2 of the images, and validation uses 1" in dataset.notes()[1]
    assert shown(opened(tmp_path / "in" / validation)) == [(3, "image 3")], "who names a shard wants to train on it"
    with pytest.raises(DataError, match="already defines a validation split"):
        opened(tmp_path / "in", validation=0.1)


def test_splits_that_are_ambiguous(tmp_path: Path) -> None:
    write(tmp_path / "in" / "test-0.tar", sample(1))
    with pytest.raises(DataError, match=r"webdataset: .*holds only validation files, such as test-0\.tar.*a pattern"):
        opened(tmp_path / "in")
    write(tmp_path / "in" / "more-0.tar", sample(2))
    with pytest.raises(DataError, match=r"'more-0\.tar' is in no split, but 'test-0\.tar' is"):
        opened(tmp_path / "in")
    assert shown(opened(f"{tmp_path}/in/more-*.tar")) == [(2, "image 2")]
    assert shown(opened(f"{tmp_path}/**/*-0.tar".replace("*-", "test-"))) == [(1, "image 1")]


# What is remembered


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards whose headers are read."""
    names: list[str] = []

    def counted(file: Any) -> Any:
        names.append(Path(file.name).name)
        return members(file)

    monkeypatch.setattr(samples, "members", counted)
    return names


def test_a_later_start_reads_no_shard(shards: Path, indexed: list[str]) -> None:
    first = opened(shards)
    assert sorted(indexed) == ["0000.tar", "0001.tar", "0002.tar"]
    again = opened(f"{shards}/*.tar")
    assert len(indexed) == 3 and shown(again) == shown(first)
    assert again.fingerprint() == first.fingerprint() and again.inventory() == first.inventory()
    write(shards / "0001.tar", sample(9))
    changed = opened(shards)
    assert indexed[3:] == ["0001.tar"] and len(changed.captions("train")) == 9
    assert changed.fingerprint() != first.fingerprint()
    age(shards / "0002.tar", seconds=-3600)  # it counts as changed just now, on a slow machine too
    for _ in range(2):
        opened(shards)
    assert indexed[4:] == ["0002.tar"] * 2


@pytest.mark.parametrize("content", [b"", b"abc\n{}", b"{}", None])
def test_a_damaged_memory_is_written_anew(shards: Path, indexed: list[str], cache: Path, content: bytes | None) -> None:
    first = shown(opened(shards))
    for memory in (cache / "shards").iterdir():
        stored = memory.read_bytes()
        memory.write_bytes(stored.replace(b"image", b"imagf") if content is None else content)
    assert shown(opened(shards)) == first and len(indexed) == 6
    assert shown(opened(shards)) == first and len(indexed) == 6


# What can be wrong


def one(tmp_path: Path, files: Files) -> Path:
    return write(tmp_path / "a.tar", files)


WRONG: dict[str, tuple[Files, str, str]] = {
    "no image": ({**sample(1), "2.txt": b"b"}, r"a\.tar/2", "it has no image, but txt"),
    "no caption": ({**sample(1), "2.png": image(2)}, r"a\.tar/2\.png", r"there is no caption 2\.txt with it"),
    "empty caption": (
        {**sample(1), "2.png": image(2), "2.txt": b" \n"},
        r"a\.tar/2\.png",
        r"its caption 2\.txt is empty",
    ),
    "no text": ({**sample(1), "2.png": image(2), "2.txt": b"\xff\xfe\xfd"}, r"a\.tar/2\.png", r"2\.txt is not UTF-"),
    "no JSON": ({**sample(1), "2.png": image(2), "2.json": b"{"}, r"a\.tar/2\.png", r"its caption 2\.json is not JSON"),
    "two images": (
        {**sample(1), "2.png": image(2), "2.jpg": image(2), "2.txt": b"b"},
        r"a\.tar/2\.png",
        "it has two images",
    ),
    "dots": (
        {**sample(1), "v0.1.png": image(2), "v0.1.txt": b"b", "v0.2.png": image(2), "v0.2.txt": b"b"},
        r"a\.tar/v0\.1\.png",
        r"two images, v0\.1\.png and v0\.2\.png: a key ends at the first dot",
    ),
    "twice": (
        [*sample(1).items(), *sample(2).items(), *sample(2).items()],
        r"a\.tar/0002\.png",
        "is in the shard twice",
    ),
    "damaged image": ({**sample(1), "2.png": image(2)[:60], "2.txt": b"b"}, r"a\.tar/2\.png", "the file is damaged"),
}


@pytest.mark.parametrize("name", WRONG)
def test_samples_that_cannot_be_used(tmp_path: Path, name: str) -> None:
    files, where, what = WRONG[name]
    path = one(tmp_path, files)
    with pytest.raises(
        DataError, match=rf"webdataset: 1 problem in .*a\.tar:\n  {where}: .*{what}(?s:.*)on_error: skip"
    ):
        opened(path)
    dataset = opened(path, on_error="skip")
    assert shown(dataset) == [(1, "image 1")] and len(dataset.problems()) == 1


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str, int]] = {
    "empty": (lambda tar: b"", "the file is empty", 0),
    "no members": (lambda tar: bytes(10240), "it holds no sample", 0),
    "not a tar": (lambda tar: b"<html>" * 200, "it is not a tar archive", 0),
    "short": (lambda tar: b"<html>", "it is not a tar archive", 0),
    "compressed": (gzip.compress, r"it is compressed \(gzip\): decompress it", 0),
    "cut in an image": (lambda tar: tar[: 512 * 9 + 20], r"it is cut off in the middle of 0002\.png\nfix", 2),
    "cut in a caption": (lambda tar: tar[: 512 * 3 + 3], r"in the middle of 0000\.txt. The sample 0000 is left out", 0),
    "cut in a header": (lambda tar: tar[: 512 * 8 + 3], r"after 0001\.txt: the end .* missing. The sample 0001 is", 1),
    "no end": (lambda tar: tar[: 512 * 16], r"after 0003\.txt: the end of the archive is missing. The sample 0003", 3),
    "zeros": (
        lambda tar: tar[:4096] + b"\1" * 512 + tar[4608:],
        r"after 0001\.txt: the header at byte 4,096 is dama",
        1,
    ),
    "joined": (lambda tar: tar + tar, r"data follow the end of the archive: were archives joined", 4),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_shards(shards: Path, name: str) -> None:
    damage, what, left = DAMAGE[name]
    path = shards / "0000.tar"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"webdataset: 1 problem in .*shards:\n  0000\.tar: .*{what}"):
        opened(shards)
    dataset = opened(shards, on_error="skip")
    assert shown(dataset) == [(i, f"image {i}") for i in [*range(left), *range(4, COUNT)]]
    assert problem(dataset)[0] == "0000.tar"


def test_a_size_of_many_digits_is_damage(tmp_path: Path) -> None:
    info = tarfile.TarInfo("1.png")
    info.pax_headers = {"size": "9" * 5000}
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    with pytest.raises(DataError, match=r"a\.tar: an extended header is damaged: its size is '9{21}'"):
        opened(tmp_path)


def test_a_lone_damaged_shard_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.tar: the file is empty\nthere is nothing else to train on"):
        opened(tmp_path, on_error="skip")


def test_links_are_refused(tmp_path: Path) -> None:
    path = one(tmp_path, sample(1))
    with tarfile.open(path, "a") as archive:
        folder = tarfile.TarInfo("folder.png")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        link = tarfile.TarInfo("0002.png")
        link.type, link.linkname = tarfile.SYMTYPE, "0001.png"
        archive.addfile(link)
        text = tarfile.TarInfo("0002.txt")
        text.size = 1
        archive.addfile(text, io.BytesIO(b"b"))
    assert problem(opened(path, on_error="skip")) == (
        "a.tar/0002.png",
        "0002.png is a link: write the shard with tar --dereference --hard-dereference",
    )


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.zst"])
def test_compressed_shards_are_refused(tmp_path: Path, name: str) -> None:
    one(tmp_path, sample(1)).rename(tmp_path / name)
    for path in (tmp_path, tmp_path / name, f"{tmp_path}/{name[:-2]}*"):
        with pytest.raises(
            DataError, match=rf"{name}: a compressed archive has no random access.*Decompress .*: (gunzip|unzstd) "
        ):
            opened(path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "nowhere does not exist"),
        (
            "shards/{0000..0005}.tar",
            r"there is no file .*0003\.tar, .*0004\.tar, .*0005\.tar \(the pattern stands for 6\)",
        ),
        ("shards/x-*.tar", r"there is no file .*x-\*\.tar"),
        ("shards/{0..99999999}.tar", "stands for more than 100 files"),
        ("https://a/b.tar", "is not on this computer"),
        ("pipe:cat a.tar", "is not on this computer"),
        ("other", r"other holds no \.tar file: it holds 1 \.txt \(a\.txt\)"),
        (
            "more",
            r"no \.tar file: the dataset parquet reads what it holds: data: \{name: parquet, path: '.*more'\}",
        ),
        ("images", r"holds no \.tar file: it holds images: data: \{name: imagefolder"),
    ],
)
def test_paths_without_shards(
    shards: Path, path: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(paths, "MAX_SHARDS", 100)
    monkeypatch.chdir(tmp_path)
    for name in ("other/a.txt", "more/a.parquet", "images/a.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("a")
    with pytest.raises(DataError, match=f"webdataset: .*{message}"):
        opened(path)


def test_nothing_says_what_the_images_show(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"nothing in .* says what the images show \(1\.png: there is no caption 1\.txt"
    ):
        opened(one(tmp_path, {"1.png": image(1), "2.png": image(2)}))
    with pytest.raises(DataError, match="numbers of boxes, like YOLO's labels, not captions"):
        opened(one(tmp_path, {"1.png": image(1), "1.txt": b"0 0.5 0.5 0.1 0.1"}))


def test_a_shard_that_changes_while_it_is_read(shards: Path) -> None:
    dataset = opened(shards)
    with (shards / "0000.tar").open("ab") as file:
        file.write(bytes(512))
    with pytest.raises(DataError, match=r"0000\.tar/0000\.png cannot be read: its shard has changed.*must stay"):
        dataset.image("train", 0)
    (shards / "0001.tar").unlink()
    with pytest.raises(DataError, match=r"0001\.tar/0004\.png cannot be read: No such file.*must stay as they are"):
        dataset.image("train", 4)
    assert numbers(dataset.image("train", 8)[None]) == [8]
    write(shards / "0002.tar", sample(1))
    with pytest.raises(DataError, match="its shard has changed"):
        dataset.image("train", 8)


# Worker processes, resume, and the command line


def test_batches_are_the_same_after_a_resume_and_with_workers(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged image is replaced in the same way."""
    monkeypatch.setattr(encoded, "READ_AT_START", 0)
    write(shards / "0001.tar", {**sample(4), "0005.png": image(100)[:60], "0005.txt": b"image 5"})

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
    assert len({number for batch in whole for number, _ in batch}) == 9, "image 5 never appears"


@pytest.fixture
def config(shards: Path, tmp_path: Path, toy: None) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(
        f"data: {{name: webdataset, path: {shards}, size: 16}}\nencoder: letters\ngenerator: toy/means\n"
        "fit: {steps: 2, batch_size: 2, warmup_steps: 0}\nevaluate: {metrics: [brightness]}\n"
    )
    return path


def test_the_command_line(config: Path, shards: Path, kgen: Callable[..., Outcome]) -> None:
    assert kgen("check", config).status == 0
    done = kgen("data", "check", config)
    assert done.status == 0 and "data: every image was read, and all are good" in done.out
    (shards / "0001.tar").write_bytes((shards / "0001.tar").read_bytes()[:1540])
    refused = kgen("check", config)
    assert refused.status == 2 and refused.err.startswith(f"error: {config}: webdataset: 1 problem in {shards}:")
    assert "0001.tar: it is cut off in the middle of 0004.txt. The sample 0004 is left out" in refused.err
