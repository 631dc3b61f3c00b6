"""What the page does, without the page: it describes runs, and generates images as `kgen generate` does."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from kgen import Capability, Generator, ImageRequest, KgenError, ModelCache, Pipeline, RunError, option_of, write_images
from kgen.options import options
from kgen_plugin_studio.fields import Field, fields_of
from kgen_plugin_studio.image_commands import ImageCommand
from kgen_plugin_studio.runs import find_runs

OnStep = Callable[[np.ndarray], None]
"""Receives the images of a sampling step."""


@dataclass(frozen=True)
class Abilities:
    """What a run can do.

    Args:
        fields: Fields for the options of its generator and decoder.
        strength: The default of how much an image changes from which it starts; None: it starts from no image.
        inpaints: Whether only a part of the image can change.
        blends: Whether it can generate images between two images.
    """

    fields: list[Field]
    strength: float | None
    inpaints: bool
    blends: bool


@dataclass
class Outcome:
    """What a click has done.

    Args:
        files: Each image with the name of its run.
        commands: The command lines that make the same files.
        messages: Errors and warnings, of one line or several.
        text: What a command has printed.
    """

    files: list[tuple[Path, str]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    text: str = ""


class Studio:
    """The runs, their loaded models, and the folder for images.

    Args:
        runs: The run directories by the words that name them on the command line, as from `find_runs`.
        output: The folder in which each generation makes a folder of its own.
        keep: Number of models that stay loaded.
        search: Whether to look for new runs in the folder `runs`.
    """

    def __init__(self, runs: Mapping[str, Path], output: Path, keep: int = 1, search: bool = False) -> None:
        self.runs, self.output, self._search = dict(runs), output, search
        self._models = ModelCache(keep)
        self.started: list[subprocess.Popen[bytes]] = []  # trainings that the page has continued
        self._busy = threading.Lock()  # the page has several threads; a model works for one at a time

    def names(self) -> list[str]:
        """The names of all runs, also of those that were made since the last call."""
        if self._search:
            with contextlib.suppress(RunError):  # all runs may have been deleted
                self.runs |= find_runs([])
        return list(self.runs)

    def abilities(self, name: str) -> Abilities:
        """Loads the model of a run, and says what it can do; raises KgenError if there is no trained model."""
        with self._busy:
            pipeline: Pipeline = self._models.pipeline(self.runs[name])
            generator, decoder = pipeline.generator, pipeline.decoder
            return Abilities(
                fields=fields_of(pipeline),
                strength=_default_strength(generator),
                inpaints=generator.supports_inpainting,
                blends=decoder.latent_is_embedding,
            )

    def generate(self, names: Sequence[str], request: ImageRequest, on_step: OnStep | None = None) -> Outcome:
        """Generates the images of a request with each of several runs.

        Args:
            names: The names of the runs.
            request: What to generate; its run and its output are replaced.
            on_step: Receives the images of each sampling step: see `kgen.write_images`.
        """
        outcome = Outcome()
        for name in names:
            which = "" if len(names) == 1 else f"{name}: "
            try:
                with self._busy, self._new_folder(name) as folder, _warned(outcome.messages, which):
                    one = dataclasses.replace(request, run=self.runs[name], output=f"{folder}{os.sep}")
                    outcome.files += [(path, name) for path in write_images(one, self._models, on_step)]
                outcome.commands.append(dataclasses.replace(one, run=Path(name)).command_line())
            except KgenError as error:
                outcome.messages.append(f"error: {which}{error}")
            except OSError as error:
                outcome.messages.append(f"error: {which}{error.filename}: {error.strerror}")
        return outcome

    def watch(self, names: Sequence[str], request: ImageRequest) -> Iterator[np.ndarray | Outcome]:
        """Yields the images of each sampling step, uint8 (N, H, W, C), and at the end the outcome of `generate`."""
        made: SimpleQueue[np.ndarray | Outcome | BaseException] = SimpleQueue()

        def work() -> None:
            try:
                made.put(self.generate(names, request, made.put))
            except BaseException as error:  # it belongs to the thread that waits
                made.put(error)

        threading.Thread(target=work, daemon=True).start()
        while not isinstance(one := made.get(), Outcome | BaseException):
            yield one
        if isinstance(one, BaseException):
            raise one
        yield one

    def process_images(
        self, command: ImageCommand, name: str, images: Sequence[Path], options: Mapping[str, Any]
    ) -> Outcome:
        """Runs a command that reads images, in a process of its own, as a user would.

        Args:
            command: The command.
            name: The name of the run.
            images: The files of the images.
            options: The options of the command, by the names of `ImageCommand.words`.
        """
        with self._busy, self._new_folder(name, f"{command.name}-") as folder:
            words = command.words(Path(name), images, folder, **options)
            done = subprocess.run([sys.executable, "-m", "kgen.cli", *words], capture_output=True, text=True)
        messages = [*_warnings(done.stderr), *([_error(done.stderr)] if done.returncode else [])]
        files = [] if command.output is None else sorted(folder.glob("*.png"))
        return Outcome(
            files=[(file, name) for file in files],
            commands=[] if done.returncode else [shlex.join(["kgen", *words])],
            messages=messages,
            text="" if command.output is not None else done.stdout.rstrip(),
        )

    @contextlib.contextmanager
    def _new_folder(self, name: str, prefix: str = "") -> Iterator[Path]:
        """A path in the output folder that has the next number and the run's name. An empty folder does not stay."""
        numbers = (path.name[:4] for path in self.output.glob("[0-9][0-9][0-9][0-9]-*"))
        number = 1 + max(map(int, filter(str.isdecimal, numbers)), default=0)
        folder = self.output / f"{number:04d}-{prefix}{self.runs[name].resolve().name}"
        try:
            yield folder
        finally:
            with contextlib.suppress(OSError):  # it contains images, or there is none
                folder.rmdir()


def _warnings(printed: str) -> list[str]:
    """The warnings among the lines that a command has printed."""
    return [line for line in printed.splitlines() if line.startswith(("warning:", "note:"))]


def _error(printed: str) -> str:
    """The error that a command has printed, without the lines before it, which may be those of a framework."""
    found = re.search("^error:.*", printed, re.MULTILINE | re.DOTALL)
    return (printed if found is None else found[0]).strip()


def _default_strength(generator: Generator) -> float | None:
    name = option_of(type(generator).generate, Capability.STRENGTH)
    return None if name is None else options(type(generator).generate)[name].default  # type: ignore[no-any-return]


@contextlib.contextmanager
def _warned(messages: list[str], which: str) -> Iterator[None]:
    """Adds the warnings of a block to the messages, after the words that name the run."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    messages += dict.fromkeys(f"warning: {which}{' '.join(str(warning.message).split())}" for warning in caught)
