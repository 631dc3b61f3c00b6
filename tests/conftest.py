"""What several test modules share: the toy plugin, plugins made on the spot, and the command line."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import GOOD, TOY, Outcome, Trained, kgen, kgen_process
from made_plugins import PLUGIN, Site, installed


@pytest.fixture
def toy() -> Iterator[None]:
    """The plugin `toy` is installed, as far as this process is concerned."""
    with installed(TOY):
        yield


@pytest.fixture(scope="module")
def made_plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The plugin `made`, with the parts in `parts.py`, is installed."""
    site = Site(tmp_path_factory.mktemp("site"))
    site.install("made", PLUGIN)
    with installed(site.path):
        yield


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test for kgen's caches."""
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def logged() -> list[str]:
    """Receives the lines of a log, as its `append`."""
    return []


@pytest.fixture(name="kgen")
def _kgen() -> Callable[..., Outcome]:
    return kgen


@pytest.fixture(name="kgen_process")
def _kgen_process() -> Callable[..., Outcome]:
    return kgen_process


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A run file that is in order."""
    path = tmp_path / "good.yaml"
    path.write_text(GOOD, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of the toy parts, through the command line. Tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("trained")
    config = folder / "good.yaml"
    config.write_text(GOOD, encoding="utf-8")
    return Trained(config, folder / "runs" / "good", kgen("run", config, cwd=folder))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    path = tmp_path / "site"
    path.mkdir()
    monkeypatch.syspath_prepend(str(path))
    return Site(path)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuses, like Windows, to move or delete open files, to open folders, and to flush files open for reading."""

    def opened(path: Any) -> bool:
        for descriptor in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                if descriptor.readlink().is_relative_to(Path(os.path.realpath(path))):
                    return True
        return False

    def refusing(name: str, refused: Callable[[Any], bool], number: int) -> None:
        function = getattr(os, name)

        def guarded(first: Any, *others: Any, **options: Any) -> Any:
            if refused(first):
                raise OSError(number, os.strerror(number), str(first))
            return function(first, *others, **options)

        monkeypatch.setattr(os, name, guarded)

    monkeypatch.setattr("kgen.storage.locks.WINDOWS", True)
    monkeypatch.setattr(shutil, "_use_fd_functions", False)  # which open folders
    for name in ("rename", "replace", "unlink", "rmdir"):
        refusing(name, opened, errno.EACCES)
    refusing("open", os.path.isdir, errno.EACCES)
    refusing("fsync", lambda file: fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY, errno.EBADF)
