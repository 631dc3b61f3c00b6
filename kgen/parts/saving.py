"""Saves and loads pipelines: the names and options of the parts, their assets and weights. Nothing is unpickled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from kgen.backend.memory import weights_fit
from kgen.backend.precision import precision
from kgen.config.source import to_yaml
from kgen.contracts.decoder import Decoder
from kgen.contracts.encoder import Encoder
from kgen.contracts.generator import Generator
from kgen.errors import ConfigError, RunError, SpaceError
from kgen.options.renamed import rename_keys
from kgen.parts.construction import (
    build_encoder,
    check_fit,
    construct,
    find,
    generator_for,
    make_decoder,
    unregistered,
)
from kgen.parts.description import (
    PARTS,
    DecoderDescription,
    EncoderDescription,
    FolderDescription,
    Part,
    PipelineDescription,
    read_description,
    shorten,
)
from kgen.parts.lora import merged_weights, without_factors
from kgen.plugins.discovery import component_id
from kgen.plugins.hookspecs import API
from kgen.plugins.migrations import positions_became_paths
from kgen.spaces import Space
from kgen.storage.files import atomic_folder, files_in, remove_abandoned, write_text
from kgen.storage.paths import weight_paths
from kgen.storage.weights import WEIGHTS, Arrays, Variables, load_variables, save_variables

PIPELINE, ENCODER, DECODER = "pipeline.yaml", "encoder.yaml", "decoder.yaml"

_SCHEMAS: dict[str, type[FolderDescription]] = {
    PIPELINE: PipelineDescription,
    ENCODER: EncoderDescription,
    DECODER: DecoderDescription,
}


class Assembled(Protocol):
    """The attributes of a pipeline that are saved."""

    encoder: Encoder
    generator: Generator
    decoder: Decoder
    condition_dropout: float


Made = TypeVar("Made", bound=Assembled)


def save(pipeline: Assembled, path: str | Path) -> None:
    """Writes a pipeline to the folder `path`, atomically: `pipeline.yaml`, `weights.safetensors`, and assets.

    A saved pipeline in that folder is replaced. A file, or a folder that contains other files at any depth, is not.

    Raises:
        ConfigError: `path` is a file, or a folder with other files.
        RunError: the disk is full.
    """
    with _described_folder(Path(path), PIPELINE, _describe(pipeline)) as folder:
        for part in PARTS:
            (folder / part).mkdir()
            getattr(pipeline, part).save_assets(folder / part)
        parts = (pipeline.encoder, pipeline.generator, pipeline.decoder)
        save_variables(folder / WEIGHTS, merged_weights(saved_weights(pipeline), parts), {"api": str(API)})


def restore(make: Callable[..., Made], path: str | Path, custom: Sequence[type[Any]] = ()) -> Made:
    """Reads a pipeline that `save` wrote.

    Args:
        make: The class of the pipeline. It takes the three parts and `condition_dropout`, and creates all weights.
        path, custom: See `kgen.load`.

    Raises:
        RunError: there is no pipeline, or it is damaged.
        ConfigError: a plugin that it needs is missing.
    """
    folder = Path(path)
    if (folder / "model" / PIPELINE).is_file():
        folder = folder / "model"
    file = folder / PIPELINE
    if not file.is_file():
        raise RunError(
            f"{folder} holds no trained pipeline ({file.name} is missing): finish its training first, with 'kgen run'"
        )
    description = read_description(file, PipelineDescription)
    known = {f"{cls.__module__}:{cls.__qualname__}": cls for cls in custom}
    try:
        with precision(description.dtype):
            parts = _build(description, folder, known)
            pipeline = make(*parts, condition_dropout=description.condition_dropout)
    except (ConfigError, SpaceError) as error:
        raise type(error)(f"{file}: {shorten(str(error))}") from error
    except ValueError as error:  # options that no space, or no network, can have
        raise RunError(f"{file} is damaged: {error}") from error
    load_variables(folder / WEIGHTS, saved_weights(pipeline), lambda arrays: with_paths(arrays, pipeline))
    return pipeline


def save_decoder(decoder: Decoder, path: str | Path) -> None:
    """Writes a trained decoder to the folder `path`, atomically, as `save` writes a pipeline."""
    description = {
        "api": API,
        "dtype": decoder.dtype_policy.name,
        "image_shape": list(decoder.image_space.shape),
        "decoder": {"name": component_id(decoder), **decoder.config},
    }
    with _described_folder(Path(path), DECODER, description) as folder:
        decoder.save_assets(folder)
        save_variables(folder / WEIGHTS, merged_weights(decoder_weights(decoder), [decoder]), {"api": str(API)})


def load_decoder(path: str | Path, decoder: Decoder) -> Decoder:
    """Loads the assets and weights that `save_decoder` wrote into a decoder that was built from its configuration.

    Raises:
        RunError: the file is damaged, or belongs to a decoder with other options, or for images of another size.
    """
    folder = Path(path)
    description = read_description(folder / DECODER, DecoderDescription)
    _require_same("decoder", decoder, component_id(decoder), description.decoder, folder)
    if description.image_shape != decoder.image_space.shape:
        there, here = ("x".join(map(str, shape)) for shape in (description.image_shape, decoder.image_space.shape))
        raise RunError(f"{folder} holds a decoder for images of {there}, but the run's are {here}: set data.size")
    decoder.load_assets(folder)
    with weights_fit():
        decoder.build(None)
    weights = decoder_weights(decoder)
    groups = {"decoder": decoder.inference_weights}
    load_variables(folder / WEIGHTS, weights, lambda arrays: positions_became_paths(arrays, groups, weights))
    return decoder


def save_encoder(encoder: Encoder, path: str | Path) -> None:
    """Writes a trained encoder to the folder `path`, atomically, as `save` writes a pipeline."""
    description = {
        "api": API,
        "dtype": encoder.dtype_policy.name,
        "encoder": {"name": component_id(encoder), **encoder.config},
    }
    with _described_folder(Path(path), ENCODER, description) as folder:
        (folder / "encoder").mkdir()
        encoder.save_assets(folder / "encoder")
        save_variables(folder / WEIGHTS, merged_weights(encoder_weights(encoder), [encoder]), {"api": str(API)})


def load_encoder_assets(path: str | Path, encoder: Encoder) -> None:
    """Loads the assets that `save_encoder` wrote into an encoder that was built from its configuration.

    Raises:
        RunError: the folder is damaged, or belongs to another encoder, or to one with other options.
    """
    folder = Path(path)
    description = read_description(folder / ENCODER, EncoderDescription)
    name = component_id(encoder)
    trained = find("encoder", description.encoder.name)[0]
    if trained.id != name and trained.load() is encoder.trained_as:
        name = trained.id
    _require_same("encoder", encoder, name, description.encoder, folder)
    encoder.load_assets(folder / "encoder")


def load_encoder_weights(path: str | Path, encoder: Encoder) -> None:
    """Loads the weights that `save_encoder` wrote into an encoder that has the same assets.

    Raises:
        RunError: the file is damaged, or was written for other weights.
    """
    with weights_fit():
        encoder.null_condition()
    load_variables(Path(path) / WEIGHTS, encoder_weights(encoder))


def encoder_weights(encoder: Encoder) -> Variables:
    """The weights of an encoder by paths such as `encoder/tokens`; those of its random generators are left out."""
    return _named("encoder", encoder, encoder.weights)


def saved_weights(pipeline: Assembled) -> Variables:
    """The weights that are saved with a pipeline, by paths such as `generator/model/blocks/0/out/kernel`.

    External weights (`weights_are_external`) are left out, and factors of LoRA, which are saved within the kernels.
    """
    groups = _groups(pipeline).items()
    named = (_named(kind, getattr(pipeline, kind), variables) for kind, variables in groups)
    return {path: variable for part in named for path, variable in part.items()}


def decoder_weights(decoder: Decoder) -> Variables:
    """The weights of a decoder that `encode` and `decode` use, by paths such as `decoder/network/out/kernel`."""
    return _named("decoder", decoder, decoder.inference_weights)


def _named(kind: str, part: Any, variables: Sequence[Any]) -> Variables:
    """Weights of a part by their paths, which begin with its kind, without factors of LoRA."""
    return without_factors({f"{kind}/{path}": variable for path, variable in weight_paths(part, variables).items()})


def with_paths(arrays: Arrays, pipeline: Assembled) -> Arrays:
    """The arrays of a file of weights by their paths in this pipeline; older files have numbers instead of paths."""
    return positions_became_paths(arrays, _groups(pipeline), saved_weights(pipeline))


def _groups(pipeline: Assembled) -> dict[str, list[Any]]:
    """The saved weights by part, in the order of the layers that hold them."""
    encoders = [part for part in pipeline.encoder.parts() if not part.weights_are_external]
    return {
        "encoder": [weight for part in encoders for weight in part.weights],
        "generator": list(pipeline.generator.weights),
        "decoder": [] if pipeline.decoder.weights_are_external else pipeline.decoder.inference_weights,
    }


def _require_same(kind: str, part: Encoder | Decoder, name: str, description: Part, folder: Path) -> None:
    """Raises RunError if a folder holds a part of another name, or with other options."""
    wanted, found = {"name": name, **part.config}, description.choice
    rename_keys(found, part.renamed, str(folder))
    if odd := [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]:
        raise RunError(f"{folder} holds another {kind} than the run's: it differs in {', '.join(odd[:5])}")


@contextmanager
def _described_folder(path: Path, name: str, description: dict[str, Any]) -> Iterator[Path]:
    """Yields a new folder, which replaces `path` after the block. The file `name` describes it, and lists its files."""
    if path.suffix in (".keras", ".h5"):
        raise ConfigError(f"kgen saves into a folder, not into a file of Keras: give '{path.with_suffix('')}'")
    remove_abandoned(path.parent)
    with atomic_folder(path, owned=lambda folder: _owned(folder / name)) as folder:
        yield folder
        files = [name, *files_in(folder)]
        write_text(folder / name, to_yaml({**description, "files": files}))


def _owned(file: Path) -> list[str]:
    """The files that a folder's description lists; an empty list if there is no description."""
    try:
        return list(read_description(file, _SCHEMAS[file.name]).files)
    except RunError:
        return []


def _describe(pipeline: Assembled) -> dict[str, Any]:
    parts = {kind: getattr(pipeline, kind) for kind in PARTS}
    return {
        "api": API,
        "dtype": pipeline.generator.dtype_policy.name,
        "condition_dropout": pipeline.condition_dropout,
        "image_shape": list(pipeline.decoder.image_space.shape),
        **{kind: {"name": component_id(part), **part.config} for kind, part in parts.items()},
    }


def _build(
    description: PipelineDescription, folder: Path, custom: dict[str, type[Any]]
) -> tuple[Encoder, Generator, Decoder]:
    """Builds the three parts and loads their assets."""

    def make(kind: Any, registered: Any, **wiring: Any) -> Any:
        choice = getattr(description, kind)
        if (cls := unregistered(kind, choice.name, custom)) is not None:
            return construct(kind, choice.name, cls, choice.options, wiring)
        return registered(choice.choice)

    image_space = Space("continuous", description.image_shape)
    encoder = build_encoder(description.encoder.choice, custom)
    encoder.load_assets(folder / "encoder")
    spaces: dict[str, Any] = {"image_space": image_space, "condition_space": encoder.condition_space}
    given = {**spaces, "encoder": encoder}
    decoder = make("decoder", lambda choice: make_decoder(choice, **given), **given)
    decoder.load_assets(folder / "decoder")
    spaces = {"space": decoder.latent_space, "condition_space": encoder.condition_space}
    generator = make("generator", lambda choice: generator_for(choice, decoder, encoder), **spaces)
    generator.load_assets(folder / "generator")
    check_fit(encoder, generator, decoder)
    return encoder, generator, decoder
