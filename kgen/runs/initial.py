"""Starts a training from the weights of another run: `init: RUN` in a run file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kgen.config import RunConfig
from kgen.contracts.encoder import Encoder
from kgen.errors import RunError
from kgen.parts.saving import saved_weights
from kgen.pipeline.model import Pipeline
from kgen.runs.directory import RunDirectory
from kgen.storage.weights import load_groups

PARTS = ("encoder", "generator")
"""The parts whose weights are taken; a decoder is taken by `decoder: {from: RUN}`."""


def initial_assets(config: RunConfig, encoder: Encoder) -> None:
    """Gives an encoder what the other run's learned from its captions, so that the weights fit.

    Raises:
        RunError: the other run has no trained pipeline, or other components.
    """
    encoder.load_assets(_other_run(config).model / "encoder")


def load_initial(config: RunConfig, pipeline: Pipeline) -> None:
    """Gives a pipeline the other run's weights of the encoder and the generator.

    Raises:
        RunError: a weight is missing on either side, or its shape differs; all such weights are named.
    """
    other = _other_run(config)
    weights = {name: variables for name, variables in saved_weights(pipeline).items() if name in PARTS}
    try:
        load_groups(other.model / "weights.safetensors", weights)
    except RunError as error:
        raise RunError(f"init: the weights of {other.path} do not fit this run:\n  {error}") from error


def describe_initial(config: RunConfig) -> dict[str, object]:
    """For the manifest: which weights training started from."""
    other = _other_run(config)
    with (other.model / "weights.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"run": str(other.path), "step": other.read_manifest().get("step", 0), "weights": digest}


def _other_run(config: RunConfig) -> RunDirectory:
    other = RunDirectory(Path(str(config.init)))
    other.require_run()
    if not (other.model / "weights.safetensors").is_file():
        raise RunError(f"init: {other.path} has no trained pipeline: finish its training first")
    theirs = RunConfig.load(other.config)
    for part in PARTS:
        here, there = getattr(config, part).name, getattr(theirs, part).name
        if here != there:
            raise RunError(f"init: the {part} of {other.path} is '{there}', but this run's is '{here}'")
    return other
