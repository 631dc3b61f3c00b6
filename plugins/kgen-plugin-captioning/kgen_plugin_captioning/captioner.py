"""Captions images with a trained run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kgen import ConfigError, Pipeline, load, open_dataset
from kgen_plugin_captioning.captions import Captions
from kgen_plugin_captioning.letters import Letters

READ = ("original", "tokens")
"""The fields that are known for an image without a caption."""


def open_captioner(path: str | Path) -> tuple[Pipeline, Captions]:
    """Opens the pipeline of a finished run, and its dataset, which gives the fields of an image that the encoder reads.

    Raises:
        RunError: this is not a run, or it is not finished.
        ConfigError: the run does not caption images.
    """
    dataset = open_dataset(path)
    if not isinstance(dataset, Captions):
        raise ConfigError(
            f"{path} does not caption images: its dataset is {type(dataset).__name__}, but captioning needs "
            "'captioning/captions'"
        )
    pipeline = load(path)
    if not isinstance(pipeline.decoder, Letters):
        raise ConfigError(
            f"{path} does not generate texts: its decoder is {type(pipeline.decoder).__name__}, but captioning needs "
            "'captioning/letters'"
        )
    if other := [field for field in pipeline.encoder.fields if field not in READ]:
        raise ConfigError(f"the encoder of {path} reads '{other[0]}', which an image without a caption does not have")
    return pipeline, dataset


def caption(
    pipeline: Pipeline, dataset: Captions, images: Sequence[np.ndarray], *, seed: int = 0, **options: Any
) -> list[str]:
    """Generates a caption for each image.

    Args:
        pipeline, dataset: The result of `open_captioner`.
        images: uint8 arrays of the shape of `dataset.originals.image_space`.
        seed: The seed of the noise.
        **options: As in `Pipeline.generate`.

    Returns:
        One text per image.
    """
    known = [dataset.fields_of(image) for image in images]
    prompts = [{field: fields[field] for field in pipeline.encoder.fields} for fields in known]
    return [pipeline.decoder.text_of(text) for text in pipeline.generate(prompts, seed=seed, **options)]
