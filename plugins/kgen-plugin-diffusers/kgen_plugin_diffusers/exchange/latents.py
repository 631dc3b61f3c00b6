"""The lines of a run file that make the latents of a published pipeline: its encoder and its generator."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kgen.pretrained import Section

IMAGES = "name: openmoji"
"""An example of a dataset: the keys of `data` in a run file."""

BETAS = {"scaled_linear": "scaled-linear", "linear": "linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
"""diffusers' names of schedules and of predictions, and those of kgen."""


FIT_TEXT = """fit:
  steps: 1000
  batch_size: 4
  learning_rate: 1.0e-5
  trainable: [generator/model/network/*/attn2/kv]  # the matrices that read the text; leave this out to train all
"""
"""A training of the matrices that read the text."""


@dataclass(frozen=True)
class Latents:
    """What a run file needs to make the latents of a pipeline.

    Args:
        used: The parts of the pipeline that are used.
        side: Height and width of the latents in the model's training.
        encoder: The encoder of a run file.
        network: The network of its generator.
        fit: The lines of its training.
        images: Its dataset, without the size of the images: see `IMAGES`.
        notes: Comments for the head of the file, each a line without "# ".
    """

    used: tuple[str, ...]
    side: int
    encoder: Mapping[str, Any]
    network: Mapping[str, Any]
    fit: str
    images: str = IMAGES
    notes: tuple[str, ...] = ()

    def lines(self, folder: Path) -> str:
        """The encoder, the generator and `fit` of a run file.

        Args:
            folder: The folder of the pipeline, which has the noise schedule.

        Raises:
            ConfigError: kgen does not have the schedule. The message names the file and the key.
        """
        schedule, prediction = _schedule(folder / "scheduler" / "scheduler_config.json")
        return (
            f"encoder: {json.dumps(self.encoder)}\n"
            "generator:\n"
            "  name: diffusion/diffusion\n"
            f"  network: {json.dumps(self.network)}\n"
            f"  schedule: {json.dumps(schedule)}\n"
            f"  prediction: {prediction}\n"
            "  times: {kind: uniform}\n"
            f"{self.fit}"
        )


def _schedule(file: Path) -> tuple[dict[str, Any], str]:
    """The noise schedule of a scheduler, and what its models predict. Keys of its sampling are not read."""
    config = Section.of_file(file)
    betas = config.one_of("beta_schedule", BETAS)
    config.one_of("trained_betas", {None: None}, None)
    schedule: dict[str, Any] = {"kind": "discrete", "betas": betas, "steps": config.whole("num_train_timesteps", 1000)}
    if betas != "cosine":
        schedule |= {key: config.number(key) for key in ("beta_start", "beta_end")}
    if config.one_of("rescale_betas_zero_snr", {True: True, False: False}, False):
        schedule["zero_terminal_snr"] = True
    return schedule, config.one_of("prediction_type", PREDICTIONS, "epsilon")
