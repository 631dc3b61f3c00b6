"""kgen upscale: make images larger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from kgen.cli.common import RunArgument, log, require_run, require_single, require_text
from kgen.errors import ConfigError
from kgen.storage.ownership import require_free

EXAMPLE = "Example: kgen upscale runs/imagen-small small.png --prompt 'red heart' -o large/"


def command(
    run: RunArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="The small images, of any size.")],
    prompt: Annotated[str, typer.Option("--prompt", help="The text, for decoders that read it.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="The seed of the decoder's noise.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Set an option of the decoder; repeatable.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", help="The folder for the PNG files.")
    ] = Path("upscaled"),
) -> None:
    """Enlarge images with the super-resolution decoder of a run, whose latents are small images."""
    require_text([prompt])
    run = require_run(run)
    for image in images:
        require_single(image)
    targets = _targets(images, output)
    from kgen.backend.selection import load_backend

    load_backend()
    from kgen.config import decoding_options
    from kgen.data.images import read_image
    from kgen.pipeline.decoding.upscaling import upscale
    from kgen.pipeline.prompts import parse_prompts
    from kgen.reporting.sheets import save_png
    from kgen.runs.run import open_decoder

    decoder, encoder = open_decoder(run)
    options = decoding_options(settings or (), type(decoder))
    (given,) = parse_prompts(encoder, [prompt])
    channels = decoder.image_space.shape[-1]
    for image, path in zip(images, targets, strict=True):
        large = upscale(decoder, encoder, read_image(image, channels), given, seed=seed, options=options)
        save_png(path, large, {"prompt": prompt, "seed": str(seed), "model": run.resolve().name})
        log(str(path))


def _targets(images: Sequence[Path], folder: Path) -> list[Path]:
    """The files to write, checked before the model is loaded.

    Raises:
        ConfigError: a target would replace an input or a file that kgen did not make, or two inputs share a target.
    """
    targets = [folder / f"{image.stem}.png" for image in images]
    for number, (image, target) in enumerate(zip(images, targets, strict=True)):
        if target in targets[:number]:
            raise ConfigError(f"{image} and {images[targets.index(target)]} would both become {target}: rename one")
        if any(target.exists() and other.exists() and target.samefile(other) for other in images):
            raise ConfigError(f"{target} is one of the input images, which would be lost: give another folder with -o")
        require_free(target)
    from kgen.storage.files import writable_folder

    writable_folder(folder)
    return targets
