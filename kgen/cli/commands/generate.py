"""kgen generate: generate images from prompts."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from kgen.cli.common import RunArgument, log, require_run, require_text
from kgen.reporting.plain import printable

EXAMPLE = "Example: kgen generate runs/quickstart 'red heart' 'blue circle' -n 4 --set steps=20 -o hearts.png"

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
    if not prompts and not blend:
        raise typer.BadParameter("give one; or blend two --image by --blend 0.5", param_hint="PROMPT")
    require_text(prompts or [])
    from kgen.generation.request import ImageRequest

    request = ImageRequest(
        run=require_run(run),
        prompts=tuple(prompts or ()),
        number=number,
        seed=seed,
        shared_noise=shared_noise,
        settings=tuple(settings or ()),
        images=tuple(image or ()),
        mask=mask,
        strength=strength,
        blend=tuple(blend or ()),
        scale=scale,
        size=size,
        loras=tuple(lora or ()),
        output=output,
    )
    request.check()
    if not blend:
        _note_single_words(request.prompts)
    from kgen.backend.selection import load_backend

    load_backend()
    from kgen.generation.writing import write_images

    for path in write_images(request):
        log(str(path))
    _note_own_options(request.run, request.settings)


def _note_own_options(run: Path, settings: Sequence[str]) -> None:
    """Notes that the grids and the scores of the run were sampled with options that these images do not have."""
    from kgen.config.overrides import flattened
    from kgen.config.source import read_file
    from kgen.options import options
    from kgen.plugins.discovery import registry

    if not (file := run / "config.yaml").is_file():
        return
    data = read_file(file).data
    given = {setting.partition("=")[0].strip() for setting in settings}
    own = flattened(data.get("sample", {}).get("options", {}))
    if other := {key: value for key, value in own.items() if key not in given}:
        generator = registry().find("generator", data["generator"]["name"]).load()
        defaults = {name: parameter.default for name, parameter in options(generator.generate).items()}
        missing = [f"--set {key}={json.dumps(value)}" for key, value in other.items() if value != defaults.get(key)]
        if missing:
            images = f"note: the samples and scores of this run were generated with {' '.join(missing)}"
            print(printable(f"{images}; these images were not"), file=sys.stderr)


def _note_single_words(prompts: Sequence[str]) -> None:
    """Notes that several words were read as several prompts: the user may have forgotten the quotes around one."""
    if len(prompts) > 1 and not any(re.search(r"\s", prompt) for prompt in prompts):
        shown = ", ".join(map(repr, prompts))
        note = f"note: these are {len(prompts)} prompts: {shown}; quote a prompt of several words"
        print(printable(note), file=sys.stderr)
