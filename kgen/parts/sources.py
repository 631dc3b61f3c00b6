"""The sources of trained weights: a run, a saved pipeline, encoder or decoder, or a file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from kgen.contracts.encoder import Encoder
from kgen.errors import RunError
from kgen.parts.description import DecoderDescription, EncoderDescription, PipelineDescription, read_description
from kgen.parts.lora import is_factor
from kgen.parts.patterns import select
from kgen.parts.saving import DECODER, ENCODER, PIPELINE
from kgen.plugins.discovery import component_id
from kgen.storage.files import files_in
from kgen.storage.weights import RANDOM_STATE, STAGES, Arrays, file_digest, find_weights, read_arrays

ASSETS = "encoder/assets"
"""Stands in patterns for the encoder's assets, such as its vocabulary."""

OTHER_ENCODER = "to use another encoder, exclude encoder/*"


@dataclass(frozen=True)
class WeightSource:
    """Weights on disk.

    Args:
        path: A file of weights; a folder that `kgen.save` wrote; a run directory, or its folder `encoder` or `decoder`.
        stages: If the generator of a run is not trained yet, the weights are those of the first of these parts that is
            trained.

    Raises:
        RunError: there are no weights.
    """

    path: Path
    stages: Sequence[str] = STAGES

    def __post_init__(self) -> None:
        find_weights(self.path, self.stages)

    @property
    def file(self) -> Path:
        """The file of the weights."""
        return find_weights(self.path, self.stages)

    @property
    def digest(self) -> str:
        """SHA-256 of the file, in hexadecimal digits."""
        return file_digest(self.file)

    @property
    def part_names(self) -> dict[str, str]:
        """The full ids of the parts that the weights belong to, by kind; {} if no description is beside the file."""
        folder = self.file.parent
        if (folder / PIPELINE).is_file():
            whole = read_description(folder / PIPELINE, PipelineDescription)
            return {"encoder": whole.encoder.name, "generator": whole.generator.name, "decoder": whole.decoder.name}
        if (folder / ENCODER).is_file():
            return {"encoder": read_description(folder / ENCODER, EncoderDescription).encoder.name}
        if (folder / DECODER).is_file():
            return {"decoder": read_description(folder / DECODER, DecoderDescription).decoder.name}
        return {}

    @property
    def assets(self) -> Path | None:
        """The folder of the encoder's assets; None if there is none beside the file."""
        folder = self.file.parent / "encoder"
        return folder if folder.is_dir() else None

    def read(self, parts: Collection[str], migrate: Callable[[Arrays], Arrays]) -> Arrays:
        """Reads the weights of some parts, by path.

        Args:
            parts: The kinds of the parts.
            migrate: Converts the names of an older file to paths.

        Raises:
            RunError: the file is damaged, or contains no weights of these parts.
        """
        arrays = migrate(read_arrays(self.file)[0])
        if any("/" not in name for name in arrays):
            raise RunError(
                f"{self.file} was saved before weights had paths, by a model that is built differently: save it "
                f"again, kgen.load({str(self.path)!r}).save(FOLDER), and take the weights from there"
            )
        found = {name: array for name, array in arrays.items() if name.partition("/")[0] in parts}
        if any(map(is_factor, found)):
            raise RunError(f"{self.file} contains only the LoRA of a training: give its run, which has all weights")
        if not found:
            raise RunError(f"{self.file} contains no weights of {' or '.join(f'{part}/*' for part in sorted(parts))}")
        return {name: array for name, array in found.items() if not name.endswith(f"/{RANDOM_STATE}")}


def takes_assets(include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether patterns select the encoder's assets."""
    return bool(select([ASSETS], include, exclude))


def load_assets(encoder: Encoder, source: WeightSource) -> bool:
    """Loads the assets of the source's encoder. Returns False if the source has no assets.

    Raises:
        RunError: the source has another encoder.
    """
    _require_same(encoder, source)
    if source.assets is None:
        return False
    encoder.load_assets(source.assets)
    return True


def check_assets(encoder: Encoder, source: WeightSource) -> None:
    """Raises RunError if the source has another encoder, or its encoder has other assets or none."""
    _require_same(encoder, source)
    with tempfile.TemporaryDirectory() as folder:
        encoder.save_assets(folder)
        for name in files_in(Path(folder)):
            if source.assets is None:
                raise RunError(
                    f"{source.path} does not contain the assets of its encoder ({name}): give the run or the saved "
                    f"pipeline; {OTHER_ENCODER}; if the assets are the same, exclude {ASSETS}"
                )
            if not _same(Path(folder) / name, source.assets / name):
                raise RunError(
                    f"the encoder of {source.path} has other assets ({name}): use that encoder, "
                    f"kgen.load({str(source.path)!r}).encoder; {OTHER_ENCODER}"
                )


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()


def _require_same(encoder: Encoder, source: WeightSource) -> None:
    here, there = component_id(encoder), source.part_names.get("encoder")
    if there is not None and here != there:
        raise RunError(f"the encoder of {source.path} is '{there}', not '{here}': {OTHER_ENCODER}")
