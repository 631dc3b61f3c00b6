"""A published CLIP in a folder: in the layout of `transformers`, or in that of OpenCLIP's own library."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from kgen_plugin_text.clip import END, FILE, MERGES, START, VOCABULARIES, read_clip_tokenizer
from tokenizers import Tokenizer

from kgen import ConfigError, read_json
from kgen.pretrained import LoraNames, Tensors, require_files
from kgen_plugin_clip.images import VisionTransformer, VisionTransformerLayer
from kgen_plugin_clip.pretrained import hugging_face, open_clip
from kgen_plugin_clip.pretrained.architecture import Architecture
from kgen_plugin_clip.pretrained.text import PretrainedText, saved_tokenizer
from kgen_plugin_clip.transformer import Block

ARCHITECTURE = "architecture.json"

TOWER = re.compile(r"^(text|image)/(\d+)/")
"""The beginning of the name of a block, with its tower and its number."""

PICKLES = ("pytorch_model.bin", "open_clip_pytorch_model.bin", "tf_model.h5", "flax_model.msgpack")

CONVERSION = "transformers.CLIPModel.from_pretrained(FOLDER).save_pretrained(FOLDER)"


class Pretrained:
    """The architecture, tokenizer and weights of a model.

    Args:
        architecture: The architecture.
        tokenizer: The tokenizer.
        folder: The folder of the weights; None: they are loaded from elsewhere.
        layout: The module that knows the layout of the folder.
    """

    def __init__(
        self,
        architecture: Architecture,
        tokenizer: Tokenizer,
        folder: Path | None = None,
        layout: ModuleType = hugging_face,
    ) -> None:
        self.architecture = architecture
        self.tokenizer = tokenizer
        self.folder = folder
        self.layout = layout

    @classmethod
    def of_folder(cls, path: str) -> Pretrained:
        """Reads the configuration and the tokenizer of a folder.

        Raises:
            ConfigError: there is no model, or another one than a CLIP with a vision transformer. The message names the
                file, and the key or the tensor.
        """
        folder = Path(path).expanduser()
        layout = layout_of(folder)
        if layout is None:
            names = " nor ".join((hugging_face.CONFIG, open_clip.CONFIG))
            problem = f"it has neither {names}" if folder.is_dir() else "there is no such folder"
            raise ConfigError(f"{path} is not the folder of a CLIP: {problem}")
        tokenizer = clip_tokenizer_of(folder)
        architecture = layout.architecture(folder, tokenizer.token_to_id(END))
        if (size := tokenizer.get_vocab_size()) > architecture.vocabulary:
            known = architecture.vocabulary
            raise ConfigError(f"{folder}: the tokenizer has {size} tokens, but the model knows {known}")
        require_files(layout.files(folder), PICKLES, CONVERSION)
        return cls(architecture, tokenizer, folder, layout)

    @classmethod
    def of_assets(cls, path: Path) -> Pretrained:
        """Reads what `save` wrote. Raises RunError if it is damaged."""
        return cls(read_json(path / ARCHITECTURE, Architecture), saved_tokenizer(path))

    def save(self, path: Path) -> None:
        """Writes the architecture; the text tower writes the tokenizer."""
        (path / ARCHITECTURE).write_text(json.dumps(asdict(self.architecture), indent=1), encoding="utf-8")

    def text_tower(self, policy: Any) -> PretrainedText:
        return PretrainedText(self.architecture, self.tokenizer, dtype=policy, name="text")

    def image_tower(self, policy: Any) -> VisionTransformerLayer:
        model, tower = self.architecture, self.architecture.image
        options = VisionTransformer(model.size, model.patch, tower.width, tower.depth, tower.heads)
        style = {"hidden": tower.hidden, "activation": tower.activation, "epsilon": tower.epsilon}
        return VisionTransformerLayer(options, style, dtype=policy, name="image")

    def lora_names(self) -> LoraNames:
        """The names of the layers in LoRA files, which are those of `transformers`."""
        sources = hugging_face.sources(self.architecture)
        paths = {name: TOWER.sub(r"\1_tower/blocks/\2/", name) for name in sources}
        paths |= {f"{tower}/projection": f"{tower}_projection/kernel" for tower in ("text", "image")}
        kernels = {paths[name]: source for name, source in sources.items() if source.form == "transposed"}
        return LoraNames(kernels, "text_encoder", "lora_te", optional="text_model.")

    def fill(self, text: PretrainedText, image: VisionTransformerLayer, others: Mapping[str, Any]) -> None:
        """Assigns the weights of the folder.

        Args:
            text, image: The built towers.
            others: The other weights: "text/projection", "image/projection" and "scale".

        Raises:
            ConfigError: the files do not fit the configuration, or cannot be read.
        """
        if self.folder is None:
            return
        weights = {**text_weights(text), **_image_weights(image), **others}
        with Tensors(self.layout.files(self.folder)) as tensors:
            tensors.fill(weights, self.layout.sources(self.architecture), self.layout.NO_WEIGHTS)


def layout_of(folder: Path) -> ModuleType | None:
    """The module that knows the layout of a folder; None if it is not the folder of a model.

    In a folder with the files of both layouts, those of `transformers` count, unless only the weights of the other one
    are there.
    """
    found = [layout for layout in (hugging_face, open_clip) if (folder / layout.CONFIG).is_file()]
    with_weights = [layout for layout in found if all(file.is_file() for file in layout.files(folder))]
    return next(iter([*with_weights, *found]), None)


def clip_tokenizer_of(folder: Path) -> Tokenizer:
    """The tokenizer of a folder. Raises ConfigError if there is none, or another one than CLIP's."""
    wanted = f"{FILE}, or {VOCABULARIES[0]} and {MERGES}"
    with _readable(folder):
        tokenizer = read_clip_tokenizer(folder)
    if tokenizer is None:
        raise ConfigError(f"{folder} has no tokenizer: it needs {wanted}; every model of CLIP has the same")
    marks = [tokenizer.token_to_id(mark) for mark in (START, END)]
    if None in marks or tokenizer.encode("").ids != marks:
        raise ConfigError(f"{folder}: its tokenizer is not CLIP's, which puts a text between {START} and {END}")
    return tokenizer


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the package raises bare Exception
        raise ConfigError(f"{folder}: the tokenizer cannot be read: {error}") from error


def text_weights(tower: PretrainedText) -> dict[str, Any]:
    """The weights of a built text tower, by the names in `sources` of a layout."""
    found = {"text/tokens": tower.table, "text/positions": tower.positions, **_norm("text/norm", tower.norm)}
    return found | _blocks("text", tower.blocks)


def _image_weights(tower: VisionTransformerLayer) -> dict[str, Any]:
    found = {"image/class": tower.first, "image/positions": tower.positions, "image/cut": tower.cut.kernel}
    found |= {**_norm("image/before", tower.norm1), **_norm("image/after", tower.norm2)}
    return found | _blocks("image", tower.blocks)


def _blocks(tower: str, found: list[Block]) -> dict[str, Any]:
    weights: dict[str, Any] = {}
    for number, block in enumerate(found):
        here = f"{tower}/{number}"
        weights |= {**_norm(f"{here}/norm1", block.norm1), **_norm(f"{here}/norm2", block.norm2)}
        for name in ("qkv", "out", "widen", "narrow"):
            layer = getattr(block, name)
            weights |= {f"{here}/{name}/kernel": layer.kernel, f"{here}/{name}/bias": layer.bias}
    return weights


def _norm(here: str, layer: Any) -> dict[str, Any]:
    return {f"{here}/gamma": layer.gamma, f"{here}/beta": layer.beta}
