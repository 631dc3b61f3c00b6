"""The images that a run shows: rendered of its prompts while it trains, and at its end."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kgen.config import RunConfig
from kgen.pipeline.pipeline import Pipeline
from kgen.reporting.sheets import grid, save_png
from kgen.runs.directory import RunDirectory
from kgen.runs.experiment import Experiment
from kgen.runs.prompts import Prompts, prompts_to_generate
from kgen.runs.trainer import Render
from kgen.storage.ownership import IMAGES
from kgen.training.journal import Journal


def generate_prompts(config: RunConfig, pipeline: Pipeline, prompts: Prompts) -> np.ndarray:
    """One image of each prompt, as `sample` says: uint8 (N, H, W, C)."""
    sample = config.sample
    return pipeline.generate(prompts.inputs, seed=sample.seed, shared_noise=sample.shared_noise, **sample.options)


def renderer(experiment: Experiment, directory: RunDirectory, pipeline: Pipeline) -> Render:
    """What renders a grid of the run's prompts in the course of its training."""
    config = experiment.config
    prompts = prompts_to_generate(config, experiment.dataset, pipeline.encoder)

    def render(step: int, suffix: str, journal: Journal) -> None:
        images = generate_prompts(config, pipeline, prompts)
        sheet = save_grid(config, directory.samples / f"step-{step:08d}{suffix}.png", prompts.texts, images)
        buffer = io.BytesIO()
        sheet.save(buffer, format="PNG")
        journal.image(step, f"samples{suffix}", buffer.getvalue(), sheet.size)

    return render


def render_final(experiment: Experiment, directory: RunDirectory, pipeline: Pipeline) -> None:
    """Writes the last grid, and how long it took."""
    began = time.perf_counter()
    prompts = prompts_to_generate(experiment.config, experiment.dataset, pipeline.encoder)
    images = generate_prompts(experiment.config, pipeline, prompts)
    save_grid(experiment.config, directory.final_grid, prompts.texts, images)
    timings = {
        **directory.read_manifest("timings")["timings"],
        "drawing_seconds": round(time.perf_counter() - began, 1),
    }
    directory.update_manifest(timings=timings)


def save_grid(config: RunConfig, path: Path, prompts: Sequence[str], images: np.ndarray) -> Any:
    """Writes images uint8 (N, H, W, C), each with its prompt, as one PNG; returns it."""
    sheet = grid(images, prompts)
    metadata = {"prompt": "; ".join(prompts), "seed": str(config.sample.seed), "model": config.name}
    metadata |= {IMAGES: str(len(images))} if len(images) > 1 else {}
    save_png(path, sheet, metadata)
    return sheet
