"""The sample grids of a run, during its training and at its end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kgen.config import RunConfig
from kgen.experiments.directory import RunDirectory
from kgen.experiments.experiment import Experiment
from kgen.experiments.manifest import current_timings
from kgen.experiments.prompts import Prompts, prompts_to_generate
from kgen.pipeline.model import Pipeline
from kgen.reporting.sheets import grid, save_png
from kgen.storage.ownership import IMAGES
from kgen.training.outputs import Sheets


def generate_prompts(config: RunConfig, pipeline: Pipeline, prompts: Prompts) -> np.ndarray:
    """Generates one image per prompt, uint8 (N, H, W, C), with the settings in `sample`."""
    sample = config.sample
    return pipeline.generate(prompts.inputs, seed=sample.seed, shared_noise=sample.shared_noise, **sample.options)


def sample_sheets(experiment: Experiment, directory: RunDirectory, pipeline: Pipeline) -> Sheets:
    """The grids of the run's prompts during the training."""
    config = experiment.config
    prompts = prompts_to_generate(config, experiment.dataset, pipeline.encoder)

    def draw(path: Path) -> Any:
        return save_grid(config, path, prompts.texts, generate_prompts(config, pipeline, prompts))

    return Sheets(directory.samples, "samples", draw)


def render_final(experiment: Experiment, directory: RunDirectory, pipeline: Pipeline) -> None:
    """Writes the final grid, and records the time that it took."""
    began = time.perf_counter()
    prompts = prompts_to_generate(experiment.config, experiment.dataset, pipeline.encoder)
    images = generate_prompts(experiment.config, pipeline, prompts)
    save_grid(experiment.config, directory.final_grid, prompts.texts, images)
    timings = {
        **current_timings(directory.read_manifest("timings")["timings"]),
        "sampling_seconds": round(time.perf_counter() - began, 1),
    }
    directory.update_manifest(timings=timings)


def save_grid(config: RunConfig, path: Path, prompts: Sequence[str], images: np.ndarray) -> Any:
    """Writes images, uint8 (N, H, W, C), with their prompts, as one PNG. Returns the sheet."""
    sheet = grid(images, prompts)
    metadata = {"prompt": "; ".join(prompts), "seed": str(config.sample.seed), "model": config.name}
    metadata |= {IMAGES: str(len(images))} if len(images) > 1 else {}
    save_png(path, sheet, metadata)
    return sheet
