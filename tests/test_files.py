"""Files and folders are written whole or not at all, and nothing of anybody else's is lost."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import Timeout
from full_disk import full_disk

from kgen.data.cache import open_or_write
from kgen.errors import ConfigError, RunError
from kgen.experiments.directory import RunDirectory
from kgen.storage.files import atomic_file, atomic_folder, disk_space, locked_folder, remove_abandoned, write_text
from kgen.storage.locks import take_lock


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("mask, expected", [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_new_file_has_the_mode_of_the_umask(tmp_path: Path, mask: int, expected: int) -> None:
    """Also where a library (safetensors) replaces the temporary file by one that only the owner may read."""
    with umask(mask), atomic_file(tmp_path / "new.bin") as temporary:
        temporary.unlink()
        temporary.touch(0o600)
    assert mode(tmp_path / "new.bin") == expected


def test_replaced_files_keep_their_mode(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "1")
    (tmp_path / "x").chmod(0o600)
    write_text(tmp_path / "x", "2")
    assert mode(tmp_path / "x") == 0o600
    (tmp_path / "folder").mkdir(mode=0o700)
    with atomic_folder(tmp_path / "folder"):
        pass
    assert mode(tmp_path / "folder") == 0o700


def test_a_symbolic_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("file", "missing"):
        (tmp_path / name).symlink_to(tmp_path / "there" / name)
    write_text(tmp_path / "there" / "file", "old")
    for name in ("file", "missing"):
        write_text(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "there" / name).read_text() == "new"


def test_a_pipe_and_a_device_are_written_into(tmp_path: Path) -> None:
    """If root renamed a file to /dev/null, it would replace the device by a file."""
    os.mkfifo(tmp_path / "pipe")
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    write_text(tmp_path / "pipe", "text")
    reader.join(10)
    assert found == ["text"] and (tmp_path / "pipe").is_fifo()
    write_text(Path(os.devnull), "text")
    assert Path(os.devnull).is_char_device()


@pytest.mark.parametrize("path", ["/", ".", "..", "", "/tmp/.."])
def test_a_folder_is_not_a_file(path: str) -> None:
    with pytest.raises(ConfigError, match="is a folder: give the name of a file"):
        write_text(Path(path), "text")


@pytest.mark.parametrize("name", ["x" * 250, "ä" * 120, ".hidden", "a b\n"])
def test_any_name_can_be_written(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_failure_leaves_the_old_content(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("old")
    with pytest.raises(ValueError, match="no"), atomic_file(tmp_path / "file") as temporary:
        temporary.write_text("new")
        raise ValueError("no")
    with pytest.raises(ValueError, match="no"), atomic_folder(tmp_path / "folder", lambda _: ["a"]):
        raise ValueError("no")
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "a").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


def test_a_move_that_fails_moves_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("old")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(errno.EIO, "broken")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="broken"), atomic_folder(tmp_path / "folder", lambda _: ["a"]):
        pass
    assert (tmp_path / "folder" / "a").read_text() == "old"


# ---- what is not kgen's ------------------------------------------------------------------------------------------


def test_a_folder_is_replaced_only_if_all_of_it_is_owned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "own").write_text("own")
    with atomic_folder(folder, lambda _: ["own"]) as new:
        (new / "new").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["new"]
    (folder / "sub").mkdir()
    (folder / "sub" / "thesis.txt").write_text("precious")
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match=r"\(link, sub/thesis.txt\)"), atomic_folder(folder, lambda _: ["new"]):
        pass
    assert (folder / "sub" / "thesis.txt").read_text() == "precious"
    monkeypatch.chdir(folder)
    for path in (".", "..", str(folder), "/"):
        with pytest.raises(ConfigError, match="is or contains the current folder"), atomic_folder(Path(path)):
            pass
    with pytest.raises(ConfigError, match="is a file"), atomic_folder(Path("new")):
        pass


# ---- disks and processes -----------------------------------------------------------------------------------------


def test_a_full_disk_is_named_with_the_bytes_needed(tmp_path: Path) -> None:
    """/dev/full is full. No file may grow beyond a kilobyte, as far as this process is concerned."""
    with pytest.raises(RunError, match=r"the disk is full .*: 4 bytes were needed at /dev/full; nothing is lost"):
        write_text(Path("/dev/full"), "text")
    write_text(tmp_path / "x", "old")
    with full_disk(1024):
        with pytest.raises(RunError, match=rf"the disk is full .*: 5,000 bytes were needed at {tmp_path}/x"):
            write_text(tmp_path / "x", "x" * 5000)
        with pytest.raises(RunError, match="the disk is full"), atomic_folder(tmp_path / "folder") as folder:
            (folder / "y").write_text("y" * 5000)
    assert (tmp_path / "x").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    with pytest.raises(RunError, match="the disk is full"), disk_space(tmp_path):
        raise Exception("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(PermissionError), disk_space(tmp_path):
        raise PermissionError(errno.EACCES, "no")


KILLED = """
import os, signal, sys
from pathlib import Path
from kgen.storage.files import atomic_file, atomic_folder
folder = Path(sys.argv[1])
rename = Path.rename
def killing(self, target):
    if self.name == "new":
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
if sys.argv[2] == "moving":
    Path.rename = killing
    with atomic_folder(folder / "model", lambda _: ["a"]):
        pass
with atomic_file(folder / "x.bin") as file, atomic_folder(folder / "y") as inner:
    file.write_text("half"); print("writing", flush=True); sys.stdin.read()
"""


def test_files_of_killed_processes_are_removed_and_others_are_kept(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    (tmp_path / ".mine.12345678").mkdir()
    (tmp_path / ".mine.1234567x.kgen").mkdir()
    (tmp_path / ".file.12345678.kgen").write_text("")
    own = {path.name for path in tmp_path.iterdir()}
    with subprocess.Popen([*command, "writing"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        left = {path.name for path in tmp_path.iterdir()} - own
        assert len(left) == 2
        remove_abandoned(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == own | left
        process.kill()
    remove_abandoned(tmp_path.parent)
    assert {path.name for path in tmp_path.iterdir()} == own | left
    remove_abandoned(tmp_path.parent, deep=True)
    assert {path.name for path in tmp_path.iterdir()} == own


def test_a_folder_that_a_killed_process_had_moved_aside_comes_back(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("precious")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), "moving"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "model").exists()
    remove_abandoned(tmp_path)
    assert (tmp_path / "model" / "a").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_cache_that_several_processes_fill_is_not_removed(tmp_path: Path) -> None:
    """Each finds nothing, and writes; whoever comes late must not remove what the first has put in place."""
    problems: list[Exception] = []
    together = threading.Barrier(4)

    def open_(folder: Path) -> str | None:
        try:
            return (folder / "value").read_text()
        except OSError:
            return None

    def use(round_: int, number: int) -> None:
        together.wait()
        time.sleep(0.0005 * number)
        try:
            value = open_or_write(
                tmp_path, f"latents-{round_}", open_=open_, write=lambda f: (f / "value").write_text("x") and None
            )
            assert value == "x"
        except Exception as error:
            problems.append(error)

    def rounds(number: int) -> None:
        for round_ in range(100):
            use(round_, number)

    threads = [threading.Thread(target=rounds, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".kgen"]


@pytest.mark.usefixtures("windows")
def test_file_operations_work_on_windows_too(tmp_path: Path) -> None:
    """Open files cannot be moved or deleted, folders cannot be opened, and only files open for writing be flushed."""
    for text in ("old", "new"):
        write_text(tmp_path / "x", text)
        with atomic_folder(tmp_path / "folder", lambda _: ["a"]) as folder:
            (folder / "a").write_text(text)
            (folder / "a").chmod(0o444)
        assert (tmp_path / "x").read_text() == (tmp_path / "folder" / "a").read_text() == text
    (tmp_path / ".y.12345678.kgen" / "old" / "y").mkdir(parents=True)
    with atomic_file(tmp_path / "x") as temporary:
        remove_abandoned(tmp_path)
        assert temporary.is_file()
    with locked_folder(tmp_path / "y"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"x", "y", "folder"}
    file, replaced = (tmp_path / "folder" / "a").open(), atomic_folder(tmp_path / "folder", lambda _: ["a"])
    with file, pytest.raises(PermissionError), replaced:
        pass
    assert (tmp_path / "folder" / "a").read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} == {"x", "y", "folder"}


def test_a_disk_without_locks_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with atomic_file(tmp_path / "x") as temporary:
        temporary.write_text("text")
        remove_abandoned(tmp_path)
    with locked_folder(tmp_path):
        assert (tmp_path / "x").read_text() == "text"
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".kgen"]
    locked = RunDirectory(tmp_path / "run").locked()
    with pytest.raises(RunError, match="cannot be written to: No locks available"), locked:
        pass


def test_only_one_process_at_a_time_holds_a_lock(tmp_path: Path) -> None:
    for _ in range(2):
        lock = take_lock(tmp_path / "lock")
        with pytest.raises(Timeout):
            take_lock(tmp_path / "lock")
        lock.release()
