"""What several test modules share: the toy plugin, plugins made on the spot, and the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import GOOD, TOY, Outcome, Trained, kgen, kgen_process
from made_plugins import Site, installed


@pytest.fixture
def toy() -> Iterator[None]:
    """The plugin `toy` is installed, as far as this process is concerned."""
    with installed(TOY):
        yield


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
