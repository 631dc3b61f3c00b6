"""No command and no function replaces or deletes what kgen did not make, wherever it is told to write.

`Pipeline.save` is tested in test_pipeline.py, `kgen run --out` and `kgen compare` beside what else they refuse.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import EXECUTABLE, Outcome, Trained, environment
from PIL import Image

from kgen.cli.common import show_warning
from kgen.errors import ConfigError
from kgen.reporting.sheets import save_png

pytestmark = pytest.mark.portable

Kgen = Callable[..., Outcome]

FILES = {
    "generate": ("generate", "RUN", "red", "-o", "TARGET"),
    "reconstruct": ("reconstruct", "RUN", "small.png", "-o", "TARGET"),
    "schema": ("schema", "-o", "TARGET"),
}
"""The commands that write one file."""

FOLDERS = {
    "generate": ("generate", "RUN", "red", "-o", "TARGET/"),
    "upscale": ("upscale", "RUN", "small.png", "-o", "TARGET"),
}
"""Those that write into a folder."""


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """All files, and where links point to."""
    return {
        str(path): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with files of the user's."""
    desk = tmp_path / "desk"
    (desk / "holiday").mkdir(parents=True)
    (desk / "late").mkdir()
    for name in ("mine.png", "small.png", "holiday/0000-red.png", "holiday/small.png", "late/0001-red.png"):
        Image.new("RGB", (8, 8), "red").save(desk / name)
    (desk / "text.png").write_text("no image at all")
    (desk / "link.png").symlink_to(desk / "mine.png")
    return desk


def fill(command: tuple[str, ...], trained: Trained, target: str) -> list[str]:
    places = {"RUN": str(trained.directory), "TARGET": target, "TARGET/": f"{target.rstrip('/')}/"}
    return [places.get(word, word) for word in command]


@pytest.mark.parametrize("command", FILES.values(), ids=FILES)
def test_a_file_of_the_users_stays(kgen: Kgen, trained: Trained, desk: Path, command: tuple[str, ...]) -> None:
    before = snapshot(desk)
    for target in ("mine.png", "text.png", "link.png"):
        kgen(*fill(command, trained, target), cwd=desk).refuses(f"{target} already exists, and kgen did not make it")
    for target in ("mine.png/sub/x.png", "/proc/x.png", "holiday/../mine.png"):
        refused = kgen(*fill(command, trained, target), cwd=desk)
        refused.refuses()
        assert "/tmp" not in refused.err, "a temporary file that the user never gave"
    if command[0] != "generate":  # which writes an image into a folder
        for target in (".", "/", "holiday"):
            kgen(*fill(command, trained, target), cwd=desk).refuses(target)
    assert snapshot(desk) == before


@pytest.mark.parametrize("command", FOLDERS.values(), ids=FOLDERS)
def test_files_in_a_folder_stay(kgen: Kgen, trained: Trained, desk: Path, command: tuple[str, ...]) -> None:
    before = snapshot(desk)
    kgen(*fill(command, trained, "holiday"), cwd=desk).refuses("already exists, and kgen did not make it")
    for target in ("mine.png", "mine.png/sub", "/proc/x"):
        kgen(*fill(command, trained, target), cwd=desk).refuses()
    if command[0] == "generate":
        kgen(*fill(command, trained, "late"), "-n", 2, cwd=desk).refuses("0001-red.png already exists")
    if command[0] == "upscale":
        kgen(*fill(command, trained, "."), cwd=desk).refuses("small.png is one of the input images, which would")
        twice = [*fill(command, trained, "new"), "holiday/small.png"]
        kgen(*twice, cwd=desk).refuses("small.png would both become new/small.png")
    assert snapshot(desk) == before


def test_kgen_replaces_its_own_images_and_empty_files(kgen: Kgen, trained: Trained, desk: Path) -> None:
    (desk / "empty.png").touch()
    (desk / "through.png").symlink_to("/dev/null")
    for target in ("new.png", "new.png", "empty.png", "through.png"):
        assert kgen("generate", trained.directory, "red", "-o", target, cwd=desk).status == 0
    assert Image.open(desk / "new.png").info["Software"] == "kgen"
    assert (desk / "through.png").is_symlink() and Path("/dev/null").is_char_device()
    for _ in range(2):
        assert kgen("schema", "-o", "new.json", cwd=desk).status == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_all_formats_are_recognized(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "x.png"
    for prompt in ("", "a" * 10_000):
        save_png(path, np.zeros((300, 300, channels), np.uint8), {"prompt": prompt})
    Image.open(path).save(path)  # another program's copy has other metadata
    with pytest.raises(ConfigError, match="kgen did not make it"):
        save_png(path, np.zeros((8, 8, channels), np.uint8), {})


@pytest.mark.parametrize(
    "redirection, status, err",
    [
        (">&-", 0, ""),
        (">&- 2>&- <&-", 0, ""),
        ("2>&- | head -c 1", 0, ""),
        (">/dev/full", 2, "error: No space left on device\n"),
    ],
)
def test_outputs_that_cannot_be_written_to(redirection: str, status: int, err: str) -> None:
    """A stream that is closed, a reader that has gone, and a disk that is full end in no traceback."""
    command = f"'{EXECUTABLE}' plugins list {redirection}"
    done = subprocess.run(
        ["bash", "-c", command], env=environment(), capture_output=True, text=True, check=False, timeout=100
    )
    assert (done.returncode, done.stderr) == (status, err)


def test_a_warning_of_another_package_is_one_line_with_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    show_warning("Palette images\n  are \x1b[31mbad", UserWarning, "/usr/lib/site-packages/PIL/Image.py", 7)
    show_warning(UserWarning("kgen speaks"), UserWarning, "/usr/lib/site-packages/kgen/errors.py", 7)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("warning: Palette images are ") and first.endswith("bad (UserWarning of PIL)")
    assert "\x1b" not in first and second == "warning: kgen speaks"
