"""Captioning, with a pipeline whose prompts represent images, and whose images represent texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kgen.config import RunConfig
from kgen.contracts.dataset import Dataset
from kgen.contracts.decoder import Decoder
from kgen.errors import ConfigError
from kgen.experiments.directory import RunDirectory
from kgen.parts.construction import make_dataset
from kgen.pipeline.loading import load
from kgen.pipeline.model import Pipeline
from kgen.plugins.discovery import component_id


def open_captioner(path: str | Path) -> tuple[Pipeline, Dataset]:
    """Opens the pipeline of a finished run, and its dataset, which turns images into prompts.

    Raises:
        RunError: this is not a run, or it is not finished.
        ConfigError: the run does not caption images.
    """
    directory = RunDirectory(path)
    directory.require_run()
    dataset = make_dataset(RunConfig.load(directory.config).data.choice)
    if dataset.prompt_space is None:
        raise ConfigError(
            f"the prompts of {path} are texts that people write, its dataset is '{component_id(dataset)}': "
            "give a run whose dataset makes prompts of images"
        )
    pipeline = load(path)
    if type(pipeline.decoder).text_of is Decoder.text_of:
        raise ConfigError(f"decoder '{component_id(pipeline.decoder)}' of {path} does not generate texts")
    return pipeline, dataset


def caption(
    pipeline: Pipeline, dataset: Dataset, images: Sequence[np.ndarray], *, seed: int = 0, **options: Any
) -> list[str]:
    """Generates captions of images.

    Args:
        pipeline, dataset: The result of `open_captioner`.
        images: uint8 arrays of the shape of `dataset.prompt_space`.
        seed: The seed of the noise.
        **options: As in `Pipeline.generate`.

    Returns:
        One text per image.
    """
    drawn = pipeline.generate([dataset.prompt_of(image) for image in images], seed=seed, **options)
    return [pipeline.decoder.text_of(writing) for writing in drawn]
