"""kgen generate: generate images from prompts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kgen.cli.common import RunArgument, log, require_run, require_single, require_text
from kgen.errors import ConfigError
from kgen.reporting.plain import printable
from kgen.storage.ownership import IMAGES, require_free

if TYPE_CHECKING:
    import numpy as np

    from kgen.contracts.generator import Generator
    from kgen.pipeline.model import Pipeline

EXAMPLE = "Example: kgen generate runs/quickstart 'red heart' 'blue circle' -n 4 --set steps=20 -o hearts.png"

LONGEST_SLUG = 50

RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)")
"""Names of devices on Windows; what is written into a file of such a name is lost."""

PROMPTS = "The prompts; quote each one. They are texts, or whatever the run's encoder reads: labels, paths of images."

ImageOption = Annotated[
    list[Path] | None,
    typer.Option("--image", metavar="FILE", help="An image to start from; or with --blend, one of two images."),
]
BlendOption = Annotated[
    list[float] | None,
    typer.Option(
        "--blend",
        metavar="NUMBER",
        min=0.0,
        max=1.0,
        help="Generate an image between two, from 0, the first --image, to 1, the second; repeatable. The decoder of "
        "the run must decode embeddings of images. It also reads a PROMPT, if there is one.",
        show_default=False,
    ),
]
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
LoraOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="FILE[:SCALE]",
        help="Add a LoRA file to the weights, such as the lora.safetensors of a run. SCALE is the share that is added. "
        "Default: 1; repeatable.",
        show_default=False,
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
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT...", help=PROMPTS, show_default=False)] = None,
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
    blend: BlendOption = None,
    scale: ScaleOption = None,
    size: SizeOption = None,
    lora: LoraOption = None,
    output: OutputOption = None,
) -> None:
    """Generate images from prompts with a trained pipeline."""
    prompts, paths = prompts or [], image or []
    alone = {"mask": mask, "strength": strength, "size": size, "shared-noise": shared_noise or None, "lora": lora}
    _check_images(prompts, paths, bool(blend), {name: value for name, value in alone.items() if value is not None})
    require_text(prompts)
    run = require_run(run)
    shape, loras = None if size is None else _parsed_size(size), [_parsed_lora(text) for text in lora or ()]
    if blend:
        target = _Target(output if output is not None else "blend.png", [f"{x:g}" for x in blend] * number, "blend")
        _generate_between(run, paths, blend, prompts, number, seed, settings or (), scale, target)
        return
    _note_single_words(prompts)
    texts = [prompt for prompt in prompts for _ in range(number)]
    target = _Target(output if output is not None else f"{_slug(prompts[0])}.png", texts, "prompt")
    from kgen.cli.backend import load_backend

    load_backend()
    from kgen.config import sampling_options
    from kgen.contracts.inputs import input_key
    from kgen.pipeline.prompts import parse_prompts
    from kgen.random import noise_keys

    pipeline = _loaded(run, loras)
    options = sampling_options(settings or (), type(pipeline.generator), type(pipeline.decoder))
    height, width, channels = pipeline.decoder.image_space.shape
    source = _source(paths[0], mask, shape or (height, width), channels) if paths else {}
    source |= {"size": shape, **_strength(strength, pipeline.generator)}
    inputs = parse_prompts(pipeline.encoder, prompts)
    images = pipeline.generate(inputs, n=number, seed=seed, shared_noise=shared_noise, **source, **options)
    facts = {"seed": str(seed), "model": run.resolve().name, "options": json.dumps(options)}
    given = {"shared_noise": "true" if shared_noise else None, "size": size, "scale": scale, "mask": mask}
    given["lora"] = "; ".join(f"{file}:{share:g}" for file, share in loras) or None
    facts |= {name: str(value) for name, value in given.items() if value is not None}
    facts |= {"image": str(paths[0]), "strength": "" if strength is None else str(strength)} if paths else {}
    keys = [input_key(prompt) for prompt in inputs]
    copies = [copy for _, copy, *_ in noise_keys(keys, [seed] * len(prompts), number, shared_noise)]
    target.write(images, copies, number if number > 1 else 0, facts, scale)


def _loaded(run: Path, loras: Sequence[tuple[Path, float]]) -> Pipeline:
    """The pipeline of a run, to whose weights LoRA files are added, each with its scale."""
    from kgen.parts.lora_files import load_lora
    from kgen.pipeline.loading import load

    pipeline = load(run)
    for file, scale in loras:
        load_lora(pipeline, file, scale=scale)
    return pipeline


def _check_images(prompts: Sequence[str], images: Sequence[Path], blend: bool, others: Mapping[str, Any]) -> None:
    """Raises ConfigError for options that do not belong together.

    Args:
        others: The other options that were given, by name, of those that have no effect with --blend.
    """
    for path in images:
        require_single(path)
    if blend:
        if len(images) != 2:
            raise ConfigError(f"--blend needs two images, --image ONE --image OTHER, but there are {len(images)}")
        if len(prompts) > 1:
            raise ConfigError(f"--blend needs one PROMPT, which the decoder reads, or none, but not {len(prompts)}")
        if others:
            raise ConfigError(f"--{next(iter(others))} has no effect with --blend: leave it out")
        return
    if not prompts:
        raise typer.BadParameter("give one; or blend two --image by --blend 0.5", param_hint="PROMPT")
    if len(images) > 1:
        raise ConfigError("an image starts from one --image: leave the others out, or add --blend 0.5 to blend two")
    for name in ("strength", "mask"):
        if name in others and not images:
            raise ConfigError(f"--{name} needs an image to start from: give it with --image FILE")


def _generate_between(
    run: Path,
    images: Sequence[Path],
    blend: Sequence[float],
    prompts: Sequence[str],
    number: int,
    seed: int,
    settings: Sequence[str],
    scale: int | None,
    target: _Target,
) -> None:
    """Generates images between two images, with `number` noises, each of which all positions share."""
    from kgen.cli.backend import load_backend

    load_backend()
    import numpy as np

    from kgen.config import decoding_options
    from kgen.data.images import read_image
    from kgen.pipeline.decoding.variations import Variations
    from kgen.pipeline.prompts import parse_prompts
    from kgen.random import spherical
    from kgen.runs.run import open_decoder

    model = Variations(*open_decoder(run))
    options = decoding_options(_of_decoder(settings), type(model.decoder), section="decoder")
    height, width, channels = model.decoder.image_space.shape
    pixels = np.stack([read_image(image, channels, (height, width)) for image in images])
    one, other = model.embed_images(pixels)
    between = spherical(one[None], other[None], np.array(blend))
    prompt = next(iter(parse_prompts(model.encoder, prompts)), None)
    made = model.decode(between, n=number, prompt=prompt, seed=seed, options=options)  # (N, n, H, W, C)
    facts = {"seed": str(seed), "model": run.resolve().name, "options": json.dumps({"decoder": options})}
    facts |= {"prompt": prompts[0]} if prompts else {}
    facts |= {"image": "; ".join(map(str, images))} | ({} if scale is None else {"scale": str(scale)})
    copies = [copy for copy in range(number) for _ in blend]
    target.write(made.swapaxes(0, 1).reshape(-1, *made.shape[2:]), copies, len(blend), facts, scale)


def _of_decoder(settings: Sequence[str]) -> Sequence[str]:
    """The settings, "decoder.KEY=VALUE". Raises ConfigError for one that is not of the decoder."""
    for setting in settings:
        if not setting.startswith("decoder."):
            raise ConfigError(
                f"--set {setting}: has no effect with --blend, which uses no generator: set options of the decoder, "
                "such as decoder.steps=20"
            )
    return settings


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
        captions: The caption of every image, such as its prompt.
        key: The key of the caption in the metadata.
    """

    def __init__(self, output: str, captions: list[str], key: str) -> None:
        self.path, self.captions, self.key = Path(output), captions, key
        self.is_folder = output.endswith(("/", os.sep)) or self.path.is_dir()
        if not self.is_folder and self.path.suffix.lower() != ".png":
            raise ConfigError(f"--output {output}: must end with '.png', or with '/' for a folder of files")
        names = (f"{index:04d}-{_slug(caption)}.png" for index, caption in enumerate(captions))
        self.files = [self.path / name for name in names] if self.is_folder else [self.path]
        for file in self.files:
            require_free(file)
        from kgen.storage.files import writable_folder

        writable_folder(self.path if self.is_folder else self.path.parent)

    def write(
        self,
        images: np.ndarray,
        copies: list[int],
        columns: int,
        facts: dict[str, Any],
        scale: int | None = None,
    ) -> None:
        """Writes the images, with their captions and `facts` in the metadata, and prints the paths.

        Args:
            copies: Number of each image among those with its caption and seed.
            columns: Images per row of a grid; 0: a grid that is about square.
            scale: Factor by which each image is enlarged; None: no enlargement, or in a grid a suitable one.
        """
        from kgen.reporting.sheets import enlarged, grid, save_png

        if not self.is_folder:
            sheet = enlarged(images[0], scale or 1)
            if len(images) > 1:
                sheet = grid(images, self.captions, columns=columns, scale=scale or 0)
                facts = {**facts, IMAGES: str(len(images))}
            save_png(self.path, sheet, {self.key: "; ".join(dict.fromkeys(self.captions)), **facts})
            log(str(self.path))
            return
        for path, image, caption, copy in zip(self.files, images, self.captions, copies, strict=True):
            save_png(path, enlarged(image, scale or 1), {self.key: caption, **facts, "copy": str(copy)})
            log(str(path))


def _slug(prompt: str) -> str:
    """A prompt as (part of) a file name that is valid on every system."""
    slug = re.sub(r"\W+", "-", prompt.lower()).strip("-")[:LONGEST_SLUG]
    return f"image-{slug}" if RESERVED.fullmatch(slug) else slug or "image"
