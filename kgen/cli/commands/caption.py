"""kgen caption: write captions of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kgen.cli.common import RunArgument, log, require_directory, require_single

EXAMPLE = "Example: kgen caption runs/captioning circle.png star.png --set temperature=0.5"


def command(
    run: RunArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="The images to caption, cropped to fit.")],
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="The seed of the noise.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Set an option of the generator; repeatable.", show_default=False
        ),
    ] = None,
) -> None:
    """Print a caption of each image. The run must be a captioning model, such as configs/captioning.yaml."""
    require_directory(run)
    for image in images:
        require_single(image)
    from kgen.cli.backend import load_backend

    load_backend()
    from kgen.config import sampling_options
    from kgen.data.images import read_image
    from kgen.runs.captioning import caption, open_captioner

    pipeline, dataset = open_captioner(run)
    options = sampling_options(settings or (), type(pipeline.generator), type(pipeline.decoder))
    assert dataset.prompt_space is not None
    size, _, channels = dataset.prompt_space.shape
    arrays = [read_image(image, channels, size) for image in images]
    for image, text in zip(images, caption(pipeline, dataset, arrays, seed=seed, **options), strict=True):
        log(text if len(images) == 1 else f"{image}: {text}")
