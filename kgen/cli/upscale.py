"""kgen upscale: make pictures larger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kgen.cli.common import RunArgument, require_directory, say

EXAMPLE = "Example: kgen upscale runs/imagen-small small.png --prompt 'red heart' -o large/"


def command(
    run: RunArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Small pictures, of any size.")],
    prompt: Annotated[str, typer.Option("--prompt", help="The text, for a decoder that reads it.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Of the decoder's noise.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An option of the decoder; repeatable.", show_default=False),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where to write a PNG each.")] = Path(
        "upscaled"
    ),
) -> None:
    """Make pictures larger with the decoder of a run whose latents are small pictures."""
    require_directory(run)
    from kgen.cli.backend import load_backend

    load_backend()
    from kgen.config import decoding_options
    from kgen.data.images import read
    from kgen.images import save_png
    from kgen.run import open_decoder
    from kgen.upscaling import upscale

    decoder, encoder = open_decoder(run)
    options = decoding_options(settings or (), type(decoder))
    channels = decoder.image_space.shape[-1]
    for image in images:
        large = upscale(decoder, encoder, read(image, channels), prompt, seed=seed, options=options)
        path = output / f"{image.stem}.png"
        save_png(path, large, {"prompt": prompt, "seed": str(seed), "model": run.resolve().name})
        say(str(path))
