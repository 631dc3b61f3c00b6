"""The files of a model's weights: one safetensors file, or several that an index lists."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from kgen.errors import ConfigError


def require_folder(path: str | Path) -> Path:
    """The folder of a model that was downloaded before.

    Args:
        path: The folder. A relative path begins in the current folder, and "~" is the user's.

    Raises:
        ConfigError: there is no such folder. The message says where it was looked for.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if str(path).startswith(("hf:", "http:", "https:")):
        raise ConfigError(f"{path}: this option takes a folder; download the model to one first, with 'hf download'")
    if folder.exists():
        raise ConfigError(f"{path} is a file: give the folder of the model")
    where = "" if folder.is_absolute() else f" in {Path.cwd()}"
    raise ConfigError(f"{path}: there is no such folder{where}; download the model first, with all its files")


def weight_files(folder: Path, name: str, index: str) -> list[Path]:
    """The files of the weights of a model, which may not exist.

    Args:
        folder: The folder of the model.
        name: The name of the file that holds all weights.
        index: The name of the JSON file that lists several files instead, in the layout of Hugging Face's libraries. If
            it exists, it counts.

    Raises:
        ConfigError: the index is damaged.
    """
    file = folder / index
    if not file.is_file():
        return [folder / name]
    try:
        names = set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values())
        found = [folder / Path(part).name for part in sorted(names)]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    if not found:
        raise ConfigError(f"{file} lists no file")
    return found


def require_files(files: Sequence[Path], pickles: Iterable[str], conversion: str) -> None:
    """Checks that files of weights exist.

    Args:
        files: The files, in one folder.
        pickles: Names of files of the same weights in formats that can run code when they are read.
        conversion: The Python expression that writes such weights as safetensors.

    Raises:
        ConfigError: a file is missing. The message says what to do.
    """
    missing = next((file for file in files if not file.is_file()), None)
    if missing is None:
        return
    found = next((name for name in pickles if (missing.parent / name).is_file()), None)
    if found is None:
        raise ConfigError(f"{missing} is missing: download the weights as safetensors")
    raise ConfigError(
        f"{missing} is missing: {found} is a format that kgen does not read, because a pickle can run any code. "
        f"Convert it where you trust it: {conversion}"
    )
