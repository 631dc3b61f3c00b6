"""Whole text-to-image pipelines generate the same images as in diffusers, from the same noise."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from kgen_plugin_diffusers.exchange.export import export
from kgen_plugin_diffusers.exchange.run_file import run_file
from kgen_plugin_diffusion.discrete import Discrete
from safetensors.numpy import load_file

import kgen
from kgen.config import RunConfig
from kgen.options import part as option
from kgen.options import plain
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


def assembled(folder: Path) -> kgen.Pipeline:
    return kgen.assemble(
        encoder={"name": "clip/text", "pretrained": str(folder)},
        generator={
            "name": "diffusion/diffusion",
            "network": {"kind": "diffusers/unet-2d-condition", "pretrained": str(folder)},
            "schedule": "discrete",
            "prediction": "eps",
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


def theirs(published: ModuleType, pipeline: Any, start: np.ndarray) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        PROMPTS,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        latents=published.as_theirs(start),
        output_type="np",
    )
    return np.round(made.images * 255)


@pytest.mark.parametrize("scheduler", CASES)
def test_images_are_those_of_diffusers(
    scheduler: str, published: ModuleType, pipeline: Any, ours: kgen.Pipeline
) -> None:
    sampler, spacing, options = CASES[scheduler]
    kind = getattr(published.diffusers, scheduler)
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **options)
    compare(published, pipeline, ours, sampler, spacing)


def compare(published: ModuleType, pipeline: Any, ours: kgen.Pipeline, sampler: str, spacing: Any) -> None:
    noise = sample(ours.generator.noise_spec(), noise_keys(PROMPTS, [5, 5], 1, False))["start"]
    expected = theirs(published, pipeline, noise)
    made = ours.generate(PROMPTS, seed=5, sampler=sampler, spacing=spacing, steps=STEPS, guidance=GUIDANCE)
    assert np.abs(made - expected).max() <= 2
    inside = (expected > 0) & (expected < 255)
    assert inside.mean() > 0.9 and expected.std() > 20, "these images would hide a difference"


def imported(published: ModuleType, version: str, folder: Path) -> tuple[Any, kgen.Pipeline]:
    """A pipeline of diffusers, and the same in kgen, as the run file for its folder says."""
    pipeline = published.random_pipeline(version)
    pipeline.save_pretrained(folder)
    text = run_file(folder)
    assert text.startswith(f"# The models of {folder}, a pipeline of diffusers. ") and "does not use" not in text
    config = RunConfig.from_dict(yaml.safe_load(text))
    made = kgen.assemble(
        encoder=config.encoder.choice,
        generator=config.generator.choice,
        decoder=config.decoder.choice,
        image_space=(HEIGHT, WIDTH, 3),
    )
    return pipeline, made


def test_sdxl(published: ModuleType, tmp_path: Path) -> None:
    """Its two encoders are joined in width, and it reads the size of the image. The run file for it says so."""
    compare(published, *imported(published, "xl", tmp_path), "euler", {"kind": "leading", "offset": 1})


@pytest.fixture(scope="module")
def second(published: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, kgen.Pipeline]:
    return imported(published, "2", tmp_path_factory.mktemp("second"))


@pytest.mark.parametrize(
    "scheduler",
    [
        "DDIMScheduler",
        pytest.param("EulerDiscreteScheduler", marks=pytest.mark.slow),
        pytest.param("DPMSolverMultistepScheduler", marks=pytest.mark.slow),
    ],
)
def test_stable_diffusion_2(scheduler: str, published: ModuleType, second: tuple[Any, kgen.Pipeline]) -> None:
    """It predicts v, which the run file says, and each stage of its U-Net has heads of the same width."""
    sampler, spacing, options = CASES[scheduler]
    pipeline, made = second
    pipeline.scheduler = getattr(published.diffusers, scheduler).from_config(pipeline.scheduler.config, **options)
    compare(published, pipeline, made, sampler, spacing)


def test_a_run_file_for_the_pipeline(folder: Path) -> None:
    """It has the models and the schedule of the folder, and only the size of the images differs here."""
    config = RunConfig.from_dict(yaml.safe_load(run_file(folder)))
    assert config.encoder.choice == {"name": "clip/text", "pretrained": str(folder / "text_encoder")} | {
        "variant": None,
        "skip": 0,
        "norm": True,
    }
    assert config.data.options["size"] == 16  # sample_size 8, and the factor 2
    assert config.decoder.choice["pretrained"] == str(folder)
    generator = kgen.make_generator(
        config.generator.choice, kgen.Space("continuous", (8, 12, 4), bounded=False), kgen.ConditionSpace(20, 6)
    )
    assert plain(generator._schedule) == plain(Discrete(betas="scaled-linear", beta_start=0.00085, beta_end=0.012))
    assert config.generator.options["prediction"] == "eps"
    assert config.fit.trainable == ("generator/model/network/*/attn2/kv",)


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_the_noise_schedule_of_a_folder(betas: str, zero_snr: bool, folder: Path, tmp_path: Path) -> None:
    import diffusers

    shutil.copytree(folder, tmp_path / "copied")
    there = diffusers.DDIMScheduler(200, beta_schedule=betas, rescale_betas_zero_snr=zero_snr)
    there.save_pretrained(tmp_path / "copied" / "scheduler")
    config = RunConfig.from_dict(yaml.safe_load(run_file(tmp_path / "copied")))
    schedule = option("diffusion.schedule", config.generator.options["schedule"])
    np.testing.assert_allclose(schedule.alphas_cumprod(), there.alphas_cumprod.numpy(), rtol=1e-4, atol=1e-7)


def test_the_exported_network_is_that_of_the_folder(ours: kgen.Pipeline, folder: Path, tmp_path: Path) -> None:
    import diffusers

    kgen.save(ours, tmp_path / "saved")
    models, reasons = export(tmp_path / "saved", tmp_path / "exported")
    assert set(models) == {"generator", "decoder", "noise schedule"} and set(reasons) == {"encoder"}
    noises = [diffusers.DDIMScheduler.from_pretrained(path / "scheduler") for path in (tmp_path / "exported", folder)]
    np.testing.assert_allclose(noises[0].alphas_cumprod, noises[1].alphas_cumprod, rtol=1e-6)
    mine, its = (
        load_file(path / "unet" / "diffusion_pytorch_model.safetensors") for path in (tmp_path / "exported", folder)
    )
    assert mine.keys() == its.keys()
    for tensor in its:
        np.testing.assert_array_equal(mine[tensor], its[tensor])
    assert (
        diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "exported", subfolder="unet").config.in_channels == 4
    )
