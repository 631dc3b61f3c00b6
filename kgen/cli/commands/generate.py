"""kgen generate: generate images from prompts."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kgen.cli.common import RunArgument, log, require_directory, require_single, require_text
from kgen.errors import ConfigError
from kgen.reporting.plain import printable
from kgen.storage.ownership import IMAGES, require_free

if TYPE_CHECKING:
    import numpy as np

    from kgen.contracts.generator import Generator

EXAMPLE = "Example: kgen generate runs/quickstart 'red heart' 'blue circle' -n 4 --set steps=20 -o hearts.png"

LONGEST_SLUG = 50

RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)")
"""Names of devices on Windows; what is written into a file of such a name is lost."""

PROMPTS = "The prompts; quote each one. They are texts, or whatever the run's encoder reads: labels, paths of images."

ImageOption = Annotated[Path | None, typer.Option("--image", metavar="FILE", help="An image to start from.")]
MaskOption = Annotated[
    Path | None,
    typer.Option("--mask", metavar="FILE", help="A mask; only the part of --image under its white pixels changes."),
]
StrengthOption = Annotated[
    float | None,
    typer.Option("--strength", min=0.01, max=1.0, help="How much --image changes. Default: set by the generator."),
]
ScaleOption = Annotated[
    int | None,
    typer.Option(
        "--scale", min=1, max=64, help="Enlarge each image by this factor. Default: 1; in a grid, to 96 pixels."
    ),
]
SizeOption = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="HEIGHTxWIDTH",
        help="Height and width of the images in pixels, such as 96x64. Default: those of the training.",
    ),
]
OutputOption = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE.png|FOLDER/",
        help="A PNG to write (a grid if there are several images), or a folder with one file per image. "
        "Default: PROMPT.png.",
    ),
]


def command(
    run: RunArgument,
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help=PROMPTS)],
    number: Annotated[int, typer.Option("-n", "--number", min=1, max=100_000, help="Images per prompt.")] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="The seed of the noise.")] = 0,
    shared_noise: Annotated[
        bool,
        typer.Option("--shared-noise", help="Use the same noise for all prompts, to show the effect of the text."),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set an option of the generator; repeatable."),
    ] = None,
    image: ImageOption = None,
    mask: MaskOption = None,
    strength: StrengthOption = None,
    scale: ScaleOption = None,
    size: SizeOption = None,
    output: OutputOption = None,
) -> None:
    """Generate images from prompts with a trained pipeline."""
    require_text(prompts)
    require_directory(run)
    for name, given in (("strength", strength), ("mask", mask)):
        if given is not None and image is None:
            raise ConfigError(f"--{name} needs an image to start from: give it with --image FILE")
    if image is not None:
        require_single(image)
    shape = None if size is None else _parsed_size(size)
    _note_single_words(prompts)
    texts = [prompt for prompt in prompts for _ in range(number)]
    target = _Target(output if output is not None else f"{_slug(prompts[0])}.png", texts)
    from kgen.cli.backend import load_backend

    load_backend()
    from kgen.config import sampling_options
    from kgen.contracts.inputs import input_key
    from kgen.pipeline.loading import load
    from kgen.pipeline.prompts import parse_prompts
    from kgen.random import noise_keys

    pipeline = load(run)
    options = sampling_options(settings or (), type(pipeline.generator), type(pipeline.decoder))
    height, width, channels = pipeline.decoder.image_space.shape
    source = {} if image is None else _source(image, mask, shape or (height, width), channels)
    source |= _strength(strength, pipeline.generator)
    inputs = parse_prompts(pipeline.encoder, prompts)
    source |= {"size": shape}
    images = pipeline.generate(inputs, n=number, seed=seed, shared_noise=shared_noise, **source, **options)
    facts = {"seed": str(seed), "model": run.resolve().name, "options": json.dumps(options)}
    facts |= {"shared_noise": "true"} if shared_noise else {}
    facts |= {} if size is None else {"size": size}
    facts |= {} if scale is None else {"scale": str(scale)}
    facts |= {} if image is None else {"image": str(image), "strength": "" if strength is None else str(strength)}
    facts |= {} if mask is None else {"mask": str(mask)}
    keys = [input_key(prompt) for prompt in inputs]
    copies = [copy for _, copy, *_ in noise_keys(keys, [seed] * len(prompts), number, shared_noise)]
    target.write(images, copies, number, facts, scale)


def _note_single_words(prompts: list[str]) -> None:
    """Notes that several words were read as several prompts: the user may have forgotten the quotes around one."""
    if len(prompts) > 1 and not any(re.search(r"\s", prompt) for prompt in prompts):
        shown = ", ".join(map(repr, prompts))
        note = f"note: these are {len(prompts)} prompts: {shown}; quote a prompt of several words"
        print(printable(note), file=sys.stderr)


def _strength(given: float | None, generator: Generator) -> dict[str, float]:
    """The option of `generate` that controls how much an image changes."""
    from kgen.contracts.capabilities import Capability, option_of

    if given is None:
        return {}
    option = option_of(type(generator).generate, Capability.STRENGTH)
    if option is None:
        raise ConfigError(f"--strength: {type(generator).__name__} cannot start from an image: leave out --image")
    return {option: given}


def _parsed_size(text: str) -> tuple[int, int]:
    """The height and width of "HEIGHTxWIDTH"."""
    found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text.strip(), re.IGNORECASE)
    if found is None:
        raise ConfigError(f"--size {text}: must be the height and the width in pixels, such as 96x64")
    return int(found[1]), int(found[2])


def _source(image: Path, mask: Path | None, shape: tuple[int, int], channels: int) -> dict[str, Any]:
    """The arguments of `Pipeline.generate` for an image to start from; the mask is cropped in the same way."""
    from kgen.data.images import read_image

    given: dict[str, Any] = {}
    if mask is not None:
        (height, width), (rows, columns) = (read_image(path, 1).shape[:2] for path in (image, mask))
        if (height, width) != (rows, columns):
            raise ConfigError(f"--mask {mask}: must have the size of {image}, {width}x{height}, not {columns}x{rows}")
        given["mask"] = read_image(mask, 1, shape)
    return {"image": read_image(image, channels, shape), **given}


class _Target:
    """The files to write. They are checked before the model is loaded.

    Args:
        output: A PNG file, or a folder (an existing one, or a path that ends with a slash).
        prompts: The prompt of every image.
    """

    def __init__(self, output: str, prompts: list[str]) -> None:
        self.path, self.prompts = Path(output), prompts
        self.is_folder = output.endswith(("/", os.sep)) or self.path.is_dir()
        if not self.is_folder and self.path.suffix.lower() != ".png":
            raise ConfigError(f"--output {output}: must end with '.png', or with '/' for a folder of files")
        names = (f"{index:04d}-{_slug(prompt)}.png" for index, prompt in enumerate(prompts))
        self.files = [self.path / name for name in names] if self.is_folder else [self.path]
        for file in self.files:
            require_free(file)
        from kgen.storage.files import writable_folder

        writable_folder(self.path if self.is_folder else self.path.parent)

    def write(
        self,
        images: np.ndarray,
        copies: list[int],
        number: int,
        facts: dict[str, Any],
        scale: int | None = None,
    ) -> None:
        """Writes the images, with their prompts and `facts` in the metadata, and prints the paths.

        Args:
            copies: Number of each image among those of its prompt and seed.
            number: Images per prompt, which are neighbors in `images`.
            scale: Factor by which each image is enlarged; None: no enlargement, or in a grid a suitable one.
        """
        from kgen.reporting.sheets import enlarged, grid, save_png

        if not self.is_folder:
            sheet = enlarged(images[0], scale or 1)
            if len(images) > 1:
                sheet = grid(images, self.prompts, columns=number if number > 1 else 0, scale=scale or 0)
                facts = {**facts, IMAGES: str(len(images))}
            save_png(self.path, sheet, {"prompt": "; ".join(dict.fromkeys(self.prompts)), **facts})
            log(str(self.path))
            return
        for path, image, prompt, copy in zip(self.files, images, self.prompts, copies, strict=True):
            save_png(path, enlarged(image, scale or 1), {"prompt": prompt, **facts, "copy": str(copy)})
            log(str(path))


def _slug(prompt: str) -> str:
    """A prompt as (part of) a file name that is valid on every system."""
    slug = re.sub(r"\W+", "-", prompt.lower()).strip("-")[:LONGEST_SLUG]
    return f"image-{slug}" if RESERVED.fullmatch(slug) else slug or "image"
