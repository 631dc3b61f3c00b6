"""The command line of kgen: in the process of the tests, which is quick, or the installed command in its own."""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import keras
import pytest

from kgen.cli import main
from kgen.plugins.discovery import registry

TOY = Path(__file__).parent / "toy"
EXECUTABLE = Path(sys.executable).parent / "kgen"

GOOD = """\
data: {name: squares, colors: [red, green], held: true}
encoder: letters
generator: toy/means
fit: {steps: 6, batch_size: 4, warmup_steps: 0, learning_rate: 0.05, checkpoint_every: 3, validate_every: 3}
sample: {every: 3}
evaluate: {metrics: [brightness]}
"""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a command."""

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
    """The backend of a separate process: the one that is imported fastest."""
    return next(name for name in ("jax", "torch", "tensorflow") if importlib.util.find_spec(name))


def environment(**changes: str) -> dict[str, str]:
    """For a process that sees the toy plugin, and in which TensorFlow is as talkative as for any user."""
    inherited = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    wanted = {**inherited, "KERAS_BACKEND": quickest_backend(), "PYTHONPATH": str(TOY), **changes}
    paths = [wanted["PYTHONPATH"], *filter(None, [inherited.get("PYTHONPATH")])]
    return {**wanted, "PYTHONPATH": os.pathsep.join(paths)}


def kgen(*arguments: str | Path, cwd: Path | None = None, **env: str) -> Outcome:
    """Runs a command as `kgen` does, in this process: on its backend, and without importing a framework again."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2)]
    with _as_if_alone(cwd, env), redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        sys.argv = ["kgen", *map(str, arguments)]
        with pytest.raises(SystemExit) as end:
            main()
    out, err = (stream.buffer.getvalue().decode() for stream in streams if stream.flush() is None)
    return Outcome(int(end.value.code or 0), out, err)


def kgen_process(*arguments: str | Path, cwd: Path | None = None, **env: str) -> Outcome:
    """Runs the installed `kgen` in a process of its own, for what only a process shows."""
    command = [str(EXECUTABLE), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=300)
    return Outcome(done.returncode, done.stdout, done.stderr)


@contextmanager
def _as_if_alone(cwd: Path | None, env: dict[str, str]) -> Iterator[None]:
    """The environment, the folder and the plugins of a command's own process; what it changes of Keras is undone."""
    env = {"PYTHONPATH": str(TOY), **env}
    policy, distribution = keras.config.dtype_policy(), keras.distribution.distribution()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(sys.argv))
        patch.setattr(sys, "path", [*filter(None, env["PYTHONPATH"].split(os.pathsep)), *sys.path])
        for name, value in env.items():
            patch.setenv(name, value)
        if cwd is not None:
            patch.chdir(cwd)
        importlib.invalidate_caches()
        registry.cache_clear()
        try:
            yield
        finally:
            registry.cache_clear()
            keras.config.set_dtype_policy(policy)
            keras.distribution.set_distribution(distribution)


@dataclass(frozen=True)
class Trained:
    """A run that is done: its file, its directory, and what `kgen run` printed."""

    config: Path
    directory: Path
    outcome: Outcome
