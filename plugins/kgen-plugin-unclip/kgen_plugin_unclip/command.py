"""kgen vary: variations and blends of images, and differences of texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kgen import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from kgen_plugin_unclip.variations import Variations


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run, whose decoder decodes embeddings of images.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="The images, cropped to fit.")],
    number: Annotated[int, typer.Option("-n", "--number", min=1, max=1000, help="Variations per image.")] = 4,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="A text that the decoder reads, too. Default: none.")
    ] = None,
    blend: Annotated[
        str | None,
        typer.Option(
            "--blend",
            metavar="NUMBER,...",
            help="How far to go from the first image to the second, or from an image to the text --to: 0 to 1, "
            "such as 0.5, or 0,0.25,0.5 for several images in a row.",
        ),
    ] = None,
    before: Annotated[str | None, typer.Option("--from", metavar="TEXT", help="A text that describes IMAGE.")] = None,
    after: Annotated[str | None, typer.Option("--to", metavar="TEXT", help="The text that IMAGE shall have.")] = None,
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
    """Generate variations of images by their embeddings, with a run of DALL-E 2's kind.

    Example: kgen vary runs/dalle2-small one.png -n 4; kgen vary RUN one.png other.png --blend 0,0.25,0.5,0.75,1;
    kgen vary RUN one.png --from "red circle" --to "blue circle" --blend 0.3
    """
    at = _positions(blend)
    _check(len(images), at, before, after)
    from kgen import decoding_options, read_image, require_png, save_sheet
    from kgen_plugin_unclip.variations import Variations

    require_png(output)
    model = Variations.of_run(run)
    options = decoding_options(settings or (), type(model.decoder))
    height, width, channels = model.decoder.image_space.shape
    pixels = [read_image(image, channels, (height, width)) for image in images]
    embeddings, titles = _embeddings(model, pixels, [image.name for image in images], at, before, after)
    made = model.decode(embeddings, n=number, prompt=prompt, seed=seed, options=options)
    if not at:
        rows, captions = _beside(pixels, made, titles)
        columns = number + 1
    else:  # one row per noise, so that each row changes only in the embedding
        rows, captions, columns = made.swapaxes(0, 1).reshape(-1, *made.shape[2:]), titles * number, len(titles)
    facts = {"seed": str(seed), "model": run.resolve().name, "prompt": prompt or "", "blend": blend or ""}
    save_sheet(output, rows, captions, columns, facts)
    print(output)


def _positions(blend: str | None) -> list[float]:
    """The numbers of `--blend`. Raises ConfigError unless they are in [0, 1]."""
    if blend is None:
        return []
    try:
        at = [float(number) for number in blend.split(",")]
    except ValueError:
        at = [-1.0]
    if not all(0.0 <= number <= 1.0 for number in at):
        raise ConfigError(f"--blend {blend}: must be numbers from 0 to 1, such as 0.5 or 0,0.25,0.5")
    return at


def _check(count: int, at: list[float], before: str | None, after: str | None) -> None:
    """Raises ConfigError for options that do not belong together."""
    if before is not None and after is None:
        raise ConfigError("--from needs the other text: add --to TEXT")
    if after is not None and not at:
        raise ConfigError("--to needs --blend, how far to go from the image to the text: try --blend 0.3")
    if after is not None and count != 1:
        raise ConfigError(f"--to changes one image, but there are {count}")
    if after is None and at and count != 2:
        raise ConfigError(f"--blend needs two images to blend, or one image and --to TEXT, but there are {count}")


def _embeddings(
    model: Variations,
    pixels: list[np.ndarray],
    names: list[str],
    at: list[float],
    before: str | None,
    after: str | None,
) -> tuple[np.ndarray, list[str]]:
    """The embeddings to decode, and their titles."""
    import numpy as np

    from kgen_plugin_unclip.variations import blend, shift

    images = model.embed_images(np.stack(pixels))
    if not at:
        return images, names
    titles = [f"{number:g}" for number in at]
    if after is None:
        return blend(images[0], images[1], at), titles
    return shift(images[0], *model.embed_texts([before or "", after]), at), titles


def _beside(pixels: list[np.ndarray], made: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Each image with its variations in a row."""
    import numpy as np

    both = np.concatenate([np.stack(pixels)[:, None], made], axis=1)  # (N, 1 + n, H, W, C)
    captions = [text for name in names for text in (name, *[""] * made.shape[1])]
    return both.reshape(-1, *both.shape[2:]), captions
