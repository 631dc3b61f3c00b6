"""kgen caption: print captions of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory of a captioning model.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="The images to caption, cropped to fit.")],
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="The seed of the noise.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Set an option of the generator; repeatable.", show_default=False
        ),
    ] = None,
) -> None:
    """Print a caption of each image. The run must be a captioning model, such as configs/captioning.yaml.

    Example: kgen caption runs/captioning circle.png star.png --set temperature=0.5
    """
    from kgen import read_image, sampling_options
    from kgen_plugin_captioning.captioner import caption, open_captioner

    pipeline, dataset = open_captioner(run)
    options = sampling_options(settings or (), type(pipeline.generator), type(pipeline.decoder))
    size, _, channels = dataset.originals.image_space.shape
    arrays = [read_image(image, channels, size) for image in images]
    for image, text in zip(images, caption(pipeline, dataset, arrays, seed=seed, **options), strict=True):
        print(text if len(images) == 1 else f"{_printable(str(image))}: {text}")


def _printable(name: str) -> str:
    """The name of a file without the control codes of a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)
