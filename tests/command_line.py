"""The installed `kgen`, run in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TOY = Path(__file__).parent / "toy"
EXECUTABLE = Path(sys.executable).parent / "kgen"

GOOD = """\
data: {name: squares, colours: [red, green], held: true}
encoder: letters
generator: toy/means
fit: {steps: 6, batch_size: 4, warmup_steps: 0, learning_rate: 0.05, checkpoint_every: 3, validate_every: 3}
sample: {every: 3}
evaluate: {metrics: [brightness]}
"""


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
    """What the command line is tested on, since every test starts a process: the backend that is imported fastest."""
    return next(name for name in ("jax", "torch", "tensorflow") if importlib.util.find_spec(name))


def environment(**changes: str) -> dict[str, str]:
    """For a process that sees the toy plugin, and in which TensorFlow is as talkative as for any user."""
    inherited = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return {**inherited, "KERAS_BACKEND": quickest_backend(), "PYTHONPATH": str(TOY), **changes}


def kgen(*arguments: str | Path, cwd: Path | None = None, **env: str) -> Outcome:
    """Runs the installed `kgen` in a process of its own."""
    command = [str(EXECUTABLE), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=300)
    return Outcome(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Trained:
    """A run that is done: its file, its directory, and what `kgen run` printed."""

    config: Path
    directory: Path
    outcome: Outcome
