"""What the page does, without the page: it describes runs, and generates images as `kgen generate` does."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kgen import Capability, Generator, ImageRequest, KgenError, ModelCache, Pipeline, option_of, write_images
from kgen.options import options
from kgen_plugin_studio.fields import Field, fields_of


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
    """

    files: list[tuple[Path, str]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


class Studio:
    """The runs, their loaded models, and the folder for images.

    Args:
        runs: The run directories by name.
        output: The folder in which each generation makes a folder of its own.
        keep: Number of models that stay loaded.
    """

    def __init__(self, runs: Mapping[str, Path], output: Path, keep: int = 1) -> None:
        self.runs, self.output = dict(runs), output
        self._models = ModelCache(keep)
        self.started: list[subprocess.Popen[bytes]] = []  # trainings that the page has continued
        self._busy = threading.Lock()  # the page has several threads; a model works for one at a time

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

    def report(self, name: str) -> str | None:
        """The address of the report of a run on the page; None if there is no report."""
        return f"report/{list(self.runs).index(name)}" if (self.runs[name] / "report.html").is_file() else None

    def generate(self, names: Sequence[str], request: ImageRequest) -> Outcome:
        """Generates the images of a request with each of several runs.

        Args:
            names: The names of the runs.
            request: What to generate; its run and its output are replaced.
        """
        outcome = Outcome()
        for name in names:
            try:
                with self._busy, _messages(outcome.messages):
                    one = self._placed(name, request)
                    outcome.files += [(path, name) for path in write_images(one, self._models)]
                outcome.commands.append(one.command_line())
            except KgenError as error:
                outcome.messages.append(f"error: {error}" if len(names) == 1 else f"error: {name}: {error}")
            except OSError as error:
                outcome.messages.append(f"error: {error.filename}: {error.strerror}")
        return outcome

    def _placed(self, name: str, request: ImageRequest) -> ImageRequest:
        """The request for one run, with a new folder for its images."""
        run = self.runs[name]
        numbers = (path.name[:4] for path in self.output.glob("[0-9][0-9][0-9][0-9]-*"))
        number = 1 + max(map(int, filter(str.isdecimal, numbers)), default=0)
        folder = self.output / f"{number:04d}-{run.resolve().name}"
        return dataclasses.replace(request, run=run, output=f"{folder}{os.sep}")


def _default_strength(generator: Generator) -> float | None:
    name = option_of(type(generator).generate, Capability.STRENGTH)
    return None if name is None else options(type(generator).generate)[name].default  # type: ignore[no-any-return]


@contextlib.contextmanager
def _messages(messages: list[str]) -> Iterator[None]:
    """Adds the warnings of a block to the messages."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    messages += dict.fromkeys(f"warning: {' '.join(str(warning.message).split())}" for warning in caught)
