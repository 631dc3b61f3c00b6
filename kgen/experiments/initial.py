"""Starts the training of a pipeline, or of its encoder or decoder, from saved weights or from a LoRA file.

These are `init` and `fit.lora.from` in a run file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras

from kgen.config import FitConfig, InitConfig
from kgen.config.staged import STAGED
from kgen.contracts.decoder import Decoder
from kgen.contracts.encoder import Encoder, trained_before
from kgen.errors import ConfigError, KgenError
from kgen.experiments.directory import RunDirectory
from kgen.parts.initial import InitialWeights, assign_weights
from kgen.parts.lora import lora_kernels
from kgen.parts.lora_files import init_lora, lora_digest, require_lora
from kgen.parts.saving import decoder_weights, encoder_weights, saved_weights, with_paths
from kgen.parts.sources import WeightSource, load_assets, takes_assets
from kgen.pipeline.model import Pipeline
from kgen.plugins.migrations import positions_became_paths
from kgen.plugins.models import find_run
from kgen.storage.weights import STAGES, Arrays, Variables

PARTS = ("encoder", "generator")
"""The parts that `init` gives weights; a part that is trained in a stage has its own `from` and `init`."""

MAX_NAMED = 10
"""Number of weights that a line of the log names; the manifest names all of them."""


@dataclass(frozen=True)
class LoraStart:
    """The LoRA file with which a training starts.

    Args:
        file: The file, or a folder of PEFT.
        digest: SHA-256 of its weights; see `lora_digest`.
        taken: The paths of the kernels whose factors are from it.
        fresh: Those of the kernels whose factors are new.
    """

    file: Path
    digest: str
    taken: Sequence[str]
    fresh: Sequence[str]

    def describe(self) -> dict[str, Any]:
        """The entry of the manifest."""
        return {"from": str(self.file), "weights": self.digest, "fresh": list(self.fresh)}


@dataclass(frozen=True)
class Start:
    """The weights with which a training starts.

    Args:
        sources: The sources, each with the paths of its weights.
        lora: The LoRA file; None: there is none.
    """

    sources: Sequence[tuple[WeightSource, InitialWeights]] = ()
    lora: LoraStart | None = None

    def __bool__(self) -> bool:
        return bool(self.sources) or self.lora is not None

    @property
    def fresh(self) -> list[str]:
        """The weights that come from no source."""
        taken = {path for _, weights in self.sources for path in weights.taken}
        return sorted({path for _, weights in self.sources for path in weights.fresh} - taken)

    def lines(self) -> Iterator[str]:
        """The lines of the log."""
        for source, weights in self.sources:
            yield f"{len(weights.taken):,} weights come from {source.path}"
        for what, paths in (
            ("weights are newly initialized", self.fresh),
            ("saved weights are not used", self._unused()),
        ):
            if self.sources and paths:
                more = f", and {len(paths) - MAX_NAMED:,} more" if len(paths) > MAX_NAMED else ""
                yield f"{len(paths):,} {what}: {', '.join(paths[:MAX_NAMED])}{more}"
        if self.lora is not None:
            new = f"; that of {len(self.lora.fresh):,} others is new" if self.lora.fresh else ""
            yield f"the LoRA of {len(self.lora.taken):,} dense layers comes from {self.lora.file}{new}"

    def describe(self) -> dict[str, Any]:
        """The entry of the manifest."""
        sources = [
            {"from": str(source.path), "step": _step(source), "weights": source.digest, "taken": len(weights.taken)}
            for source, weights in self.sources
        ]
        lora = {} if self.lora is None else {"lora": self.lora.describe()}
        return {"sources": sources, "fresh": self.fresh, "unused": self._unused(), **lora}

    def _unused(self) -> list[str]:
        return sorted({path for _, weights in self.sources for path in weights.unused})


def initial_assets(sources: Sequence[InitConfig], encoder: Encoder) -> bool:
    """Loads the encoder's assets, such as its vocabulary, from the first source that has them, so that weights fit.

    Returns:
        Whether a source has assets. If not, `adapt` of the encoder must still be called.

    Raises:
        RunError: a source has no weights, or the weights of another encoder.
    """
    return not _has_stage(encoder) and _initial_assets("init", sources, encoder, STAGES)


def initial_stage_assets(sources: Sequence[InitConfig], encoder: Encoder) -> bool:
    """Loads the assets of an encoder that is trained in a stage, as `encoder.init` specifies; see `initial_assets`."""
    return _initial_assets("encoder.init", sources, encoder, ("encoder",))


def load_initial(sources: Sequence[InitConfig], pipeline: Pipeline) -> Start:
    """Loads weights of a pipeline's encoder and generator, as `init` specifies, but not of an encoder with a stage.

    Raises:
        RunError: weights do not fit. The message names them.
        ConfigError: a pattern matches nothing, or two sources give the same weight.
    """
    parts = PARTS[1:] if _has_stage(pipeline.encoder) else PARTS
    weights = {path: v for path, v in saved_weights(pipeline).items() if path.partition("/")[0] in parts}
    return _load("init", sources, weights, lambda arrays: with_paths(arrays, pipeline), pipeline.encoder)


def load_initial_encoder(sources: Sequence[InitConfig], encoder: Encoder) -> Start:
    """Loads weights of an encoder before its training, as `encoder.init` specifies; see `load_initial`."""
    return _load("encoder.init", sources, encoder_weights(encoder), lambda arrays: arrays, encoder, ("encoder",))


def load_initial_decoder(sources: Sequence[InitConfig], decoder: Decoder) -> Start:
    """Loads weights of a decoder before its training, as `decoder.init` specifies; see `load_initial`."""
    weights, groups = decoder_weights(decoder), {"decoder": decoder.inference_weights}
    migrate = lambda arrays: positions_became_paths(arrays, groups, weights)  # noqa: E731
    return _load("decoder.init", sources, weights, migrate, stages=("decoder",))


def with_initial_lora(start: Start, key: str, fit: FitConfig, model: keras.Model) -> Start:
    """Loads the factors of the LoRA file that `fit.lora.from` names into a model with LoRA.

    Args:
        start: The other weights with which the training starts.
        key: The key of `fit` in the run file, such as "decoder.fit".
        fit: The settings of the training.
        model: The model.

    Returns:
        The start with the LoRA file, if there is one.

    Raises:
        ConfigError, RunError: see `kgen.init_lora`.
    """
    if fit.lora is None or fit.lora.source is None:
        return start
    with _naming(f"{key}.lora"):
        taken, digest = init_lora(model, fit.lora.source), lora_digest(fit.lora.source)
    fresh = sorted(lora_kernels(model).keys() - {*taken})
    return replace(start, lora=LoraStart(Path(fit.lora.source), digest, taken, fresh))


def check_initial_lora(key: str, fit: FitConfig | None) -> None:
    """Raises an error if the LoRA file of a later training does not exist, or cannot be read."""
    if fit is not None and fit.lora is not None and fit.lora.source is not None:
        with _naming(f"{key}.lora"):
            require_lora(fit.lora.source)


def _has_stage(encoder: Encoder) -> bool:
    """Whether an encoder's weights are trained, or read from files, in a stage before the generator's training."""
    return trained_before(type(encoder)) or encoder.is_pretrained(encoder.config)


def _initial_assets(key: str, sources: Sequence[InitConfig], encoder: Encoder, stages: Sequence[str]) -> bool:
    for source in sources:
        if takes_assets(source.include, source.exclude):
            with _naming(key):
                if load_assets(encoder, WeightSource(find_run(source.source), stages)):
                    return True
    return False


def _load(
    key: str,
    sources: Sequence[InitConfig],
    weights: Variables,
    migrate: Callable[[Arrays], Arrays],
    encoder: Encoder | None = None,
    stages: Sequence[str] = STAGES,
) -> Start:
    loaded: list[tuple[WeightSource, InitialWeights]] = []
    with _naming(key):
        for source in sources:
            found = WeightSource(find_run(source.source), stages)
            made = assign_weights(weights, found, source.include, source.exclude, migrate, encoder)
            for other, before in loaded:
                if twice := sorted({*made.taken} & {*before.taken}):
                    raise ConfigError(
                        f"both {other.path} and {found.path} give {twice[0]}: exclude it from one of them"
                    )
            loaded.append((found, made))
    return Start(loaded)


@contextmanager
def _naming(key: str) -> Iterator[None]:
    """Puts the key of the run file at the beginning of error messages."""
    try:
        yield
    except KgenError as error:
        raise type(error)(f"{key}: {error}") from error


def _step(source: WeightSource) -> int | None:
    """The last step of the training that the weights are from; None if they are not from a run."""
    run = RunDirectory(source.path)
    if not run.config.is_file():
        return None
    stages = (run.stage(kind) for kind in STAGED)
    training = next((stage for stage in stages if source.file.is_relative_to(stage.path)), run)
    return training.read_manifest().get("step")
