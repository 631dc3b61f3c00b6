"""Starts a training from weights of before: `init` in a run file, for the pipeline and for its decoder's stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kgen.config import InitConfig
from kgen.contracts.decoder import Decoder
from kgen.contracts.encoder import Encoder
from kgen.errors import ConfigError, KgenError
from kgen.experiments.directory import RunDirectory
from kgen.parts.initial import InitialWeights, assign_weights
from kgen.parts.saving import decoder_weights, saved_weights, with_paths
from kgen.parts.sources import WeightSource, check_assets, load_assets, takes_assets
from kgen.pipeline.model import Pipeline
from kgen.plugins.migrations import positions_became_paths
from kgen.storage.weights import Arrays, Variables

PARTS = ("encoder", "generator")
"""The parts whose weights `init` takes; a decoder is taken by `decoder: {from: RUN}`, or starts from `decoder.init`."""

MAX_NAMED = 10
"""Weights that a run names when it begins; its manifest names all."""


@dataclass(frozen=True)
class Start:
    """Which weights a training starts from."""

    sources: Sequence[tuple[WeightSource, InitialWeights]]

    @property
    def fresh(self) -> list[str]:
        """The weights that are taken from nowhere."""
        taken = {path for _, weights in self.sources for path in weights.taken}
        return sorted({path for _, weights in self.sources for path in weights.fresh} - taken)

    def lines(self) -> Iterator[str]:
        """What a run says of it."""
        for source, weights in self.sources:
            yield f"{len(weights.taken):,} weights are those of {source.path}"
        for what, paths in (("begin anew", self.fresh), ("are not taken", self._unused())):
            if self.sources and paths:
                more = f", and {len(paths) - MAX_NAMED:,} more" if len(paths) > MAX_NAMED else ""
                yield f"{len(paths):,} weights {what}: {', '.join(paths[:MAX_NAMED])}{more}"

    def describe(self) -> dict[str, Any]:
        """For the manifest."""
        sources = [
            {"from": str(source.path), "step": _step(source), "weights": source.digest, "taken": len(weights.taken)}
            for source, weights in self.sources
        ]
        return {"sources": sources, "fresh": self.fresh, "unused": self._unused()}

    def _unused(self) -> list[str]:
        return sorted({path for _, weights in self.sources for path in weights.unused})


def initial_assets(sources: Sequence[InitConfig], encoder: Encoder) -> bool:
    """Gives an encoder what a source's learned from its captions, so that the weights fit.

    Returns:
        Whether there is such a source: else the encoder has yet to learn from captions.

    Raises:
        RunError: a source has no weights, or is of another encoder.
    """
    for source in sources:
        if takes_assets(source.include, source.exclude):
            with _naming("init"):
                if load_assets(encoder, WeightSource(Path(source.source))):
                    return True
    return False


def load_initial(sources: Sequence[InitConfig], pipeline: Pipeline) -> Start:
    """Gives a pipeline the weights of its encoder and generator that `init` names.

    Raises:
        RunError: the weights do not fit; all that do not are named. ConfigError: a pattern fits nothing.
    """
    weights = {path: v for path, v in saved_weights(pipeline).items() if path.partition("/")[0] in PARTS}
    return _load("init", sources, weights, lambda arrays: with_paths(arrays, pipeline), pipeline.encoder)


def load_initial_decoder(sources: Sequence[InitConfig], decoder: Decoder) -> Start:
    """As `load_initial`, the weights of a decoder that `decoder.init` names, before it is trained."""
    weights, groups = decoder_weights(decoder), {"decoder": decoder.inference_weights}
    return _load("decoder.init", sources, weights, lambda arrays: positions_became_paths(arrays, groups, weights))


def _load(
    key: str,
    sources: Sequence[InitConfig],
    weights: Variables,
    migrated: Callable[[Arrays], Arrays],
    encoder: Encoder | None = None,
) -> Start:
    loaded: list[tuple[WeightSource, InitialWeights]] = []
    with _naming(key):
        for source in sources:
            found = WeightSource(Path(source.source))
            if encoder is not None and takes_assets(source.include, source.exclude):
                check_assets(encoder, found)
            made = assign_weights(weights, found, source.include, source.exclude, migrated)
            for other, before in loaded:
                if twice := sorted({*made.taken} & {*before.taken}):
                    raise ConfigError(
                        f"{twice[0]} would be taken from {other.path} and from {found.path}: exclude it from one"
                    )
            loaded.append((found, made))
    return Start(loaded)


@contextmanager
def _naming(key: str) -> Iterator[None]:
    """Begins the message of an error with the key of the run file."""
    try:
        yield
    except KgenError as error:
        raise type(error)(f"{key}: {error}") from error


def _step(source: WeightSource) -> int | None:
    """The step of the run that made the weights; None where they are no run's."""
    run = RunDirectory(source.path)
    return run.read_manifest().get("step") if run.config.is_file() else None
