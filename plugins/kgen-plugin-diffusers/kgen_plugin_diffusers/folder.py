"""A model in a folder that diffusers has written: config.json, and the weights in safetensors files."""

from __future__ import annotations

from pathlib import Path

import keras

import kgen
from kgen import ConfigError
from kgen.pretrained import Section, Tensors, require_files, require_folder, weight_files
from kgen_plugin_diffusers.names import current_name, source

CONFIG, PIPELINE, WEIGHTS = "config.json", "model_index.json", "diffusion_pytorch_model"

WITHOUT_EFFECT = ("_diffusers_version", "_name_or_path", "_commit_hash", "_use_default_values")
"""Keys that diffusers writes into every configuration, and that say nothing about the model."""


class Folder:
    """The folder of a model, or that of a pipeline that contains the model.

    Args:
        path: The folder.
        cls: The name of the model's class in diffusers.
        parts: The names that the model may have in a pipeline.
        variant: The variant of the weights, such as "fp16"; None: the files without a variant.
        earlier: The names that the class had in earlier versions of diffusers.

    Raises:
        ConfigError: there is no such model.
    """

    def __init__(
        self,
        path: str,
        cls: str,
        parts: tuple[str, ...],
        variant: str | None = None,
        earlier: tuple[str, ...] = (),
    ) -> None:
        self.cls, self.variant, self.earlier = cls, variant, earlier
        self.path = _part(require_folder(path), parts)

    def config(self) -> Section:
        """The configuration, of which only the keys of every model have been read.

        Raises:
            ConfigError: it is missing or damaged, or that of another model.
        """
        return read_config(self.path, self.cls, *self.earlier)

    def files(self) -> list[Path]:
        """The files of the weights.

        Raises:
            ConfigError: a file is missing. The message says what to do.
        """
        infix = "" if self.variant is None else f".{self.variant}"
        found = weight_files(self.path, f"{WEIGHTS}{infix}.safetensors", f"{WEIGHTS}.safetensors.index{infix}.json")
        if not found[0].is_file() and (others := self._variants()):
            here = "without a variant" if self.variant is None else f"of the variant '{self.variant}'"
            raise ConfigError(f"{self.path} has no weights {here}: set the option 'variant' to {' or '.join(others)}")
        pickles = [f"{WEIGHTS}{infix}.bin", f"{WEIGHTS}.bin"]
        convert = f"diffusers.{self.cls}.from_pretrained(FOLDER, use_safetensors=False).save_pretrained(FOLDER)"
        require_files(found, pickles, convert)
        return found

    def _variants(self) -> list[str]:
        """The other variants that are there, as values of the option."""
        names = {file.name.removeprefix(WEIGHTS) for file in self.path.glob(f"{WEIGHTS}*.safetensors")}
        names |= {file.name.removeprefix(f"{WEIGHTS}.safetensors.index") for file in self.path.glob("*.index*.json")}
        infixes = {name.removesuffix(".safetensors").removesuffix(".json").partition("-")[0] for name in names}
        own = "" if self.variant is None else f".{self.variant}"
        return sorted(repr(infix[1:]) if infix else "null" for infix in infixes - {own})

    def fill(self, layer: keras.layers.Layer) -> None:
        """Assigns the weights of the files to a built layer, whose attributes have the names of diffusers' modules.

        Raises:
            ConfigError: a file is missing or damaged, or does not fit the configuration. The message names the tensors.
        """
        weights = kgen.weight_paths(layer, layer.weights)
        with Tensors(self.files(), current_name) as tensors:
            tensors.fill(weights, {path: source(path, variable) for path, variable in weights.items()})


def read_config(folder: Path, *classes: str) -> Section:
    """The configuration in a folder, of a model of one of the classes; see `Folder.config`."""
    config = Section.of_file(folder / CONFIG)
    config.one_of("_class_name", dict.fromkeys(classes))
    config.ignore(*WITHOUT_EFFECT)
    return config


def _part(folder: Path, parts: tuple[str, ...]) -> Path:
    """The folder of a model: a given one, or that of a part in it, as in a pipeline."""
    found = [folder / part for part in parts if (folder / part / CONFIG).is_file()]
    if (folder / CONFIG).is_file() or not (found or (folder / PIPELINE).is_file()):
        return folder
    if not found:
        names = " nor ".join(f"'{part}'" for part in parts)
        raise ConfigError(f"{folder} is a pipeline without such a model: it has no folder {names}")
    return found[0]
