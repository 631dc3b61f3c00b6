"""The encoder and the generator of a run file for a pipeline with a U-Net: Stable Diffusion 1, 2 or XL."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kgen import ConfigError
from kgen.pretrained import Section
from kgen_plugin_diffusers.folder import Folder
from kgen_plugin_diffusers.unet.architecture import Architecture
from kgen_plugin_diffusers.unet.options import MODEL, PARTS

TEXTS = {"CLIPTextModel", "CLIPTextModelWithProjection"}
"""The classes of the text encoders that kgen reads."""

BETAS = {"scaled_linear": "scaled-linear", "linear": "linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
"""diffusers' names of schedules and of predictions, and those of kgen."""

FIT = """fit:
  steps: 1000
  batch_size: 4
  learning_rate: 1.0e-5
  trainable: [generator/model/network/*/attn2/kv]  # the matrices that read the text; leave this out to train all
"""


def used_parts(classes: Mapping[str, str]) -> list[str]:
    """The parts of a pipeline that make its latents: a U-Net, its schedule and its text encoders; or none.

    Args:
        classes: The class of each part of the pipeline, by its name.
    """
    texts = sorted(part for part, cls in classes.items() if cls in TEXTS)
    unet = next((part for part in PARTS if classes.get(part) == MODEL), None)
    return [unet, "scheduler", *texts] if unet and texts and "scheduler" in classes else []


def latent_side(folder: Path) -> int:
    """Height and width of the latents on which the U-Net of a pipeline was trained."""
    return Folder(str(folder), MODEL, PARTS).config().whole("sample_size")


def latent_lines(folder: Path, texts: list[str]) -> str:
    """The encoder, the generator and `fit` of a run file.

    Args:
        folder: The folder of the pipeline.
        texts: The names of its text encoders.

    Raises:
        ConfigError: kgen does not have the model, or the schedule. The message names the file and the key.
    """
    model = Architecture.read(Folder(str(folder), MODEL, PARTS).config())
    if (len(texts) > 1) != (model.added is not None):
        raise ConfigError(f"{folder}: kgen does not know a U-Net of this kind with {len(texts)} text encoders")
    own = {} if model.added is None else {"skip": 1, "norm": False}
    encoders = [{"name": "clip/text", "pretrained": str(folder / text), **own} for text in texts]
    encoder = encoders[0] if len(encoders) == 1 else {"join": "width", "encoders": encoders}
    schedule, prediction = _schedule(folder / "scheduler" / "scheduler_config.json")
    network = {"kind": "diffusers/unet-2d-condition", "pretrained": str(folder)}
    return (
        f"encoder: {json.dumps(encoder)}\n"
        "generator:\n"
        "  name: diffusion/diffusion\n"
        f"  network: {json.dumps(network)}\n"
        f"  schedule: {json.dumps(schedule)}\n"
        f"  prediction: {prediction}\n"
        "  times: {kind: uniform}\n"
        f"{FIT}"
    )


def _schedule(file: Path) -> tuple[dict[str, Any], str]:
    """The noise schedule of a scheduler, and what its models predict. Keys of its sampling are not read."""
    config = Section.of_file(file)
    betas = config.one_of("beta_schedule", BETAS)
    schedule: dict[str, Any] = {"kind": "discrete", "betas": betas, "steps": config.whole("num_train_timesteps", 1000)}
    if betas != "cosine":
        schedule |= {key: config.number(key) for key in ("beta_start", "beta_end")}
    if config.one_of("rescale_betas_zero_snr", {True: True, False: False}, False):
        schedule["zero_terminal_snr"] = True
    return schedule, config.one_of("prediction_type", PREDICTIONS, "epsilon")
