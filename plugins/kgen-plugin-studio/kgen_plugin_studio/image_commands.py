"""The commands of kgen that read images, as the page offers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ImageCommand:
    """A command that reads images.

    Args:
        name: Its name after `kgen`.
        label: What it does, for the page.
        output: The file, in the folder for the output, that it writes; "": several files; None: it prints its results.
        takes_prompt: Whether it has the option `--prompt`.
        takes_number: Whether it has the option `-n`.
    """

    name: str
    label: str
    output: str | None
    takes_prompt: bool = True
    takes_number: bool = False

    def words(
        self,
        run: Path,
        images: Sequence[Path],
        folder: Path,
        *,
        prompt: str = "",
        number: int = 4,
        seed: int = 0,
        settings: Sequence[str] = (),
    ) -> list[str]:
        """The words of the command line after `kgen`. Options that the command does not have are left out.

        Args:
            run: The run directory.
            images: The files of the images.
            folder: The folder for what the command writes.
            prompt: The text for decoders that read it; "": none.
            number: Variations per image.
            seed: The seed of the noise.
            settings: Options of the decoder, or of the generator, such as "steps=20".
        """
        words = [self.name, "--seed", str(seed)]
        words += ["--prompt", prompt] if self.takes_prompt and prompt else []
        words += ["-n", str(number)] if self.takes_number else []
        words += [word for setting in settings for word in ("--set", setting)]
        words += [] if self.output is None else ["-o", str(folder / self.output)]
        return [*words, "--", str(run), *map(str, images)]


COMMANDS = (
    ImageCommand("vary", "Variations of each image", "variations.png", takes_number=True),
    ImageCommand("upscale", "Larger images", ""),
    ImageCommand("caption", "Captions", None, takes_prompt=False),
)
