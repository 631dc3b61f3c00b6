"""Whole text-to-image pipelines generate the same images as in diffusers, from the same noise."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import kgen
from kgen.random import noise_keys, sample

pytestmark = pytest.mark.portable

PROMPTS = ["a red heart", "Hearts,  & more"]
HEIGHT, WIDTH, STEPS, GUIDANCE = 16, 24, 16, 3.0  # from 15 steps on, diffusers' DPM-Solver keeps its order at the end

CASES: dict[str, tuple[str, Any, Any]] = {
    "DDIMScheduler": ("ddim", {"kind": "leading", "offset": 1, "clean_end": False}, {"clip_sample": False}),
    "PNDMScheduler": ("pndm", {"kind": "leading", "offset": 1, "clean_end": False}, {}),
    "EulerDiscreteScheduler": ("euler", {"kind": "leading", "offset": 1}, {}),
    "DPMSolverMultistepScheduler": ("dpm++2m", {"kind": "leading", "offset": 1, "endpoint": False}, {}),
    "UniPCMultistepScheduler": ("unipc", {"kind": "leading", "offset": 1, "endpoint": False}, {}),
}
"""The scheduler of diffusers, and the sampler and spacing of kgen that equal it."""


@pytest.fixture(scope="module")
def pipeline(published: ModuleType) -> Any:
    return published.random_pipeline()


@pytest.fixture(scope="module")
def folder(pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("pipeline")
    pipeline.save_pretrained(path)
    return path


def assembled(folder: Path, prediction: str = "eps") -> kgen.Pipeline:
    return kgen.assemble(
        encoder={"name": "clip/text", "pretrained": str(folder)},
        generator={
            "name": "diffusion/diffusion",
            "network": {"kind": "diffusers/unet-2d-condition", "pretrained": str(folder)},
            "schedule": "discrete",
            "prediction": prediction,
        },
        decoder={"name": "diffusers/autoencoder-kl", "pretrained": str(folder)},
        image_space=(HEIGHT, WIDTH, 3),
    )


@pytest.fixture(scope="module")
def ours(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> kgen.Pipeline:
    """The pipeline in kgen, which was saved, and loaded without the folder."""
    copied = Path(shutil.copytree(folder, tmp_path_factory.mktemp("copied") / "pipeline"))
    saved = tmp_path_factory.mktemp("saved") / "pipeline"
    kgen.save(assembled(copied), saved)
    shutil.rmtree(copied)
    return kgen.load(saved)


def theirs(published: ModuleType, pipeline: Any, start: np.ndarray, **options: Any) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        PROMPTS,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        latents=published.as_theirs(start),
        output_type="np",
        **options,
    )
    return np.round(made.images * 255)


@pytest.mark.parametrize("scheduler", CASES)
def test_images_are_those_of_diffusers(
    scheduler: str, published: ModuleType, pipeline: Any, ours: kgen.Pipeline
) -> None:
    sampler, spacing, options = CASES[scheduler]
    kind = getattr(published.diffusers, scheduler)
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **options)
    noise = sample(ours.generator.noise_spec(), noise_keys(PROMPTS, [5, 5], 1, False))["start"]
    expected = theirs(published, pipeline, noise)
    made = ours.generate(PROMPTS, seed=5, sampler=sampler, spacing=spacing, steps=STEPS, guidance=GUIDANCE)
    assert np.abs(made - expected).max() <= 2
    inside = (expected > 0) & (expected < 255)
    assert inside.mean() > 0.9 and expected.std() > 20, "these images would hide a difference"
