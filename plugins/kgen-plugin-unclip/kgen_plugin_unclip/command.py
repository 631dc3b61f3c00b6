"""kgen vary: variations of images, and changes of an image by a difference of texts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kgen import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from kgen import Encoder


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run, whose decoder decodes embeddings of images.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="The images, cropped to fit.")],
    number: Annotated[int, typer.Option("-n", "--number", min=1, max=1000, help="Variations per image.")] = 4,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="A text that the decoder reads, too. Default: none.")
    ] = None,
    before: Annotated[
        str | None, typer.Option("--from", metavar="TEXT", help="A text that describes IMAGE. Default: the empty text.")
    ] = None,
    after: Annotated[
        str | None, typer.Option("--to", metavar="TEXT", help="A text that describes the changed image.")
    ] = None,
    blend: Annotated[
        list[float] | None,
        typer.Option(
            "--blend",
            metavar="NUMBER",
            min=0.0,
            max=1.0,
            help="How far to go from the image to the text --to, from 0 to 1; repeatable.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="The seed of the noise.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Set an option of the decoder; repeatable.", show_default=False
        ),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.png", help="The PNG to write.")] = Path(
        "variations.png"
    ),
) -> None:
    """Generate variations of images by their embeddings, or change an image by a difference of texts.

    Example: kgen vary runs/dalle2-small one.png other.png -n 4;
    kgen vary runs/dalle2-small one.png --from "red circle" --to "blue circle" --blend 0.2 --blend 0.4
    """
    at = blend or []
    _check(len(images), at, before, after)
    from kgen import Variations, decoding_options, open_decoder, read_image, require_png, save_sheet
    from kgen_plugin_unclip.texts import embed_texts, shift

    require_png(output)
    model = Variations(*open_decoder(run))
    options = decoding_options(settings or (), type(model.decoder))
    height, width, channels = model.decoder.image_space.shape
    pixels = [read_image(image, channels, (height, width)) for image in images]
    embeddings = model.embed_images(pixels)
    if after is not None:
        texts = [before or "", after]
        _warn_of_unread(model.encoder, texts)
        embeddings = shift(embeddings[0], *embed_texts(model.encoder, texts), at)
    made = model.decode(embeddings, n=number, prompt=prompt, seed=seed, options=options)
    if after is None:
        grid, captions = _beside(pixels, made, [image.name for image in images])
    else:
        grid, captions = _by_noise(made, at)
    facts = {"seed": str(seed), "model": run.resolve().name, "prompt": prompt, "from": before, "to": after}
    known = {key: value for key, value in facts.items() if value is not None}
    save_sheet(output, grid.reshape(-1, *grid.shape[2:]), captions, grid.shape[1], known)
    print(output)


def _check(count: int, at: Sequence[float], before: str | None, after: str | None) -> None:
    """Raises ConfigError for options that do not belong together."""
    if before is not None and after is None:
        raise ConfigError("--from needs the other text: add --to TEXT")
    if after is not None and not at:
        raise ConfigError("--to needs --blend, how far to go from the image to the text: try --blend 0.3")
    if after is not None and count != 1:
        raise ConfigError(f"--to changes one image, but there are {count}")
    if after is None and at:
        raise ConfigError(
            "--blend needs a text: add --to TEXT. 'kgen generate RUN --image ONE --image OTHER --blend 0.5' blends two "
            "images"
        )


def _warn_of_unread(encoder: Encoder, texts: Sequence[str]) -> None:
    """Warns of each text that the encoder does not read completely."""
    for text in texts:
        if unread := encoder.unread(text):
            warnings.warn(f"text '{text}': {unread}", UserWarning, stacklevel=3)


def _beside(pixels: list[np.ndarray], made: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """A grid (N, 1 + n, H, W, C), in which each row has an image and its variations, and its captions."""
    import numpy as np

    captions = [text for name in names for text in (name, *[""] * made.shape[1])]
    return np.concatenate([np.stack(pixels)[:, None], made], axis=1), captions


def _by_noise(made: np.ndarray, at: Sequence[float]) -> tuple[np.ndarray, list[str]]:
    """A grid (n, N, H, W, C), in which the images of each row have the same noise, and its captions."""
    return made.swapaxes(0, 1), [f"{angle:g}" for angle in at] * made.shape[1]
