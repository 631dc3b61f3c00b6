"""The configuration of an evaluation of a trained run: that of the run, with the changes that a user asks for."""

from __future__ import annotations

from collections.abc import Sequence

from kgen.config import LikelihoodConfig, RunConfig
from kgen.config.changes import affects_training
from kgen.config.overrides import Setting, read_overrides
from kgen.config.short_keys import FREE, full_keys, names_of_sampling, with_full_keys
from kgen.config.source import read_file
from kgen.errors import ConfigError, RunError
from kgen.experiments.directory import RunDirectory
from kgen.parts.construction import Choice
from kgen.plugins.discovery import registry


def changed_config(directory: RunDirectory, overrides: Sequence[str]) -> RunConfig:
    """The configuration of a trained run, with overrides.

    A key may be written without its section if only one key of `sample` and `evaluate` ends in it.

    Raises:
        RunError: nothing is trained yet.
        ConfigError: an override is wrong, or affects the training.
    """
    source = read_file(directory.config)
    generator = registry().find("generator", RunConfig.load(directory.config).generator.name).load()
    settings = list(with_full_keys(source, read_overrides(source, overrides), names_of_sampling(generator), FREE))
    source.raise_problems()
    config = RunConfig.from_source(source, settings)
    _require_trained(directory, config)
    if refused := [change for change in directory.changes(config) if change.affects_training]:
        raise ConfigError(
            "an evaluation cannot change settings that affect the training: "
            f"{'; '.join(map(str, refused))}: train another run with 'kgen run'{_hint(settings)}"
        )
    return config


def with_metrics(config: RunConfig, metrics: Sequence[Choice]) -> RunConfig:
    """The configuration with these metrics in place of its own; the same configuration if there are none."""
    if not metrics:
        return config
    data = config.dump()
    data["evaluate"] |= {"metrics": list(metrics), "likelihood": LikelihoodConfig().model_dump()}
    return RunConfig.from_dict(data)


def united(config: RunConfig, other: RunConfig) -> RunConfig:
    """A configuration with the metrics of another one, too. These replace metrics of the same name."""
    new = {metric.name: metric for metric in other.evaluate.metrics}
    metrics = {metric.name: metric for metric in config.evaluate.metrics} | new
    evaluate = config.evaluate.model_copy(update={"metrics": tuple(metrics.values())})
    return config.model_copy(update={"evaluate": evaluate})


def _hint(settings: Sequence[Setting]) -> str:
    """Names the keys of `sample` and `evaluate` that end in a key of the training, such as "seed"."""
    keys = [key for setting in settings if affects_training(setting.key) for key in full_keys(setting.key, ())]
    return f", or change {' or '.join(dict.fromkeys(keys))}" if keys else ""


def _require_trained(directory: RunDirectory, config: RunConfig) -> None:
    """Raises RunError if nothing is trained yet, and ConfigError if the configuration has more steps than trained."""
    step = directory.read_manifest().get("step", 0)
    if not directory.is_trained(max(1, step)):
        raise RunError(f"{directory.path} holds no trained pipeline: finish its training first, with 'kgen run'")
    if not directory.is_trained(config.fit.steps):
        raise ConfigError(f"fit.steps: {config.fit.steps} asks for more training: give it to 'kgen run'")
