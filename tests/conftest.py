"""What several test modules share: the toy plugin, plugins made on the spot, and the command line."""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import GOOD, TOY, Outcome, Trained, kgen, kgen_process

from kgen.plugins import registry

NUMBERS = itertools.count()


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The plugin `toy` is installed, as far as this process is concerned."""
    monkeypatch.syspath_prepend(str(TOY))
    registry.cache_clear()
    yield
    registry.cache_clear()


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


@dataclass(frozen=True)
class Site:
    """A folder that plugins are installed into, as pip would."""

    path: Path

    def install(
        self, namespace: str, source: str, *, distribution: str = "", value: str = "", requires: Sequence[str] = ()
    ) -> str:
        """Installs a plugin of one module, whose name is returned."""
        module = f"made_plugin_{next(NUMBERS)}"
        (self.path / f"{module}.py").write_text(source, encoding="utf-8")
        name = distribution or f"kgen-plugin-{namespace}"
        info = self.path / f"{name.replace('-', '_')}-0.5.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 0.5", *(f"Requires-Dist: {r}" for r in requires)]
        (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[kgen]\n{namespace} = {value or module}\n", encoding="utf-8")
        return module

    def entry_points(self) -> list[importlib.metadata.EntryPoint]:
        found = importlib.metadata.distributions(path=[str(self.path)])
        return [entry_point for distribution in found for entry_point in distribution.entry_points]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    path = tmp_path / "site"
    path.mkdir()
    monkeypatch.syspath_prepend(str(path))
    return Site(path)
