"""A pipeline on disk: its parts' names and options, what they learned, and their weights. Nothing is unpickled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import yaml

from kgen.assembly import check_fit, component_id, make_decoder, make_encoder, make_generator
from kgen.components.decoder import Decoder
from kgen.errors import ConfigError, RunError
from kgen.files import atomic_folder
from kgen.pipeline import Pipeline
from kgen.signature import option_model, wires
from kgen.spaces import Space
from kgen.weights import load_variables, save_variables

FORMAT = 1


def save(pipeline: Pipeline, path: str | Path) -> None:
    """Writes a pipeline into the folder `path`, atomically: `pipeline.yaml`, `weights.safetensors`, and assets."""
    with atomic_folder(Path(path)) as folder:
        (folder / "pipeline.yaml").write_text(yaml.safe_dump(_describe(pipeline), sort_keys=False), encoding="utf-8")
        for part in ("encoder", "decoder"):
            (folder / part).mkdir()
            getattr(pipeline, part).save_assets(folder / part)
        save_variables(folder / "weights.safetensors", saved_weights(pipeline), {"format": str(FORMAT)})


def load(path: str | Path, *, custom: Sequence[type[Any]] = ()) -> Pipeline:
    """Reads a pipeline that `Pipeline.save` or `kgen run` wrote.

    Args:
        path: The folder, or a run directory (whose `model/` is read).
        custom: Classes of parts that no plugin registered.

    Raises:
        RunError: there is no pipeline, or it is damaged. ConfigError: a plugin that it needs is missing.
    """
    folder = Path(path)
    if (folder / "model" / "pipeline.yaml").is_file():
        folder = folder / "model"
    description = _read(folder)
    known = {f"{cls.__module__}:{cls.__qualname__}": cls for cls in custom}
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(description["dtype"])
    try:
        pipeline = _build(description, folder, known)
    finally:
        keras.config.set_dtype_policy(before)
    load_variables(folder / "weights.safetensors", saved_weights(pipeline))
    return pipeline


def save_decoder(decoder: Decoder, path: str | Path) -> None:
    """Writes a trained decoder into the folder `path`, atomically, as `save` does a pipeline."""
    description = {
        "format": FORMAT,
        "dtype": decoder.dtype_policy.name,
        "image_shape": list(decoder.image_space.shape),
        "decoder": {"name": component_id("decoder", decoder), **decoder.config},
    }
    with atomic_folder(Path(path)) as folder:
        (folder / "decoder.yaml").write_text(yaml.safe_dump(description, sort_keys=False), encoding="utf-8")
        decoder.save_assets(folder)
        save_variables(folder / "weights.safetensors", {"decoder": decoder.kept_weights}, {"format": str(FORMAT)})


def load_decoder(path: str | Path, decoder: Decoder) -> Decoder:
    """Fills a decoder, as it was built from its configuration, with what `save_decoder` wrote.

    Raises:
        RunError: the file is damaged, or of another decoder: of other options, or for pictures of another size.
    """
    folder = Path(path)
    description = _read_yaml(folder / "decoder.yaml", {"format", "image_shape", "decoder"})
    wanted = {"name": component_id("decoder", decoder), **decoder.config}
    if description["decoder"] != wanted:
        raise RunError(f"{folder} holds the decoder {description['decoder']}, not {wanted}")
    if tuple(description["image_shape"]) != decoder.image_space.shape:
        there, here = ("x".join(map(str, shape)) for shape in (description["image_shape"], decoder.image_space.shape))
        raise RunError(f"{folder} holds a decoder for pictures of {there}, but the run's are {here}: set data.size")
    decoder.load_assets(folder)
    decoder.build(None)
    load_variables(folder / "weights.safetensors", {"decoder": decoder.kept_weights})
    return decoder


PARTS = ("encoder", "generator", "decoder")


def saved_weights(pipeline: Pipeline) -> dict[str, list[Any]]:
    """By part, the weights that belong to the pipeline, without those that a part brings along by itself."""
    parts = {name: getattr(pipeline, name) for name in PARTS}
    kept = {name: part.kept_weights if name == "decoder" else list(part.weights) for name, part in parts.items()}
    return {name: kept[name] for name, part in parts.items() if not getattr(part, "has_own_weights", False)}


def _describe(pipeline: Pipeline) -> dict[str, Any]:
    parts = {kind: getattr(pipeline, kind) for kind in PARTS}
    return {
        "format": FORMAT,
        "dtype": pipeline.generator.dtype_policy.name,
        "condition_dropout": pipeline.condition_dropout,
        "image_shape": list(pipeline.decoder.image_space.shape),
        **{kind: {"name": component_id(kind, part), **part.config} for kind, part in parts.items()},  # type: ignore[arg-type]
    }


def _read(folder: Path) -> dict[str, Any]:
    file = folder / "pipeline.yaml"
    if not file.is_file():
        raise RunError(f"{folder} holds no trained pipeline ({file.name} is missing): finish its training first")
    return _read_yaml(file, {"format", "dtype", "image_shape", *PARTS})


def _read_yaml(file: Path, keys: set[str]) -> dict[str, Any]:
    try:
        description = yaml.safe_load(file.read_text(encoding="utf-8"))
        missing = keys - set(description)
    except (OSError, yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise RunError(f"{file} is damaged: {error}") from error
    if missing:
        raise RunError(f"{file} is damaged: it lacks {', '.join(sorted(missing))}")
    if description["format"] > FORMAT:
        raise RunError(f"{file} was written by a newer kgen: upgrade kgen to read it")
    return description  # type: ignore[no-any-return]


def _build(description: dict[str, Any], folder: Path, custom: dict[str, type[Any]]) -> Pipeline:
    def make(kind: str, registered: Any, **wiring: Any) -> Any:
        options = dict(description[kind])
        name = options.pop("name")
        if name in custom:
            wiring = {key: space for key, space in wiring.items() if key in wires(custom[name])}
            return custom[name](**wiring, **dict(option_model(custom[name], name)(**options)))
        if ":" in name:
            raise ConfigError(
                f"{kind} {name} is in no plugin: pass its class, kgen.load(..., custom=[{name.split(':')[1]}])"
            )
        return registered()

    image_space = Space("continuous", tuple(description["image_shape"]))
    encoder = make("encoder", lambda: make_encoder(description["encoder"], captions=None))
    encoder.load_assets(folder / "encoder")
    spaces = {"image_space": image_space, "condition_space": encoder.condition_space}
    decoder = make("decoder", lambda: make_decoder(description["decoder"], **spaces), **spaces)
    decoder.load_assets(folder / "decoder")
    spaces = {"space": decoder.latent_space, "condition_space": encoder.condition_space}
    generator = make("generator", lambda: make_generator(description["generator"], decoder, encoder), **spaces)
    check_fit(encoder, generator, decoder)
    return Pipeline(encoder, generator, decoder, condition_dropout=description["condition_dropout"])
