"""What several test modules share: the toy plugin, plugins made on the spot, and the real command line."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kgen.plugins import registry

TOY = Path(__file__).parent / "toy"
EXECUTABLE = Path(sys.executable).parent / "kgen"
NUMBERS = itertools.count()


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The plugin `toy` is installed, as far as this process is concerned."""
    monkeypatch.syspath_prepend(str(TOY))
    registry.cache_clear()
    yield
    registry.cache_clear()


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    status: int
    out: str
    err: str

    def refuses(self, *messages: str) -> None:
        """Asserts that it ended as bad input must: status 2, the message, no traceback."""
        assert self.status == 2, self
        assert self.err.count("error: ") == 1 and self.err.startswith("error: "), self.err
        assert "Traceback" not in self.out + self.err
        for message in messages:
            assert message in self.err, f"{message!r} is not in:\n{self.err}"


def quickest_backend() -> str:
    """What the tests of the command line run on: the backend under test, else the one that is imported fastest."""
    asked = os.environ.get("KERAS_BACKEND")
    return asked or next(name for name in ("jax", "torch", "tensorflow") if importlib.util.find_spec(name))


def environment(**changes: str) -> dict[str, str]:
    """For a process that sees the toy plugin."""
    return {**os.environ, "KERAS_BACKEND": quickest_backend(), "PYTHONPATH": str(TOY), **changes}


def kgen(*arguments: str | Path, cwd: Path | None = None, **env: str) -> Outcome:
    """Runs the installed `kgen` in a process of its own."""
    command = [str(EXECUTABLE), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=300)
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(name="kgen")
def _kgen() -> Callable[..., Outcome]:
    return kgen


GOOD = """\
data: {name: squares, colours: [red, green], held: true}
encoder: letters
generator: toy/means
fit: {steps: 6, batch_size: 4, warmup_steps: 0, learning_rate: 0.05, checkpoint_every: 3, validate_every: 3, log_every: 1}
sample: {every: 3}
evaluate: {metrics: [brightness]}
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A run file that is in order."""
    path = tmp_path / "good.yaml"
    path.write_text(GOOD, encoding="utf-8")
    return path


@dataclass(frozen=True)
class Trained:
    """A run that is done: its file, its directory, and what `kgen run` printed."""

    config: Path
    directory: Path
    outcome: Outcome


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

    def install(self, namespace: str, source: str, *, distribution: str = "", value: str = "") -> str:
        """Installs a plugin of one module, whose name is returned."""
        module = f"made_plugin_{next(NUMBERS)}"
        (self.path / f"{module}.py").write_text(source, encoding="utf-8")
        name = distribution or f"kgen-plugin-{namespace}"
        info = self.path / f"{name.replace('-', '_')}-0.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.5\n", encoding="utf-8")
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
