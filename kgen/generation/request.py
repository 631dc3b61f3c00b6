"""What `kgen generate` is asked for."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kgen.errors import ConfigError
from kgen.experiments.directory import RunDirectory
from kgen.generation.output import Output, slug


@dataclass(frozen=True)
class ImageRequest:
    """Images to generate: the arguments of `kgen generate`, under the names and in the units of the command line.

    Args:
        run: A run directory, or a folder that `kgen.save` wrote.
        prompts: The prompts; with `blend`, one at most.
        number: Images per prompt, from 1.
        seed: The seed of the noise, from 0 to 2^31 - 1.
        shared_noise: Whether all prompts share the noise.
        settings: Options of the generator, such as "steps=20", and of the decoder, such as "decoder.steps=8".
        images: The file of an image to start from; with `blend`, of two.
        mask: The file of a mask; only the part of the image under its white pixels changes.
        strength: How much the image changes, from 0.01 to 1; None: the default of the generator.
        blend: Positions between the two images, each from 0 to 1; empty: the generator makes the images.
        scale: Factor by which each image is enlarged; None: 1, or in a grid, to 96 pixels.
        size: Height and width in pixels, such as "96x64"; None: those of the training.
        loras: Files of LoRA weights, each as "FILE" or "FILE:SCALE".
        output: A PNG to write, or a folder for one file per image, which ends with "/"; None: PROMPT.png.
    """

    run: Path
    prompts: tuple[str, ...] = ()
    number: int = 1
    seed: int = 0
    shared_noise: bool = False
    settings: tuple[str, ...] = ()
    images: tuple[Path, ...] = ()
    mask: Path | None = None
    strength: float | None = None
    blend: tuple[float, ...] = ()
    scale: int | None = None
    size: str | None = None
    loras: tuple[str, ...] = ()
    output: str | None = None

    def check(self) -> Output:
        """Checks all that needs no model. Returns the files to write.

        Raises:
            ConfigError: options do not belong together, a text cannot be read, or a file cannot be written.
            DataError: an image cannot be read.
        """
        from kgen.data.images import require_single

        for image in self.images:
            require_single(image)
        self._check_images()
        _ = self.pixels, self.lora_files
        if self.blend:
            captions, key, name = [f"{at:g}" for at in self.blend] * self.number, "blend", "blend"
        else:
            captions, key = [prompt for prompt in self.prompts for _ in range(self.number)], "prompt"
            name = slug(self.prompts[0])
        return Output(f"{name}.png" if self.output is None else self.output, captions, key)

    @property
    def pixels(self) -> tuple[int, int] | None:
        """The height and the width of `size`; raises ConfigError if it is not "HEIGHTxWIDTH"."""
        if self.size is None:
            return None
        found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", self.size.strip(), re.IGNORECASE)
        if found is None:
            raise ConfigError(f"--size {self.size}: must be the height and the width in pixels, such as 96x64")
        return int(found[1]), int(found[2])

    @property
    def lora_files(self) -> tuple[tuple[Path, float], ...]:
        """The files of `loras`, each with its scale; raises ConfigError if one is missing, or is that of the run."""
        found = tuple(map(_parsed_lora, self.loras))
        own = RunDirectory(self.run).lora
        for file, _ in found:
            if own.is_file() and file.samefile(own):
                raise ConfigError(f"--lora {file}: the model of {self.run} contains this LoRA already; leave it out")
        return found

    def command_line(self) -> str:
        """The command that makes the same files, for a POSIX shell."""
        words = ["kgen", "generate", *self._options()]
        named = [str(self.run), *self.prompts]
        words += ["--", *named] if any(word.startswith("-") for word in named) else named
        return shlex.join(words)

    def _options(self) -> Iterator[str]:
        """The words of all options that are not the default."""
        single: dict[str, Any] = {
            "--size": self.size,
            "--mask": self.mask,
            "--strength": self.strength,
            "--scale": self.scale,
        }
        single |= {"-n": self.number if self.number != 1 else None, "--seed": self.seed or None, "-o": self.output}
        several: dict[str, tuple[Any, ...]] = {
            "--set": self.settings,
            "--image": self.images,
            "--blend": self.blend,
            "--lora": self.loras,
        }
        if self.shared_noise:
            yield "--shared-noise"
        for name, value in single.items():
            yield from () if value is None else (name, str(value))
        for name, values in several.items():
            for value in values:
                yield from (name, str(value))

    def _check_images(self) -> None:
        """Raises ConfigError for options that do not belong together."""
        others: dict[str, Any] = {"mask": self.mask, "strength": self.strength, "size": self.size}
        others |= {"shared-noise": self.shared_noise or None, "lora": self.loras or None}
        given = [name for name, value in others.items() if value is not None]
        if self.blend:
            if len(self.images) != 2:
                raise ConfigError(
                    f"--blend needs two images, --image ONE --image OTHER, but there are {len(self.images)}"
                )
            if len(self.prompts) > 1:
                raise ConfigError(
                    f"--blend needs one PROMPT, which the decoder reads, or none, but not {len(self.prompts)}"
                )
            if given:
                raise ConfigError(f"--{given[0]} has no effect with --blend: leave it out")
            return
        if not self.prompts:
            raise ConfigError("there is no PROMPT: give one; or blend two --image by --blend 0.5")
        if len(self.images) > 1:
            raise ConfigError("an image starts from one --image: leave the others out, or add --blend 0.5 to blend two")
        for name in ("strength", "mask"):
            if name in given and not self.images:
                raise ConfigError(f"--{name} needs an image to start from: give it with --image FILE")


def _parsed_lora(text: str) -> tuple[Path, float]:
    """The file of "FILE" or "FILE:SCALE", and the scale. Raises ConfigError if there is no such file."""
    name, _, number = text.rpartition(":")
    path, scale = Path(text), 1.0
    if name and not path.exists():  # a path may contain colons
        with contextlib.suppress(ValueError):
            path, scale = Path(name), float(number)
    if not path.exists():
        raise ConfigError(f"--lora {text}: there is no file {path}; write FILE or FILE:SCALE, as in x.safetensors:0.8")
    return path, scale
