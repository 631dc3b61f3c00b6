"""kgen reconstruct: encode and decode images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kgen.cli.common import RunArgument, log, require_run, require_single

EXAMPLE = "Example: kgen reconstruct runs/latents cat.png dog.jpg -o pets.png"


def command(
    run: RunArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="The images to encode, cropped to fit.")],
    prompt: Annotated[str, typer.Option("--prompt", help="The text, for decoders that read it.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="The seed of the decoder's noise.")] = 0,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.png", help="The sheet to write.")] = Path(
        "reconstruct.png"
    ),
) -> None:
    """Encode and decode images with the decoder of a run; write a sheet of originals and reconstructions."""
    run = require_run(run)
    for image in images:
        require_single(image)
    from kgen.reporting.sheets import require_png

    require_png(output)
    from kgen.backend.selection import load_backend

    load_backend()
    import numpy as np

    from kgen.data.images import read_image
    from kgen.errors import ConfigError
    from kgen.pipeline.prompts import parse_prompts
    from kgen.pipeline.stage_models import Reconstructor
    from kgen.reporting.sheets import save_png
    from kgen.runs.reconstructions import psnr, reconstructions
    from kgen.runs.run import open_decoder

    decoder, encoder = open_decoder(run)
    if decoder.lossless:
        raise ConfigError(f"the decoder of {run} is lossless: its latents are the images")
    size, _, channels = decoder.image_space.shape
    arrays = np.stack([read_image(image, channels, size) for image in images])
    prompts = parse_prompts(encoder, [prompt] * len(images))
    sheet, made = reconstructions(Reconstructor(decoder, encoder), arrays, prompts, [prompt] * len(images), seed)
    save_png(output, sheet, {"model": run.resolve().name})
    log(f"{output}: PSNR {psnr(arrays, made):.1f} dB")
