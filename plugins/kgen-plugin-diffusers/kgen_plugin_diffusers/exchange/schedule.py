"""The noise schedule of a generator, as the configuration of a scheduler of diffusers."""

from __future__ import annotations

from typing import Any

from kgen import ConfigError
from kgen.options import part as option
from kgen.options import plain
from kgen_plugin_diffusers.exchange.latents import BETAS, PREDICTIONS
from kgen_plugin_diffusers.exchange.model import Model

FILE = "scheduler_config.json"

COSINE = "squaredcos_cap_v2"
"""The betas without a range."""

DISCRETE = "diffusion/discrete"
FLOWS = ("diffusion/rectified-flow", "diffusion/shifted-flow")
"""The schedules for which diffusers has a scheduler."""


def scheduler_of(generator: Any) -> Model:
    """The scheduler whose time steps and predictions are those of a generator's network.

    Args:
        generator: A `diffusion/diffusion`.

    Raises:
        ConfigError: diffusers has no scheduler of its schedule and its prediction.
    """
    schedule, prediction = option("diffusion.schedule", generator.schedule), str(plain(generator.prediction))
    names = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    if isinstance(schedule, _class(DISCRETE)) and prediction in names:
        return _model("DDIMScheduler", _discrete(schedule, names[prediction]))
    if type(schedule) in map(_class, FLOWS) and prediction == "velocity":
        shift = float(getattr(schedule, "shift", 1.0))
        return _model("FlowMatchEulerDiscreteScheduler", {"num_train_timesteps": schedule.steps, "shift": shift})
    name = given if isinstance(given := plain(schedule), str) else given["kind"]
    raise ConfigError(
        f"diffusers has no scheduler of schedule '{name}' with prediction '{prediction}', but of 'discrete' with "
        f"{', '.join(map(repr, names))}, and of 'rectified-flow' and 'shifted-flow' with 'velocity'"
    )


def _model(cls: str, config: dict[str, Any]) -> Model:
    return Model(cls, "scheduler", config, {}, file=FILE)


def _discrete(schedule: Any, prediction: str) -> dict[str, Any]:
    """The configuration of a schedule 'discrete', with the spacing that Lin et al. (2024) recommend."""
    betas = next(theirs for theirs, ours in BETAS.items() if ours == schedule.betas)
    ends = {} if betas == COSINE else dict(zip(("beta_start", "beta_end"), schedule.beta_range, strict=True))
    return {
        "num_train_timesteps": schedule.steps,
        "beta_schedule": betas,
        **ends,
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
        "prediction_type": prediction,
        "clip_sample": False,
        "timestep_spacing": "trailing",
    }


def _class(name: str) -> type:
    """The class of a schedule."""
    return type(option("diffusion.schedule", name))
